"""What touches the object of a crop and is none of it: black dirt, and neighbours that the crop's edge cuts.

A fossil's wall lets red light through, however brown it is; what lets none through is coal, charred wood or pyrite. A neighbour
that only happens to touch goes on beyond the crop, so it lies broad at the crop's edge, where the object itself ends in a tip.
All of it is found on the small picture on which :mod:`slidepipe.crops.isolate` finds the object (lengths in its pixels).
"""

import numpy as np
from scipy import ndimage

from slidepipe.interfaces import BoolArray, Float32Array, FloatArray, IntArray
from slidepipe.masks import EIGHT, inner_distance_squared

_BLACK = 0.6, 0.35
"""Optical density in red from which on a pixel is black: at all, and over the median of its object, as some fossils are dark."""

_BLACK_LEAST_PX = 2
"""Black that an opening by this removes is a wall seen edge on, or a fold."""

_BLACK_RIM = 0.3, 0.15, 4
"""A black piece grows by so much while the density in red is over the first, and over the median by the second: its soft rim."""

_BLUR = 0.04, 3
"""Then by what the lens blurs: so far while anything stands out."""

_OWN_BLACK = 0.4, 0.3
"""Black over this share of the middle (a Gaussian of this sigma, in half sides) is the object itself."""

_NECKS_PX = 2, 3, 4, 6, 8
"""Half the width of the neck at which a neighbour is parted from the object, thinnest first."""

_LONG_CONTACT = 0.6, 10
"""What lies along the crop's edge for this share of the root of its area, and for so many pixels, goes on beyond it."""

_SMALLER = 0.6
"""A neighbour has less than this share of the object's area; what is larger may be half of the object."""

_EDGE_REACH_PX = max(_NECKS_PX) + 4
"""So far the mask goes on beyond the crop's edge as it is there: no neck is measured farther."""

_CENTRE_SIGMA = 0.5
"""Of the Gaussian that weighs pieces, in half sides."""


def black_dirt(density: Float32Array, object_: BoolArray) -> BoolArray:
    """The black pieces of a crop with their rims, bool (h, w); none where the object itself is black.

    Args:
        density: float32 (h, w), optical density in red over the background.
        object_: bool (h, w), the object with whatever touches it.
    """
    median = float(np.median(density[object_]))
    black = _opened(density > max(_BLACK[0], median + _BLACK[1]))
    if not black.any():
        return black
    rim = density > max(_BLACK_RIM[0], median + _BLACK_RIM[1])
    black |= ndimage.binary_dilation(black, iterations=_BLACK_RIM[2], mask=rim)
    black |= ndimage.binary_dilation(black, iterations=_BLUR[1], mask=density > _BLUR[0])
    share, sigma = _OWN_BLACK
    middle = _central_weight(black.shape, sigma)
    return black if middle[black].sum() <= share * middle.sum() else np.zeros_like(black)


def without_cut_neighbours(mask: BoolArray) -> BoolArray:
    """The mask, bool (h, w), without those parts of it that hang on by a neck and lie broad at the crop's edge."""
    frame = np.ones_like(mask)
    frame[1:-1, 1:-1] = False
    share, least = _LONG_CONTACT
    for neck_px in _NECKS_PX:
        if np.count_nonzero(mask & frame) < least:
            break
        parts, count = _parted(mask, neck_px)
        if count < 2:
            continue
        own = most_central(parts, count)
        areas = np.bincount(parts.ravel(), minlength=count + 1)
        contacts = np.bincount(parts[frame], minlength=count + 1)
        cut = (contacts >= least) & (contacts >= share * np.sqrt(areas)) & (areas < _SMALLER * areas[own])
        cut[[0, own]] = False
        mask = mask & ~cut[parts]
    return mask


def most_central(pieces: IntArray, count: int) -> int:
    """Which of the pieces 1 to ``count``, int (h, w), weighs most in the middle: the object of a crop is large and lies there."""
    weights = _central_weight(pieces.shape, _CENTRE_SIGMA)
    return 1 + int(np.argmax(np.bincount(pieces.ravel(), weights.ravel(), count + 1)[1:]))


def _central_weight(shape: tuple[int, ...], sigma: float) -> FloatArray:
    """A Gaussian around the middle of (h, w), ``sigma`` in half sides."""
    y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in shape)
    weight: FloatArray = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    return weight


def _opened(mask: BoolArray) -> BoolArray:
    width = _BLACK_LEAST_PX
    padded = np.pad(mask, width, mode="edge")  # what the crop's edge cuts is not thin there
    opened: BoolArray = ndimage.binary_opening(padded, iterations=width)[width:-width, width:-width]
    return opened


def _parted(mask: BoolArray, neck_px: int) -> tuple[IntArray, int]:
    """The mask in parts that hang together by necks of up to twice ``neck_px``: 0 outside, 1 to the count inside."""
    reach = _EDGE_REACH_PX
    inside = inner_distance_squared(np.pad(mask, reach, mode="edge"))[reach:-reach, reach:-reach]
    cores, count = ndimage.label(inside > neck_px**2, EIGHT)
    if count < 2:
        return cores, count
    rows, columns = ndimage.distance_transform_edt(cores == 0, return_distances=False, return_indices=True)
    return cores[rows, columns] * mask, count
