"""A slide's shift: found by the objects that are accepted, taken out of all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.classification.slide_shift import decide_slide, slide_shift
from slidepipe.heads.knn import KnnHead
from slidepipe.interfaces import Decisions
from tests.heads.test_knn import drawn


def decided(genera: list[str], accepted: list[bool]) -> Decisions:
    count = len(genera)
    none = np.zeros(count)
    neighbours = np.zeros((count, 1), np.int64)
    return Decisions(np.array(genera), np.array(accepted), none, none, neighbours, neighbours.astype(float))


def test_a_shift_that_leaves_fossils_unknown_is_taken_out():
    references, genera = drawn(20, 0)
    fresh, truth = drawn(30, 1)
    moved = fresh + np.where(np.arange(references.shape[1]) % 2, 0.12, 0.0).astype(np.float32)
    head = KnnHead(KnnHead.Settings(metric="euclidean")).fit(references, genera, 0.2)
    before, after = head.predict(moved), decide_slide(head, moved, references, genera)
    assert (after.genus == truth).all()
    assert after.accepted.mean() > before.accepted.mean() + 0.2
    assert after.accepted.mean() > head.predict(fresh).accepted.mean() - 0.1


def test_objects_that_lie_as_the_references_do_are_hardly_moved():
    references, genera = drawn(20, 0)
    fresh, _ = drawn(30, 1)
    head = KnnHead().fit(references, genera, 0.2)
    shift = slide_shift(fresh, head.predict(fresh), references, genera)
    assert np.linalg.norm(shift) < 0.2 * np.linalg.norm(references.std(axis=0))


@given(st.integers(1, 10_000))
def test_one_genus_alone_moves_a_slide_by_less_than_half_of_its_difference(count):
    references = np.array([[1.0, 0.0]], np.float32)
    objects = np.full((count, 2), 3.0, np.float32)
    shift = slide_shift(objects, decided(["azolla"] * count, [True] * count), references, np.array(["azolla"]))
    assert (shift < 0.5 * np.array([2.0, 3.0])).all()
    assert (shift > 0).all()


def test_a_common_genus_does_not_speak_for_all():
    references = np.array([[0.0], [10.0]], np.float32)
    objects = np.array([[2.0]] * 300 + [[10.0]] * 300, np.float32)
    names = ["azolla"] * 300 + ["wetzeliella"] * 300
    even = slide_shift(objects, decided(names, [True] * 600), references, np.array(["azolla", "wetzeliella"]))
    rare = np.concatenate([objects[:300], objects[300:310]])
    uneven = slide_shift(rare, decided(names[:310], [True] * 310), references, np.array(["azolla", "wetzeliella"]))
    assert even[0] < uneven[0] < 1.3 * even[0]


def test_what_is_not_accepted_moves_nothing():
    references, genera = drawn(20, 0)
    objects = references + 5
    assert not slide_shift(objects, decided(list(genera), [False] * len(genera)), references, genera).any()


def test_a_slide_without_objects():
    references, genera = drawn(20, 0)
    head = KnnHead().fit(references, genera, 0.1)
    assert len(decide_slide(head, references[:0], references, genera).genus) == 0


def test_decisions_depend_on_the_slide_and_not_on_the_order_of_its_objects():
    references, genera = drawn(20, 0)
    fresh = drawn(30, 1)[0] + np.float32(0.1)
    head = KnnHead().fit(references, genera, 0.1)
    order = np.random.default_rng(5).permutation(len(fresh))
    straight, shuffled = (decide_slide(head, rows, references, genera) for rows in (fresh, fresh[order]))
    assert (straight.genus[order] == shuffled.genus).all()
    np.testing.assert_allclose(straight.distance[order], shuffled.distance, atol=1e-6)
