"""Operations on binary masks."""

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
    """Return the mask that rows of # and . show."""
    return np.array([[sign == "#" for sign in row] for row in rows.split()])


@settings(deadline=None)
@given(mask=any_mask, radius_px=radius)
def test_closing_adds_and_opening_removes(mask: Mask, radius_px: int) -> None:
    """Closing never removes a pixel, opening never adds one."""
    assert (close(mask, radius_px) >= mask).all()
    assert (open_(mask, radius_px) <= mask).all()


@settings(deadline=None)
@given(mask=any_mask, radius_px=radius)
def test_closing_and_opening_are_idempotent(mask: Mask, radius_px: int) -> None:
    """A second closing or opening changes nothing."""
    assert (close(close(mask, radius_px), radius_px) == close(mask, radius_px)).all()
    assert (open_(open_(mask, radius_px), radius_px) == open_(mask, radius_px)).all()


@settings(deadline=None)
@given(mask=any_mask)
def test_fill_holes_is_idempotent(mask: Mask) -> None:
    """Filling keeps the mask, and a second filling changes nothing."""
    filled = fill_holes(mask)
    assert (filled >= mask).all()
    assert (fill_holes(filled) == filled).all()


def test_dilate_grows_octagon() -> None:
    """A point grows to a cross, then to an octagon."""
    point = np.zeros((5, 5), np.bool_)
    point[2, 2] = True
    assert (dilate(point, 1) == drawn("..... ..#.. .###. ..#.. .....")).all()
    assert (dilate(point, 2) == drawn(".###. ##### ##### ##### .###.")).all()
    assert (dilate(point, 0) == point).all()


def test_fill_holes_leaves_bays() -> None:
    """Only what the mask encloses is filled."""
    assert (fill_holes(drawn("#### #..# ####")) == drawn("#### #### ####")).all()
    assert (fill_holes(drawn("#### #..# #..#")) == drawn("#### #..# #..#")).all()


def test_largest_piece() -> None:
    """The largest piece stays; an empty mask stays empty."""
    assert (largest_piece(drawn("##.# ##.. ...#")) == drawn("##.. ##.. ....")).all()
    assert not largest_piece(np.zeros((3, 3), np.bool_)).any()


def test_surroundings_is_ring() -> None:
    """The ring lies between the two distances."""
    mask = np.zeros((21, 21), np.bool_)
    mask[9:12, 9:12] = True
    ring = surroundings(mask, 2, 5)
    assert ring.any()
    assert not (ring & dilate(mask, 2)).any()
    assert (ring <= dilate(mask, 5)).all()


@pytest.mark.parametrize(("width", "thin"), [(3, True), (15, False)])
def test_is_thin(width: int, thin: bool) -> None:
    """A line is thin, a rod is not."""
    assert is_thin(np.ones((width, 100), np.bool_), 0.03) is thin


def test_without_tail_cuts_long_tail_only() -> None:
    """A long tail is removed, a short one stays."""
    mask = np.zeros((40, 140), np.bool_)
    mask[:, :40] = True
    mask[20, :] = True
    body, place = without_tail(mask, (slice(5, 45), slice(10, 150)), 3, 60)
    assert body.shape == (40, 40)
    assert place == (slice(5, 45), slice(10, 50))
    same, place = without_tail(mask[:, :90], (slice(5, 45), slice(10, 100)), 3, 60)
    assert same.shape == (40, 90)
    assert place == (slice(5, 45), slice(10, 100))


def test_without_tail_keeps_line() -> None:
    """A mask without a solid body is returned unchanged."""
    line = np.ones((2, 120), np.bool_)
    body, _ = without_tail(line, (slice(0, 2), slice(0, 120)), 3, 60)
    assert body is line


@given(seed=st.integers(0, 2**20), side=st.sampled_from([3, 5, 7, 9, 11, 13]))
def test_largest_within_agrees_with_scipy(seed: int, side: int) -> None:
    """The result is that of scipy's maximum filter."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 50, rng.integers(1, 25, 2)).astype(np.int32)
    assert (largest_within(values, side) == ndimage.maximum_filter(values, size=side)).all()


@given(seed=st.integers(0, 2**20), share=st.floats(0, 1))
def test_inner_distance_agrees_with_scipy(seed: int, share: float) -> None:
    """The distances are those of scipy, exactly."""
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 25, 2)) < share
    _check_inner_distances(mask)


@pytest.mark.parametrize("shape", [(250, 250), (249, 250), (250, 3), (3, 250), (251, 250), (300, 260)])
@pytest.mark.parametrize("outside", [0, 3])
def test_inner_distance_of_large_masks(shape: tuple[int, int], outside: int) -> None:
    """The 16-bit and the scipy branch agree with scipy at the size where they change over."""
    mask = np.ones(shape, np.bool_)
    mask[np.random.default_rng(1).integers(0, shape[0], outside), np.arange(outside)] = False
    _check_inner_distances(mask)


def _check_inner_distances(mask: Mask) -> None:
    expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert (np.sqrt(inner_distance_squared(mask)) == expected).all()


@given(seed=st.integers(0, 2**20), radius_px=st.integers(0, 3))
def test_closing_in_strips(seed: int, radius_px: int) -> None:
    """Closing a large mask in strips gives the same result as closing it at once."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(129, 300), 9)) < 0.2
    assert (close(mask, radius_px) == ~dilate(~dilate(mask, radius_px), radius_px)).all()
