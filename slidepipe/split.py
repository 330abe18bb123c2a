"""Masks: closing, filling, and cutting touching objects apart. Everything works inside an object's own box."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from slidepipe.interfaces import BoolArray, FloatArray

Labels = npt.NDArray[np.int32]

EIGHT = np.ones((3, 3), np.bool_)
"""Neighbours that connect: a thin wall often runs diagonally."""

# A shape this close to a disc (area over that of the largest disc inside) has no neck.
_ROUND_ENOUGH = 1.3
# The dense part of an object speaks for its shape only if it is at least this share of it; a pale object has none.
_DENSE_SHARE = 0.5


def dilate(mask: BoolArray, radius_px: int) -> BoolArray:
    """Grow a mask by an octagon (crosses and squares in turn): a few shifted ORs, far faster than a general structuring element."""
    for step in range(radius_px):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        across = mask if step % 2 == 0 else grown.copy()
        grown[:, 1:] |= across[:, :-1]
        grown[:, :-1] |= across[:, 1:]
        mask = grown
    return mask


def close(mask: BoolArray, radius_px: int) -> BoolArray:
    """Join what lies within twice the radius. Depends on pixels up to 2 * ``radius_px`` away."""
    return ~dilate(~dilate(mask, radius_px), radius_px)


def open_(mask: BoolArray, radius_px: int) -> BoolArray:
    """Remove what is thinner than twice the radius. Depends on pixels up to 2 * ``radius_px`` away."""
    return dilate(~dilate(~mask, radius_px), radius_px)


def fill_holes(mask: BoolArray) -> BoolArray:
    """The mask and everything it encloses (an outside that meets only at corners does not leak in)."""
    outside, _ = ndimage.label(~np.pad(mask, 1))
    filled: BoolArray = (outside != outside[0, 0])[1:-1, 1:-1]
    return filled


def split_touching(mask: BoolArray, dense: BoolArray, least_radius_px: float, neck_ratio: float) -> Labels:
    """Parts of one connected mask: int32 (H, W), 0 outside, 1 ... k inside.

    The distance to the border has a peak in the middle of every bulge. Two neighbouring bulges are two objects where the neck
    between them is narrower than ``neck_ratio`` times the smaller bulge; a bulge must hold a disc of ``least_radius_px``.
    Distances are those of ``dense``, the pixels of the mask that are plainly object: pale fringes that two neighbours share
    would hide their neck. An object pale throughout has hardly any of those and is judged by its whole mask.
    """
    parts = mask.astype(np.int32)
    core = fill_holes(dense & mask)
    if core.sum() < _DENSE_SHARE * mask.sum():
        core = mask
    distance: FloatArray = ndimage.distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1]
    radius = float(distance.max())
    if radius < least_radius_px or mask.sum() <= _ROUND_ENOUGH * np.pi * radius**2:
        return parts
    side = 2 * max(1, round(least_radius_px / 2)) + 1
    peaks = (distance == ndimage.maximum_filter(distance, size=side)) & (distance >= least_radius_px)
    markers, count = ndimage.label(peaks, EIGHT)
    if count < 2:
        return parts
    basins: Labels = watershed(-distance, markers, mask=mask, connectivity=2)
    heights = np.zeros(count + 1)
    np.maximum.at(heights, basins.ravel(), distance.ravel())
    into = _merge(_necks(basins, distance), heights, neck_ratio)
    _, renumbered = np.unique(into[basins], return_inverse=True)
    parts = renumbered.reshape(basins.shape).astype(np.int32)
    return parts


def _necks(basins: Labels, distance: FloatArray) -> dict[tuple[int, int], float]:
    """Half width of the neck between each two basins that touch: the largest distance on their common border."""
    necks: dict[tuple[int, int], float] = {}
    height, width = basins.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - dy), slice(max(0, -dx), min(width, width - dx)))
        there = (slice(dy, height), slice(max(0, dx), min(width, width + dx)))
        border = (basins[here] != basins[there]) & (basins[here] > 0) & (basins[there] > 0)
        level = np.minimum(distance[here][border], distance[there][border])
        for one, other, value in zip(
            basins[here][border].tolist(), basins[there][border].tolist(), level.tolist(), strict=True
        ):
            key = (min(one, other), max(one, other))
            necks[key] = max(necks.get(key, 0.0), value)
    return necks


def _merge(necks: dict[tuple[int, int], float], heights: FloatArray, neck_ratio: float) -> npt.NDArray[np.intp]:
    """Join neighbours whose neck is wide, widest first, until only real necks are left; returns basin -> part."""
    into = np.arange(len(heights))
    while necks:
        ratio, keep, gone = max((value / min(heights[a], heights[b]), a, b) for (a, b), value in necks.items())
        if ratio < neck_ratio:
            break
        into[into == gone] = keep
        heights[keep] = max(heights[keep], heights[gone])
        merged: dict[tuple[int, int], float] = {}
        for pair, value in necks.items():
            one, other = sorted(keep if basin == gone else basin for basin in pair)
            if one != other:
                merged[one, other] = max(merged.get((one, other), 0.0), value)
        necks = merged
    return into
