from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slidepipe import classify
from slidepipe.classify import KnnHead, LogisticHead
from slidepipe.conformal import calibration_scores, check_alpha, folds_within_class, p_values
from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.interfaces import Head
from slidepipe.metric import class_distances, distances, nearest_mean, normalised, shrinkage_lda

GENERA = ("areoligera", "deflandrea", "spiniferites")
Drawing = tuple[np.ndarray, np.ndarray]
HEADS: list[Callable[[], Head]] = [
    KnnHead,
    lambda: KnnHead(KnnHead.Settings(metric="cosine")),
    lambda: KnnHead(KnnHead.Settings(metric="euclidean", weighting="majority", k=3)),
    LogisticHead,
]
every_head = pytest.mark.parametrize("make", HEADS, ids=["lda", "cosine", "euclidean", "logistic"])


def drawn(per_genus: int, seed: int, dim: int = 40, genera: tuple[str, ...] = GENERA) -> Drawing:
    """Clouds around one fixed place a genus, never negative, as a network with a ReLU gives them."""
    places = np.random.default_rng(99).uniform(0.5, 1.5, (8, dim))
    noise = np.random.default_rng(seed).normal(0, 0.15, (len(genera) * per_genus, dim))
    rows = np.repeat(places[: len(genera)], per_genus, axis=0) + noise
    return np.maximum(rows, 0).astype(np.float32), np.repeat(np.array(genera), per_genus)


def debris(count: int, seed: int, dim: int = 40) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(0, 1, (count, dim)) ** 6 * 3).astype(np.float32)


@every_head
def test_it_is_a_head_and_knows_fresh_objects(make):
    embeddings, genera = drawn(20, 0)
    fresh, truth = drawn(40, 1)
    head = make()
    assert isinstance(head, Head)
    decisions = head.fit(embeddings, genera, 0.1).predict(fresh)
    assert (decisions.genus == truth).all()
    assert decisions.accepted.mean() > 0.75
    assert (decisions.p_value[decisions.accepted] > 0.1).all()
    assert (decisions.p_value[~decisions.accepted] <= 0.1).all()


@every_head
def test_debris_is_unknown(make):
    head = make().fit(*drawn(20, 0), 0.1)
    assert not head.predict(debris(50, 3)).accepted.any()


@every_head
def test_neighbours_are_rows_of_the_reference_set_nearest_first(make):
    embeddings, genera = drawn(20, 0)
    decisions = make().fit(embeddings, genera, 0.1).predict(embeddings[:7])
    np.testing.assert_array_equal(decisions.neighbours[:, 0], np.arange(7))
    np.testing.assert_allclose(decisions.neighbour_distances[:, 0], 0, atol=1e-3)
    assert (np.diff(decisions.neighbour_distances, axis=1) >= 0).all()
    np.testing.assert_allclose(decisions.distance, decisions.neighbour_distances[:, 0])


@every_head
def test_missed_fossils_stay_near_alpha(make):
    """The promise of the p-value, for every genus, with references and objects drawn alike."""
    missed = []
    for seed in range(6):
        embeddings, genera = drawn(24, seed)
        fresh, truth = drawn(60, 100 + seed)
        decisions = make().fit(embeddings, genera, 0.2).predict(fresh)
        missed.append([1 - decisions.accepted[truth == genus].mean() for genus in GENERA])
    assert (np.mean(missed, axis=0) < 0.2 + 0.07).all()


@every_head
def test_accepted_objects_only_shrink_as_alpha_grows(make):
    embeddings, genera = drawn(20, 0)
    fresh, _ = drawn(30, 1)
    strict, loose = (make().fit(embeddings, genera, alpha).predict(fresh).accepted for alpha in (0.4, 0.05))
    assert (loose | ~strict).all()
    assert loose.sum() > strict.sum()


