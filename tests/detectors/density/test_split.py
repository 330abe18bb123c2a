"""Tests of splitting masks at their necks."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidepipe.detectors.density import split
from slidepipe.detectors.density.split import split_touching
from slidepipe.masks import EIGHT, fill_holes, largest_piece

Mask = npt.NDArray[np.bool_]


def discs(*circles: tuple[float, float, float], height: int = 100, width: int = 220) -> Mask:
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.bool_)
    for cx, cy, radius in circles:
        mask |= np.hypot(x - cx, y - cy) <= radius
    return mask


def parts_of(mask: Mask, dense: Mask | None = None, neck_ratio: float = 0.72) -> npt.NDArray[np.int32]:
    return split_touching(mask, mask if dense is None else dense, 10, neck_ratio)


def test_parts_cover_the_mask() -> None:
    mask = discs((50, 50, 30), (105, 50, 28), (155, 50, 25))
    parts = parts_of(mask)
    assert ((parts > 0) == mask).all()
    assert set(np.unique(parts)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("circles", "count"),
    [
        (((50, 50, 30),), 1),
        (((50, 50, 30), (105, 50, 30)), 2),
        (((50, 50, 30), (70, 50, 30)), 1),  # overlapping too far: a long object
        (((50, 50, 30), (83, 50, 6)), 1),  # a bulge too small to be an object
    ],
)
def test_narrow_neck_splits(circles: tuple[tuple[float, float, float], ...], count: int) -> None:
    """A narrow neck splits a mask, a wide waist does not."""
    assert parts_of(discs(*circles)).max() == count


def test_pale_fringe() -> None:
    """A pale fringe does not hide the neck."""
    dense = discs((60, 50, 30), (125, 50, 30))
    mask = dense.copy()
    mask[26:75, 60:125] = True
    assert parts_of(mask).max() == 1
    assert parts_of(mask, dense).max() == 2


def test_slender_part() -> None:
    """A slender part next to a sphere is an object; a fringe is not."""
    dense = discs((50, 50, 30))
    dense[15:85, 90:100] = True
    mask = dense.copy()
    mask[45:55, 50:100] = True
    assert parts_of(mask, dense).max() == 2
    dense[15:85, 94:100] = False  # 4 px by 70: a fringe
    assert parts_of(mask, dense).max() == 1


def test_pale_object() -> None:
    """The whole mask of a pale object is used."""
    mask = discs((50, 50, 30), (105, 50, 30))
    assert parts_of(mask, np.zeros(mask.shape, np.bool_)).max() == 2


def test_neck_ratio() -> None:
    mask = discs((50, 50, 30), (96, 50, 30))
    assert parts_of(mask, neck_ratio=0.3).max() == 1
    assert parts_of(mask, neck_ratio=0.9).max() == 2


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**30), count=st.integers(1, 6), neck_ratio=st.floats(0.3, 0.95))
def test_shortcut_without_watershed(seed: int, count: int, neck_ratio: float) -> None:
    """A mask that the shortcut leaves whole is not split by the watershed either."""
    rng = np.random.default_rng(seed)
    shape = discs(*((rng.uniform(25, 95), rng.uniform(25, 75), rng.uniform(6, 24)) for _ in range(count)), width=120)
    shape[rng.random(shape.shape) < rng.choice([0, 0.002])] = False
    dense = shape & (rng.random(shape.shape) > rng.choice([0, 0.01]))
    labels, _ = ndimage.label(fill_holes(largest_piece(shape)), EIGHT)
    mask = labels == 1
    quick = split_touching(mask, dense, 10, neck_ratio)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "_may_split", lambda *_: True)
        thorough = split_touching(mask, dense, 10, neck_ratio)
    assert (quick == thorough).all()
