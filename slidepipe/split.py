"""Touching objects apart: a mask is cut at its necks, and only where its shape asks for it."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from slidepipe.interfaces import BoolArray, FloatArray
from slidepipe.masks import EIGHT, Labels, fill_holes, inner_distance

# A shape this close to a disc (area over that of the largest disc inside) has no neck.
_ROUND_ENOUGH = 1.3
# The dense part of an object speaks for its shape only if it is at least this share of it; a pale object has none.
_DENSE_SHARE = 0.5
# A slender piece holds at least a disc of this share of the usual radius; anything thinner is a fringe.
_SLENDEREST = 0.3


def split_touching(mask: BoolArray, dense: BoolArray, least_radius_px: float, neck_ratio: float) -> Labels:
    """Parts of one connected mask: int32 (H, W), 0 outside, 1 ... k inside.

    The distance to the border has a peak in the middle of every bulge. Two neighbouring bulges are two objects where the neck
    between them is narrower than ``neck_ratio`` times the smaller bulge; a bulge must hold a disc of ``least_radius_px``.
    Distances are those of ``dense``, the pixels of the mask that are plainly object: pale fringes that two neighbours share
    would hide their neck. An object pale throughout has hardly any of those and is judged by its whole mask. A dense piece
    that hangs on the others by pale pixels only may be slender (a spindle beside a sphere), if it has the area of the square
    around that disc.
    """
    core = fill_holes(dense & mask)
    if core.sum() < _DENSE_SHARE * mask.sum():
        core = mask
    distance = inner_distance(core)
    radius = float(distance.max())
    slender = _slender_peaks(core, distance, least_radius_px)
    if not slender.any() and mask.sum() <= _ROUND_ENOUGH * np.pi * radius**2:
        return mask.astype(np.int32)
    side = 2 * max(1, round(least_radius_px / 2)) + 1
    peaks = (distance == ndimage.maximum_filter(distance, size=side)) & (distance >= least_radius_px)
    markers, count = ndimage.label(peaks | slender, EIGHT)
    if count < 2:
        return mask.astype(np.int32)
    basins: Labels = watershed(-distance, markers, mask=mask, connectivity=2)
    heights = np.zeros(count + 1)
    np.maximum.at(heights, basins.ravel(), distance.ravel())
    into = _merge(_necks(basins, distance), heights, neck_ratio)
    _, renumbered = np.unique(into[basins], return_inverse=True)
    return renumbered.reshape(basins.shape).astype(np.int32)


def _slender_peaks(core: BoolArray, distance: FloatArray, least_radius_px: float) -> BoolArray:
    """The middles of separate pieces of ``core`` that are large enough, but too slender to hold the disc."""
    peaks = np.zeros(core.shape, np.bool_)
    pieces, count = ndimage.label(core, EIGHT)
    if count < 2:
        return peaks
    for number, area in enumerate(np.bincount(pieces.ravel()).tolist()):
        if number == 0 or area < (2 * least_radius_px) ** 2:
            continue
        piece = pieces == number
        radius = distance[piece].max()
        if least_radius_px > radius >= _SLENDEREST * least_radius_px:
            peaks |= piece & (distance == radius)
    return peaks


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
