"""The nearest-references head."""

import numpy as np
import pytest

from slidepipe.errors import ReferenceSetError
from slidepipe.heads.knn import KnnHead
from tests.heads.clouds import GENERA, draw_clouds, draw_debris


def test_calibration_holds_out_of_learned_metric():
    """Genera without any difference: a metric calibrated on its own rows would call almost every new object strange."""
    rng = np.random.default_rng(5)
    embeddings = rng.normal(0, 1, (60, 200)).astype(np.float32)
    fresh = rng.normal(0, 1, (200, 200)).astype(np.float32)
    decisions = KnnHead().fit(embeddings, np.repeat(np.array(GENERA), 20), 0.2).predict(fresh)
    assert decisions.accepted.mean() > 0.75


def shifted(rows: np.ndarray, by: float) -> np.ndarray:
    """Move all rows in one direction, along which the genera do not differ: a stand-in for what a slide does to crops."""
    moved = rows.copy()
    moved[:, -1] += by
    return moved.astype(np.float32)


def test_crop_like_references_teach_metric():
    """A head that also has crop-like references accepts crops; one without them takes most crops for strange."""

    # The last value is 1 +- 0.15 in every genus; crops add 2 to it.
    def draw(count, seed):
        rows, genera = draw_clouds(count, seed)
        rows[:, -1] = 1 + np.random.default_rng(seed).normal(0, 0.15, len(rows))
        return rows, genera

    (embeddings, genera), (fresh, truth) = draw(20, 0), draw(40, 1)
    crops = shifted(fresh, 2)
    sharp_only = KnnHead().fit(embeddings, genera, 0.2)
    both = KnnHead().fit(embeddings, genera, 0.2, crop_like=shifted(embeddings, 2))
    assert sharp_only.predict(crops).accepted.mean() < 0.4
    for queries in (fresh, crops):
        decided = both.predict(queries)
        assert decided.accepted.mean() > 0.6
        assert (decided.genus == truth).all()
        assert all(len(set(rows)) == len(rows) for rows in decided.neighbours.tolist())  # an image counts once
    assert not both.predict(draw_debris(50, 3)).accepted.any()


def test_crop_like_reference_is_its_own_neighbour():
    """A neighbour is a reference, whichever of its two embeddings is nearer."""
    embeddings, genera = draw_clouds(20, 0)
    crop_like = shifted(embeddings, 2)
    decided = KnnHead().fit(embeddings, genera, 0.2, crop_like=crop_like).predict(crop_like)
    assert decided.neighbours[:, 0].tolist() == list(range(60))


def test_plain_metrics_ignore_crop_like_references():
    """Only `lda` uses the crop-like embeddings."""
    embeddings, genera = draw_clouds(20, 0)
    crop_like = shifted(embeddings, 2)
    plain = [
        KnnHead(KnnHead.Settings(metric="euclidean")).fit(embeddings, genera, 0.2, given).predict(crop_like).p_value
        for given in (None, crop_like)
    ]
    np.testing.assert_array_equal(*plain)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:-1], "60 embeddings but 59 crop-like ones"),
        (lambda rows: rows[:, :-1], "shape"),
        (lambda rows: rows * np.nan, "not finite"),
    ],
)
def test_mismatched_crop_like_references_are_rejected(spoil, message):
    """Crop-like embeddings must match the others in number, length and finiteness."""
    embeddings, genera = draw_clouds(20, 0)
    with pytest.raises(ReferenceSetError, match=message):
        KnnHead().fit(embeddings, genera, 0.2, crop_like=spoil(embeddings))


def test_majority_and_distance_weighting_can_differ():
    """Two of three neighbours win by majority; the much nearer one wins by distance."""
    embeddings = np.array([[0.0], [1.0], [1.1], [9.0], [9.0]], np.float32)
    genera = np.array(["near", "far", "far", "near", "far"])
    answers = {}
    for weighting in ("majority", "distance"):
        settings = KnnHead.Settings(metric="euclidean", k=3, weighting=weighting)
        head = KnnHead(settings).fit(embeddings, genera, 0.5)
        answers[weighting] = str(head.predict(np.array([[0.1]], np.float32)).genus[0])
    assert answers == {"majority": "far", "distance": "near"}


def test_nearest_neighbour_decides_tie():
    """With one vote for each of two genera, the nearer reference wins."""
    embeddings = np.array([[0.0], [3.0], [-9.0], [9.0]], np.float32)
    head = KnnHead(KnnHead.Settings(metric="euclidean", k=2, weighting="majority"))
    head.fit(embeddings, np.array(["b", "a", "b", "a"]), 0.5)
    assert list(head.predict(np.array([[1.4], [1.6]], np.float32)).genus) == ["b", "a"]


def test_object_between_two_genera_is_unknown():
    """The mean of two fossils of different genera is accepted as neither."""
    embeddings, genera = draw_clouds(20, 0)
    first, second = (draw_clouds(30, 1)[0][start : start + 30] for start in (0, 30))
    head = KnnHead().fit(embeddings, genera, 0.1)
    assert head.predict(first).accepted.mean() > 0.8
    assert not head.predict((first + second) / 2).accepted.any()


def test_genus_weighting_averages_over_nearest_of_each_genus():
    """An outlying reference may be nearest and win a vote by distance, but not the mean over two references per genus."""
    embeddings = np.array([[0, 0], [1, 0], [5, 5.1], [5, 6], [5.5, 6], [6, 6]], np.float32)
    genera = np.array(["areoligera"] * 3 + ["deflandrea"] * 3)
    outlier = np.array([[5, 5.2]], np.float32)

    def genus(**settings: object) -> str:
        head = KnnHead(KnnHead.Settings(metric="euclidean", k=2, **settings)).fit(embeddings, genera, 0.4)
        return str(head.predict(outlier).genus[0])

    assert genus(weighting="distance") == "areoligera"
    assert genus(weighting="genus") == genus() == "deflandrea"
