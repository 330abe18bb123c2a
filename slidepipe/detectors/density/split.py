"""Touching objects apart: a mask is cut at its necks, and only where its shape asks for it."""

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from slidepipe.interfaces import BoolArray, FloatArray
from slidepipe.masks import EIGHT, Int32Array, Labels, fill_holes, inner_distance_squared, largest_within

# The dense part of an object speaks for its shape only if it is at least this share of it; a pale object has none.
_DENSE_SHARE = 0.5
# A slender part (a spindle beside a sphere) holds a disc of this share of the usual radius, has an area of this many squares of
# that radius, and hangs on its neighbour by a neck this much narrower than a stout one may have.
_SLENDER_RADIUS, _SLENDER_AREA, _SLENDER_NECK = 0.5, 6.0, 0.83


def split_touching(mask: BoolArray, dense: BoolArray, least_radius_px: float, neck_ratio: float) -> Labels:
    """Parts of one connected mask without holes: int32 (H, W), 0 outside, 1 ... k inside.

    The distance to the border has a peak in the middle of every bulge. Two neighbouring bulges are two objects where the neck
    between them is narrower than ``neck_ratio`` times the smaller bulge; a bulge must hold a disc of ``least_radius_px``, or be
    slender but long. Distances are those of ``dense``, the pixels of the mask that are plainly object: pale fringes that two
    neighbours share would hide their neck. An object pale throughout has hardly any of those and is judged by its whole mask.
    """
    area = int(np.count_nonzero(mask))
    # Beside its largest disc a mask must have room for a second one, or there is nothing to part. A disc counts from half the
    # usual radius, so the smallest need not even be measured.
    if area < np.pi * least_radius_px**2 * (1 + _SLENDER_RADIUS**2):
        return mask.astype(np.int32)
    core = fill_holes(dense & mask)
    if np.count_nonzero(core) < _DENSE_SHARE * area:
        core = mask
    squared = inner_distance_squared(core)
    largest = math.sqrt(squared.max())
    if area < np.pi * (largest**2 + least_radius_px**2):
        return mask.astype(np.int32)
    side = 2 * max(1, round(least_radius_px / 2)) + 1
    is_peak = (squared == largest_within(squared, side)) & (squared >= (_SLENDER_RADIUS * least_radius_px) ** 2)
    if not _may_split(squared, is_peak, neck_ratio * largest):
        return mask.astype(np.int32)
    markers, count = ndimage.label(is_peak, EIGHT)
    if count < 2:
        return mask.astype(np.int32)
    # Few objects come this far, on a barren slide none, and to import this takes a tenth of a second in each process.
    from skimage.segmentation import watershed

    distance: FloatArray = np.sqrt(squared)
    basins: Labels = watershed(-distance, markers, mask=mask, connectivity=2)
    radii = np.zeros(count + 1)
    np.maximum.at(radii, basins.ravel(), distance.ravel())
    areas = np.bincount(basins[core], minlength=count + 1).astype(np.float64)
    into = _merge(_necks(basins, distance), radii, areas, least_radius_px, neck_ratio)
    _, renumbered = np.unique(into[basins], return_inverse=True)
    return renumbered.reshape(basins.shape).astype(np.int32)


def _may_split(squared: Int32Array, is_peak: BoolArray, wide_px: float) -> bool:
    """Could there be a neck between two of the peaks? Most objects that are no disc have none, and need no watershed.

    If all peaks lie in one piece of what is at least ``wide_px`` from the border, then whatever two groups the basins are in,
    somewhere in this piece two basins of different groups touch, at a neck that wide; no bulge is larger than the largest, so
    the share of the neck in it is at least ``neck_ratio``, and they are joined.
    """
    wide = squared >= wide_px**2 * (1 + 1e-9)  # to be on the safe side of the rounding of the ratio
    if (is_peak & ~wide).any():
        return True
    return int(ndimage.label(wide, EIGHT)[1]) > 1


def _necks(basins: Labels, distance: FloatArray) -> dict[tuple[int, int], float]:
    """Half width of the neck between each two basins that touch: the largest distance on their common border."""
    height, width = basins.shape
    pairs, levels = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - dy), slice(max(0, -dx), min(width, width - dx)))
        there = (slice(dy, height), slice(max(0, dx), min(width, width + dx)))
        border = np.nonzero((basins[here] != basins[there]) & (basins[here] > 0) & (basins[there] > 0))
        one, other = basins[here][border].astype(np.int64), basins[there][border].astype(np.int64)
        pairs.append(np.minimum(one, other) << 32 | np.maximum(one, other))
        levels.append(np.minimum(distance[here][border], distance[there][border]))
    keys, place = np.unique(np.concatenate(pairs), return_inverse=True)
    widest = np.zeros(len(keys))
    np.maximum.at(widest, place, np.concatenate(levels))
    return {(key >> 32, key & 0xFFFFFFFF): level for key, level in zip(keys.tolist(), widest.tolist(), strict=True)}


def _merge(
    necks: dict[tuple[int, int], float], radii: FloatArray, areas: FloatArray, least_radius_px: float, neck_ratio: float
) -> npt.NDArray[np.intp]:
    """Join neighbours that are no two objects, the widest neck first, until only real necks are left; returns basin -> part."""
    into = np.arange(len(radii))

    def width(one: int, other: int, neck: float) -> float:
        """The neck over the smaller bulge, as a share of what may split; infinite where a bulge is no object."""
        share = neck / min(radii[one], radii[other]) / neck_ratio
        for basin in (one, other):
            if radii[basin] < least_radius_px:
                share = max(share, neck / radii[basin] / (neck_ratio * _SLENDER_NECK))
                if areas[basin] < _SLENDER_AREA * least_radius_px**2:
                    return float("inf")
        return float(share)

    while necks:
        # Of several that are equally wide, the one with the larger neck, then the higher number: any fixed order will do.
        widest, _, keep, gone = max((width(a, b, neck), neck, a, b) for (a, b), neck in necks.items())
        if widest < 1:
            break
        into[into == gone] = keep
        radii[keep] = max(radii[keep], radii[gone])
        areas[keep] += areas[gone]
        merged: dict[tuple[int, int], float] = {}
        for pair, neck in necks.items():
            one, other = sorted(keep if basin == gone else basin for basin in pair)
            if one != other:
                merged[one, other] = max(merged.get((one, other), 0.0), neck)
        necks = merged
    return into
