"""The shift of a slide: estimated from accepted objects, subtracted from all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.classification.slide_shift import decide_slide, slide_shift
from slidepipe.heads.knn import KnnHead
from slidepipe.interfaces import Decisions
from tests.heads.clouds import draw_clouds


def decided(genera: list[str], accepted: list[bool]) -> Decisions:
    count = len(genera)
    none = np.zeros(count)
    neighbours = np.zeros((count, 1), np.int64)
    return Decisions(np.array(genera), np.array(accepted), none, none, neighbours, neighbours.astype(float))


def test_shift_is_subtracted():
    """Fossils that a shift made unknown are accepted again."""
    references, genera = draw_clouds(20, 0)
    fresh, truth = draw_clouds(30, 1)
    moved = fresh + np.where(np.arange(references.shape[1]) % 2, 0.12, 0.0).astype(np.float32)
    head = KnnHead(KnnHead.Settings(metric="euclidean")).fit(references, genera, 0.2)
    before, after = head.predict(moved), decide_slide(head, moved, references, genera)
    assert (after.genus == truth).all()
    assert after.accepted.mean() > before.accepted.mean() + 0.2
    assert after.accepted.mean() > head.predict(fresh).accepted.mean() - 0.1


def test_objects_like_references_hardly_move():
    """Without a shift, the estimate is small."""
    references, genera = draw_clouds(20, 0)
    fresh, _ = draw_clouds(30, 1)
    head = KnnHead().fit(references, genera, 0.2)
    shift = slide_shift(fresh, head.predict(fresh), references, genera)
    assert np.linalg.norm(shift) < 0.2 * np.linalg.norm(references.std(axis=0))


@given(st.integers(1, 10_000))
def test_single_genus_moves_less_than_half(count):
    """One genus alone moves the slide by less than half of its difference."""
    references = np.array([[1.0, 0.0]], np.float32)
    objects = np.full((count, 2), 3.0, np.float32)
    shift = slide_shift(objects, decided(["azolla"] * count, [True] * count), references, np.array(["azolla"]))
    assert (shift < 0.5 * np.array([2.0, 3.0])).all()
    assert (shift > 0).all()


def test_genera_have_similar_weights():
    """A genus of 300 objects has hardly more weight than one of 10."""
    references = np.array([[0.0], [10.0]], np.float32)
    objects = np.array([[2.0]] * 300 + [[10.0]] * 300, np.float32)
    names = ["azolla"] * 300 + ["wetzeliella"] * 300
    even = slide_shift(objects, decided(names, [True] * 600), references, np.array(["azolla", "wetzeliella"]))
    rare = np.concatenate([objects[:300], objects[300:310]])
    uneven = slide_shift(rare, decided(names[:310], [True] * 310), references, np.array(["azolla", "wetzeliella"]))
    assert even[0] < uneven[0] < 1.3 * even[0]


def test_unaccepted_objects_move_nothing():
    """Objects that are not accepted do not change the estimate."""
    references, genera = draw_clouds(20, 0)
    objects = references + 5
    assert not slide_shift(objects, decided(list(genera), [False] * len(genera)), references, genera).any()


def test_decide_slide_without_objects():
    """N may be 0."""
    references, genera = draw_clouds(20, 0)
    head = KnnHead().fit(references, genera, 0.1)
    assert len(decide_slide(head, references[:0], references, genera).genus) == 0


def test_order_of_objects_does_not_matter():
    """The same objects in another order get the same decisions."""
    references, genera = draw_clouds(20, 0)
    fresh = draw_clouds(30, 1)[0] + np.float32(0.1)
    head = KnnHead().fit(references, genera, 0.1)
    order = np.random.default_rng(5).permutation(len(fresh))
    straight, shuffled = (decide_slide(head, rows, references, genera) for rows in (fresh, fresh[order]))
    assert (straight.genus[order] == shuffled.genus).all()
    np.testing.assert_allclose(straight.distance[order], shuffled.distance, atol=1e-6)
