"""Find what touches the object of a crop but does not belong to it: black dirt, and neighbours that the crop's edge cuts.

Black dirt: a fossil's wall transmits red light, however brown it is. What transmits none is coal, charred wood or pyrite.

Cut neighbours: a neighbour that touches the object by chance usually extends beyond the crop, so a long part of its outline
lies on the crop's edge. The object itself touches the edge only with its tips.

All functions work on the reduced crop on which `slidepipe.crops.isolate` finds the object; lengths are pixels of it.
"""

import numpy as np
from scipy import ndimage

from slidepipe.interfaces import BoolArray, Float32Array, FloatArray, IntArray
from slidepipe.masks import EIGHT, inner_distance_squared

_BLACK = 0.6, 0.35
"""Smallest optical density in red of a black pixel: absolute, and above the median of its object, as some fossils are dark."""

_BLACK_LEAST_PX = 2
"""A black piece that a morphological opening of this size removes is a wall seen edge on, or a fold."""

_BLACK_RIM = 0.3, 0.15, 4
"""A black piece also takes its blurred rim: up to the third number of pixels, while the density in red is above the first
value and above the object's median by more than the second."""

_BLUR = 0.04, 3
"""It then takes what the lens blurs around it: up to the second number of pixels, while the density is above the first."""

_OWN_BLACK = 0.4, 0.3
"""Black that covers more than the first share of the crop's middle is the object itself. The middle is weighted by a Gaussian;
the second number is its sigma, in half sides of the crop."""

_NECKS_PX = 2, 3, 4, 6, 8
"""Half widths of the necks at which a neighbour is separated from the object, thinnest first."""

_LONG_CONTACT = 0.6, 10
"""A part is cut by the crop's edge if its contact with the edge is at least this share of the root of its area, and at least
this many pixels."""

_SMALLER = 0.6
"""A neighbour has less than this share of the object's area. A larger part may be one half of the object."""

_EDGE_REACH_PX = max(_NECKS_PX) + 4
"""The mask is continued by so many pixels beyond the crop's edge before necks are measured; no neck is wider."""

_CENTRE_SIGMA = 0.5
"""Sigma, in half sides of the crop, of the Gaussian that weights pieces by how central they are."""


def black_dirt(density: Float32Array, object_: BoolArray) -> BoolArray:
    """Return the mask of the black pieces of a crop with their rims; empty where the object itself is black.

    Args:
        density: float32 (h, w), optical density in red over the background.
        object_: bool (h, w), the object together with whatever touches it.

    Returns:
        bool (h, w).
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
    """Remove the parts of a mask that are connected by a neck and have a long contact with the crop's edge.

    Args:
        mask: bool (h, w), the object together with whatever touches it.

    Returns:
        bool (h, w).
    """
    frame = np.ones_like(mask)
    frame[1:-1, 1:-1] = False
    share, least = _LONG_CONTACT
    for neck_px in _NECKS_PX:
        if np.count_nonzero(mask & frame) < least:
            break
        parts, count = _split_at_necks(mask, neck_px)
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
    """Return the number of the piece with the largest weight in the middle: the object of a crop is large and central.

    Args:
        pieces: int (h, w), 0 outside, 1 to `count` inside the pieces.
        count: number of pieces, at least 1.
    """
    weights = _central_weight(pieces.shape, _CENTRE_SIGMA)
    return 1 + int(np.argmax(np.bincount(pieces.ravel(), weights.ravel(), count + 1)[1:]))


def _central_weight(shape: tuple[int, ...], sigma: float) -> FloatArray:
    """Return a Gaussian around the middle of an image, float64 (h, w); `sigma` is in half sides."""
    y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in shape)
    weight: FloatArray = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    return weight


def _opened(mask: BoolArray) -> BoolArray:
    width = _BLACK_LEAST_PX
    # Continue the mask beyond the crop's edge: a piece that the edge cuts is not thin there.
    padded = np.pad(mask, width, mode="edge")
    opened: BoolArray = ndimage.binary_opening(padded, iterations=width)[width:-width, width:-width]
    return opened


def _split_at_necks(mask: BoolArray, neck_px: int) -> tuple[IntArray, int]:
    """Split a mask at necks of up to twice `neck_px`.

    Returns:
        int (h, w) with 0 outside and 1 to the number of parts inside, and the number of parts.
    """
    reach = _EDGE_REACH_PX
    inside = inner_distance_squared(np.pad(mask, reach, mode="edge"))[reach:-reach, reach:-reach]
    cores, count = ndimage.label(inside > neck_px**2, EIGHT)
    if count < 2:
        return cores, count
    rows, columns = ndimage.distance_transform_edt(cores == 0, return_distances=False, return_indices=True)
    return cores[rows, columns] * mask, count