@every_head
def test_chunks_do_not_change_the_answer(make, monkeypatch):
    head = make().fit(*drawn(20, 0), 0.1)
    fresh, _ = drawn(30, 1)
    whole = head.predict(fresh)
    monkeypatch.setattr(classify, "_CHUNK_CELLS", 60 * 7)
    parts = head.predict(fresh)
    np.testing.assert_array_equal(parts.genus, whole.genus)
    np.testing.assert_array_equal(parts.p_value, whole.p_value)
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)


@every_head
def test_nothing_to_decide(make):
    decisions = make().fit(*drawn(20, 0), 0.1).predict(np.zeros((0, 40), np.float32))
    assert decisions.genus.shape == decisions.accepted.shape == (0,)
    assert decisions.neighbours.shape[0] == 0


@every_head
def test_a_reject_class_is_never_accepted(make):
    classes = ("_debris", "areoligera", "deflandrea")
    decisions = make().fit(*drawn(20, 0, genera=classes), 0.1).predict(drawn(40, 1, genera=classes)[0])
    assert (decisions.genus[:40] == "_debris").all()
    assert not decisions.accepted[:40].any()
    assert (decisions.p_value[:40] > 0.1).any()
    assert decisions.accepted[40:].any()


@every_head
def test_a_small_reject_class_does_not_limit_alpha(make):
    fossils, genera = drawn(20, 0)
    head = make().fit(np.concatenate([fossils, debris(1, 3)]), np.append(genera, "_debris"), 0.05)
    assert head.predict(fossils).accepted.any()


@every_head
def test_alpha_finer_than_the_smallest_genus_allows(make):
    embeddings, genera = drawn(20, 0)
    keep = np.arange(60) >= 8  # leaves 12 of areoligera
    with pytest.raises(SettingsError, match=r"areoligera has 12 images.*0\.07692") as error:
        make().fit(embeddings[keep], genera[keep], 0.07)
    assert "\n" not in str(error.value)
    make().fit(embeddings[keep], genera[keep], 1 / 13)


@every_head
def test_embeddings_that_are_not_finite(make):
    embeddings, genera = drawn(20, 0)
    spoilt = embeddings.copy()
    spoilt[5, 3] = np.nan
    with pytest.raises(ReferenceSetError, match="row 5"):
        make().fit(spoilt, genera, 0.1)
    with pytest.raises(ReferenceSetError, match="1 of 60 rows"):
        make().fit(embeddings, genera, 0.1).predict(spoilt)


@every_head
def test_embeddings_of_another_backbone(make):
    with pytest.raises(ReferenceSetError, match=r"\(N, 40\)"):
        make().fit(*drawn(20, 0), 0.1).predict(np.zeros((2, 41), np.float32))


@every_head
def test_the_same_twice(make):
    fresh, _ = drawn(30, 1)
    first, second = (make().fit(*drawn(20, 0), 0.1).predict(fresh) for _ in range(2))
    np.testing.assert_array_equal(first.p_value, second.p_value)
    np.testing.assert_array_equal(first.distance, second.distance)


@pytest.mark.parametrize("make", [KnnHead, LogisticHead])
def test_one_class_needs_another_metric(make):
    embeddings, genera = drawn(20, 0, genera=("azolla",))
    with pytest.raises(ReferenceSetError, match="only azolla"):
        make().fit(embeddings, genera, 0.1)
    plain = KnnHead(KnnHead.Settings(metric="cosine")).fit(embeddings, genera, 0.1)
    assert plain.predict(embeddings).accepted.all()


def test_a_learned_metric_is_calibrated_on_rows_it_has_not_seen():
    """Genera without any difference: a metric calibrated on its own rows would call almost every fresh object strange."""
    rng = np.random.default_rng(5)
    embeddings = rng.normal(0, 1, (60, 200)).astype(np.float32)
    fresh = rng.normal(0, 1, (200, 200)).astype(np.float32)
    decisions = KnnHead().fit(embeddings, np.repeat(np.array(GENERA), 20), 0.2).predict(fresh)
    assert decisions.accepted.mean() > 0.75


