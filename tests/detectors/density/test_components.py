"""Tests of the components found from runs: the same as labelling all pixels, in the same order, with the same holes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from slidepipe.detectors.density.components import components
from slidepipe.interfaces import BoolArray
from slidepipe.masks import EIGHT, fill_holes


@st.composite
def masks(draw: st.DrawFn) -> BoolArray:
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    mask: BoolArray = rng.random((height, width)) < draw(st.floats(0, 1))
    return np.asarray(ndimage.binary_dilation(mask), np.bool_) if draw(st.booleans()) else mask


@given(masks())
def test_components_match_scipy_label(mask: BoolArray) -> None:
    labels, count = ndimage.label(mask, EIGHT)
    found = components(mask)
    assert len(found) == count
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels)):
        place = found.top[number], found.bottom[number], found.left[number], found.right[number]
        assert place == (rows.start, rows.stop, columns.start, columns.stop)
        own = labels[rows, columns] == number + 1
        assert (found.mask(number) == own).all()
        assert found.holes[number] == ndimage.label(fill_holes(own) & ~own)[1]


def test_hole_closed_at_corners() -> None:
    mask = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.bool_)
    assert components(mask).holes.tolist() == [1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
def test_empty_mask(shape: tuple[int, int]) -> None:
    assert len(components(np.zeros(shape, np.bool_))) == 0
