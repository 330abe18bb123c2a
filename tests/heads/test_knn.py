from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slidepipe.embedding.normalise import normalised
from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.heads import metric
from slidepipe.heads.conformal import calibrate, check_alpha, folds_within_class, p_values
from slidepipe.heads.knn import KnnHead
from slidepipe.heads.logistic import LogisticHead
from slidepipe.heads.metric import class_distances, distances, kernel_ridge, shrinkage_lda
from slidepipe.interfaces import Head

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
    monkeypatch.setattr(metric, "_CHUNK_CELLS", 60 * 7)
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
    with pytest.raises(ReferenceSetError, match="azolla is its only class"):
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


def softened(rows: np.ndarray, by: float) -> np.ndarray:
    """The same rows all moved one way, along which the genera do not differ."""
    moved = rows.copy()
    moved[:, -1] += by
    return moved.astype(np.float32)


def test_a_head_that_knows_its_references_as_crops_takes_crops_for_what_they_are():
    # Of noise alone the last value is 1 give or take 0.15 in every genus; a slide adds 2 to it.
    def alike(count, seed):
        rows, genera = drawn(count, seed)
        rows[:, -1] = 1 + np.random.default_rng(seed).normal(0, 0.15, len(rows))
        return rows, genera

    (embeddings, genera), (fresh, truth) = alike(20, 0), alike(40, 1)
    crops = softened(fresh, 2)
    sharp = KnnHead().fit(embeddings, genera, 0.2)
    both = KnnHead().fit(embeddings, genera, 0.2, crop_like=softened(embeddings, 2))
    assert sharp.predict(crops).accepted.mean() < 0.4
    for queries in (fresh, crops):
        decided = both.predict(queries)
        assert decided.accepted.mean() > 0.6
        assert (decided.genus == truth).all()
        assert all(len(set(rows)) == len(rows) for rows in decided.neighbours.tolist())  # an image counts once
    assert not both.predict(debris(50, 3)).accepted.any()


def test_a_reference_as_a_crop_is_its_own_neighbour_and_plain_metrics_know_no_crops():
    embeddings, genera = drawn(20, 0)
    soft = softened(embeddings, 2)
    decided = KnnHead().fit(embeddings, genera, 0.2, crop_like=soft).predict(soft)
    assert decided.neighbours[:, 0].tolist() == list(range(60))
    plain = [
        KnnHead(KnnHead.Settings(metric="euclidean")).fit(embeddings, genera, 0.2, given).predict(soft).p_value
        for given in (None, soft)
    ]
    np.testing.assert_array_equal(*plain)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda rows: rows[:-1], "60 embeddings but 59 crop-like ones"),
        (lambda rows: rows[:, :-1], "shape"),
        (lambda rows: rows * np.nan, "not finite"),
    ],
)
def test_crops_that_do_not_fit_their_references_are_refused(spoil, told):
    embeddings, genera = drawn(20, 0)
    with pytest.raises(ReferenceSetError, match=told):
        KnnHead().fit(embeddings, genera, 0.2, crop_like=spoil(embeddings))


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


GENUS_SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=30)


def counted(scores: list[float], strangeness: float) -> float:
    return (1 + sum(score >= strangeness for score in scores)) / (len(scores) + 1)


def scored(*genera: list[float]) -> Drawing:
    """The strangeness (M, C) of each row to its own class, infinite to others, and its label."""
    labels = np.repeat(np.arange(len(genera)), [len(scores) for scores in genera])
    strangeness = np.full((len(labels), len(genera)), np.inf)
    strangeness[np.arange(len(labels)), labels] = np.concatenate(genera)
    return strangeness, labels


@given(GENUS_SCORES, GENUS_SCORES, st.floats(-1, 11))
def test_the_p_value_weighs_the_own_scores_against_those_of_all(own, other, strangeness):
    calibration = calibrate(*scored(own, other), np.array(["azolla", "bisaccate"]))
    weight = len(own) / (len(own) + 40)
    expected = weight * counted(own, strangeness) + (1 - weight) * counted(own + other, strangeness)
    assert p_values(np.array([[strangeness, 0.0]]), calibration)[0, 0] == pytest.approx(expected)


@given(GENUS_SCORES, st.floats(-1, 11))
def test_the_p_value_of_a_single_genus_is_the_counted_one(scores, strangeness):
    calibration = calibrate(*scored(scores), np.array(["azolla"]))
    assert p_values(np.array([[strangeness]]), calibration)[0, 0] == pytest.approx(counted(scores, strangeness))


def test_debris_is_not_pooled_with_the_genera():
    calibration = calibrate(*scored([1.0, 2.0], [50.0] * 30), np.array(["azolla", "_debris"]))
    np.testing.assert_array_equal(calibration.pooled, [1.0, 2.0])


def test_what_has_nothing_to_be_held_out_against_is_left_out():
    calibration = calibrate(*scored([1.0, 2.0, np.inf]), np.array(["azolla"]))
    np.testing.assert_array_equal(calibration.own[0], [1.0, 2.0])


@given(st.floats(0.01, 0.99), st.integers(2, 40), st.integers(0, 200))
def test_an_alpha_that_is_not_refused_can_be_reached(alpha, count, others):
    """As strange as can be is unknown wherever ``check_alpha`` let the alpha through."""
    genera = np.array(["azolla"] * count + ["bisaccate"] * (count + others))
    try:
        check_alpha(alpha, genera)
    except SettingsError:
        return
    calibration = calibrate(*scored([1.0] * count, [1.0] * (count + others)), np.array(["azolla", "bisaccate"]))
    assert (p_values(np.array([[9.0, 9.0]]), calibration) <= alpha * (1 + 1e-9)).all()


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


def test_objects_between_two_genera_are_unknown():
    embeddings, genera = drawn(20, 0)
    first, second = (drawn(30, 1)[0][start : start + 30] for start in (0, 30))
    head = KnnHead().fit(embeddings, genera, 0.1)
    assert head.predict(first).accepted.mean() > 0.8
    assert not head.predict((first + second) / 2).accepted.any()


def test_kernel_ridge_knows_its_own_and_nothing_far_away():
    embeddings, genera = drawn(20, 0)
    labels = np.unique(genera, return_inverse=True)[1]
    membership = kernel_ridge(embeddings.astype(float), labels, 4)
    belongs = membership(distances(drawn(30, 1)[0].astype(float), embeddings.astype(float)))
    assert belongs.shape == (90, 4)
    np.testing.assert_array_equal(belongs.argmax(axis=1), np.repeat([0, 1, 2], 30))
    np.testing.assert_allclose(belongs.max(axis=1), 1, atol=0.25)
    np.testing.assert_allclose(belongs[:, 3], 0, atol=1e-12)  # a class without references
    assert np.abs(membership(np.full((1, 60), 100.0))).max() < 1e-12


def test_kernel_ridge_agrees_with_the_formula_written_out():
    rows = np.array([[0.0], [1.0], [3.0]])
    membership = kernel_ridge(rows, np.array([0, 0, 1]), 2)
    width = 1.0  # of the squares 0 0 0 1 1 4 4 9 9
    kernel = np.exp(-((rows - rows.T) ** 2) / width)
    size = np.array([2, 2, 1]) * np.mean([1 / 2, 1 / 2, 1])
    weights = np.linalg.inv(kernel + 0.1 * np.diag(size)) @ np.array([[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(membership(distances(np.array([[0.5]]), rows)), np.exp(-((rows.T - 0.5) ** 2)) @ weights)


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