def test_majority_and_distance_weighting_can_differ():
    embeddings = np.array([[0.0], [1.0], [1.1], [9.0], [9.0]], np.float32)
    genera = np.array(["near", "far", "far", "near", "far"])
    answers = {}
    for weighting in ("majority", "distance"):
        settings_ = KnnHead.Settings(metric="euclidean", k=3, weighting=weighting)
        head = KnnHead(settings_).fit(embeddings, genera, 0.5)
        answers[weighting] = str(head.predict(np.array([[0.1]], np.float32)).genus[0])
    assert answers == {"majority": "far", "distance": "near"}


def test_a_tied_vote_goes_to_the_nearest():
    embeddings = np.array([[0.0], [3.0], [-9.0], [9.0]], np.float32)
    head = KnnHead(KnnHead.Settings(metric="euclidean", k=2, weighting="majority"))
    head.fit(embeddings, np.array(["b", "a", "b", "a"]), 0.5)
    assert list(head.predict(np.array([[1.4], [1.6]], np.float32)).genus) == ["b", "a"]


@pytest.mark.parametrize("head", [KnnHead, LogisticHead])
def test_unknown_settings_are_refused(head):
    with pytest.raises(ValidationError):
        head.Settings(neighbors=5)


def test_alpha_must_be_a_share():
    for alpha in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="between 0 and 1"):
            check_alpha(alpha, np.array(["azolla"] * 20))


def test_a_reference_set_without_a_genus():
    with pytest.raises(ReferenceSetError, match=r"no genus.*_debris"):
        check_alpha(0.1, np.array(["_debris"] * 20))


def test_a_single_image_cannot_be_held_out():
    with pytest.raises(ReferenceSetError, match="azolla has a single image"):
        check_alpha(0.5, np.array(["azolla", "bisaccate", "bisaccate"]))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(2, 10))
def test_folds_hold_out_every_row_once_and_split_every_class(labels, folds):
    labels = np.array(labels)
    fold = folds_within_class(labels, folds)
    assert fold.min() >= 0
    assert fold.max() < folds
    for label in np.unique(labels):
        sizes = np.bincount(fold[labels == label])
        assert len(sizes) == min(folds, (labels == label).sum())
        assert sizes.max() - sizes.min() <= 1
        assert (np.diff(fold[labels == label]) >= 0).all()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(-1, 11))
