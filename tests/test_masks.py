"""Masks: the laws of closing and opening, holes, tails."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from slidepipe.masks import (
    close,
    dilate,
    fill_holes,
    inner_distance_squared,
    is_thin,
    largest_piece,
    largest_within,
    open_,
    surroundings,
    without_tail,
)

Mask = npt.NDArray[np.bool_]
any_mask = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
radius = st.integers(0, 4)


def drawn(rows: str) -> Mask:
    return np.array([[sign == "#" for sign in row] for row in rows.split()])


@settings(deadline=None)
@given(mask=any_mask, radius_px=radius)
def test_closing_adds_and_opening_removes(mask: Mask, radius_px: int) -> None:
    assert (close(mask, radius_px) >= mask).all()
    assert (open_(mask, radius_px) <= mask).all()


@settings(deadline=None)
@given(mask=any_mask, radius_px=radius)
def test_closing_and_opening_twice_change_nothing(mask: Mask, radius_px: int) -> None:
    assert (close(close(mask, radius_px), radius_px) == close(mask, radius_px)).all()
    assert (open_(open_(mask, radius_px), radius_px) == open_(mask, radius_px)).all()


@settings(deadline=None)
@given(mask=any_mask)
def test_filling_keeps_the_mask_and_leaves_nothing_to_fill(mask: Mask) -> None:
    filled = fill_holes(mask)
    assert (filled >= mask).all()
    assert (fill_holes(filled) == filled).all()


def test_dilation_grows_an_octagon() -> None:
    point = np.zeros((5, 5), np.bool_)
    point[2, 2] = True
    assert (dilate(point, 1) == drawn("..... ..#.. .###. ..#.. .....")).all()
    assert (dilate(point, 2) == drawn(".###. ##### ##### ##### .###.")).all()
    assert (dilate(point, 0) == point).all()


def test_holes_are_filled_and_bays_are_not() -> None:
    assert (fill_holes(drawn("#### #..# ####")) == drawn("#### #### ####")).all()
    assert (fill_holes(drawn("#### #..# #..#")) == drawn("#### #..# #..#")).all()


def test_the_largest_piece_and_none_of_an_empty_mask() -> None:
    assert (largest_piece(drawn("##.# ##.. ...#")) == drawn("##.. ##.. ....")).all()
    assert not largest_piece(np.zeros((3, 3), np.bool_)).any()


def test_surroundings_touch_neither_the_mask_nor_its_rim() -> None:
    mask = np.zeros((21, 21), np.bool_)
    mask[9:12, 9:12] = True
    ring = surroundings(mask, 2, 5)
    assert ring.any()
    assert not (ring & dilate(mask, 2)).any()
    assert (ring <= dilate(mask, 5)).all()


@pytest.mark.parametrize(("width", "thin"), [(3, True), (15, False)])
def test_a_line_is_thin_and_a_rod_is_not(width: int, thin: bool) -> None:
    assert is_thin(np.ones((width, 100), np.bool_), 0.03) is thin


def test_a_long_tail_is_cut_off_and_a_short_one_is_not() -> None:
    mask = np.zeros((40, 140), np.bool_)
    mask[:, :40] = True
    mask[20, :] = True
    body, place = without_tail(mask, (slice(5, 45), slice(10, 150)), 3, 60)
    assert body.shape == (40, 40)
    assert place == (slice(5, 45), slice(10, 50))
    same, place = without_tail(mask[:, :90], (slice(5, 45), slice(10, 100)), 3, 60)
    assert same.shape == (40, 90)
    assert place == (slice(5, 45), slice(10, 100))


def test_a_mask_that_is_nothing_but_a_line_stays() -> None:
    line = np.ones((2, 120), np.bool_)
    body, _ = without_tail(line, (slice(0, 2), slice(0, 120)), 3, 60)
    assert body is line


@given(seed=st.integers(0, 2**20), side=st.sampled_from([3, 5, 7, 9, 11, 13]))
def test_the_largest_within_is_that_of_scipy(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 50, rng.integers(1, 25, 2)).astype(np.int32)
    assert (largest_within(values, side) == ndimage.maximum_filter(values, size=side)).all()


@given(seed=st.integers(0, 2**20), share=st.floats(0, 1))
def test_inner_distances_are_those_of_scipy(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 25, 2)) < share
    _check_inner_distances(mask)


@pytest.mark.parametrize("shape", [(250, 250), (249, 250), (250, 3), (3, 250), (251, 250), (300, 260)])
@pytest.mark.parametrize("outside", [0, 3])
def test_inner_distances_of_the_largest_masks(shape: tuple[int, int], outside: int) -> None:
    mask = np.ones(shape, np.bool_)
    mask[np.random.default_rng(1).integers(0, shape[0], outside), np.arange(outside)] = False
    _check_inner_distances(mask)


def _check_inner_distances(mask: Mask) -> None:
    expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert (np.sqrt(inner_distance_squared(mask)) == expected).all()


@given(seed=st.integers(0, 2**20), radius_px=st.integers(0, 3))
def test_closing_in_strips_is_closing(seed: int, radius_px: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(129, 300), 9)) < 0.2
    assert (close(mask, radius_px) == ~dilate(~dilate(mask, radius_px), radius_px)).all()