def test_the_p_value_is_the_counted_one(scores, strangeness):
    calibration = calibration_scores(np.array(scores)[:, None], np.zeros(len(scores), dtype=np.int64))
    expected = (1 + sum(score >= strangeness for score in scores)) / (len(scores) + 1)
    assert p_values(np.array([[strangeness]]), calibration)[0, 0] == pytest.approx(expected)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_distances_are_euclidean(seed):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))
    expected = np.sqrt(((left[:, None] - right[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(distances(left, right), expected, atol=1e-7)


def test_class_distances_average_the_nearest_and_mark_what_is_missing():
    table = class_distances(np.array([[4.0, 1.0, 2.0, 9.0]]), np.array([0, 0, 0, 2]), 3, 2)
    np.testing.assert_array_equal(table, [[1.5, np.inf, 9.0]])


def test_normalised_rows_have_length_one_and_zero_stays_zero():
    rows = normalised(np.array([[4.0, -9.0], [0.0, 0.0]]), root=True)
    np.testing.assert_allclose(rows, [[2 / np.sqrt(13), -3 / np.sqrt(13)], [0, 0]])


@pytest.mark.parametrize("shape", [(30, 8), (30, 50)], ids=["tall", "wide"])
def test_lda_agrees_with_the_plain_formula(shape):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    rows = rng.normal(size=shape) + labels[:, None] * rng.normal(size=shape[1])
    projection = shrinkage_lda(rows, labels, 0.3)
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(3)])
    within = (rows - means[labels]).T @ (rows - means[labels]) / len(rows)
    shrunk = 0.7 * within + 0.3 * np.trace(within) / shape[1] * np.eye(shape[1])
    projected = (means - projection.origin) @ projection.axes
    expected = (means - means.mean(axis=0)) @ np.linalg.solve(shrunk, (means - means.mean(axis=0)).T)
    np.testing.assert_allclose(projected @ projected.T, expected, rtol=1e-6, atol=1e-8)


def test_lda_of_rows_that_do_not_vary_is_finite():
    rows = np.repeat(np.eye(3), 4, axis=0)
    projected = shrinkage_lda(rows, np.repeat(np.arange(3), 4), 0.3)(rows)
    assert np.isfinite(projected).all()
    assert distances(projected, projected)[0, 4] > 1


def test_lda_needs_two_classes():
    with pytest.raises(ValueError, match="two classes"):
        shrinkage_lda(np.eye(3), np.zeros(3, dtype=np.int64), 0.3)


def test_objects_between_genera_are_doubted_by_the_second_metric():
    """Doubted ones get the least p-value of their genus; without a second metric nothing changes but that."""
    blur = np.random.default_rng(3).normal(0, 0.6, (660, 40))  # the clouds run into one another
    embeddings, genera = drawn(20, 0)
    embeddings = np.maximum(embeddings + blur[:60], 0).astype(np.float32)
    between = np.maximum(drawn(200, 1)[0] + blur[60:], 0).astype(np.float32)
    asked = KnnHead().fit(embeddings, genera, 0.1).predict(between)
    alone = KnnHead(KnnHead.Settings(second_shrinkage=None)).fit(embeddings, genera, 0.1).predict(between)
    np.testing.assert_array_equal(asked.genus, alone.genus)
    changed = asked.p_value != alone.p_value
    assert changed.any()
    np.testing.assert_allclose(asked.p_value[changed], 1 / 21)
    assert (alone.accepted | ~asked.accepted).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_metric_that_is_not_learned_asks_no_second_one(metric):
    embeddings, genera = drawn(20, 0)
    fresh = np.concatenate([drawn(30, 1)[0], debris(30, 3)])
    answers = [
        KnnHead(KnnHead.Settings(metric=metric, second_shrinkage=second)).fit(embeddings, genera, 0.1).predict(fresh)
        for second in (0.1, None)
    ]
    np.testing.assert_array_equal(answers[0].p_value, answers[1].p_value)


def test_the_genus_is_that_of_the_least_mean_distance_to_its_nearest():
    """A lone odd reference may be the nearest of all, and win a vote by distance; the mean over two of a genus is not its."""
    embeddings = np.array([[0, 0], [1, 0], [5, 5.1], [5, 6], [5.5, 6], [6, 6]], np.float32)
    genera = np.array(["areoligera"] * 3 + ["deflandrea"] * 3)
    odd = np.array([[5, 5.2]], np.float32)

    def genus(**settings: object) -> str:
        head = KnnHead(KnnHead.Settings(metric="euclidean", k=2, **settings)).fit(embeddings, genera, 0.4)
        return str(head.predict(odd).genus[0])

    assert genus(weighting="distance") == "areoligera"
    assert genus(weighting="genus") == genus() == "deflandrea"


def test_nearest_mean_agrees_with_the_discriminant_written_out():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4), 15)
    rows = rng.normal(0, 1, (60, 6)) + rng.normal(0, 2, (4, 6))[labels]
    shrinkage = 0.3
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(4)])
    within = (rows - means[labels]).T @ (rows - means[labels]) / 60
    scatter = (1 - shrinkage) * within + shrinkage * np.trace(within) / 6 * np.eye(6)
    queries = rng.normal(0, 3, (40, 6))
    gaps = queries[:, None] - means[None]
    expected = np.einsum("nci,ij,ncj->nc", gaps, np.linalg.inv(scatter), gaps).argmin(axis=1)
    second = nearest_mean(shrinkage_lda(rows, labels, shrinkage), rows, labels, 4)
    np.testing.assert_array_equal(second(queries), expected)
