"""Split a mask into touching objects: it is cut at its necks, if its shape shows more than one object."""

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from slidepipe.interfaces import BoolArray, FloatArray
from slidepipe.masks import EIGHT, Int32Array, Labels, fill_holes, inner_distance_squared, largest_within

# The dense part of an object is used as its shape only if it has at least this share of its area. A pale object has none.
_DENSE_SHARE = 0.5
# A slender part, for example a spindle next to a sphere: smallest radius of its largest disc (share of the usual radius),
# smallest area (in squares of the usual radius), and how much narrower its neck must be than that of other parts.
_SLENDER_RADIUS, _SLENDER_AREA, _SLENDER_NECK = 0.5, 6.0, 0.83


def split_touching(mask: BoolArray, dense: BoolArray, least_radius_px: float, neck_ratio: float) -> Labels:
    """Split one connected mask without holes into objects.

    The distance to the border has a peak in the middle of every bulge. Two neighbouring bulges are two objects if the neck
    between them is narrower than `neck_ratio` times the smaller bulge. A bulge must contain a disc of `least_radius_px`, or
    be slender and long. The distances are measured in the dense pixels, because pale fringes that two neighbours share would
    hide the neck. A pale object has few dense pixels; its whole mask is used.

    Args:
        mask: bool (H, W).
        dense: bool (H, W), pixels that clearly belong to an object.
        least_radius_px: Radius of the disc that an object contains.
        neck_ratio: Largest width of a neck, relative to the smaller bulge.

    Returns:
        int32 (H, W), 0 outside the mask and 1 ... k inside.
    """
    area = int(np.count_nonzero(mask))
    # Without room for a second disc next to the largest one there is nothing to split. The second disc has at least half
    # the usual radius, so small masks need no measurement.
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
    # Few objects reach this line, and the import takes a tenth of a second per process.
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
    """Return whether there can be a neck between two of the peaks. Most objects have none, and need no watershed.

    Consider the pixels at least `wide_px` from the border. If all peaks lie in one connected piece of them, then for any
    division of the basins into two groups, two basins of different groups touch inside this piece, at a neck at least that
    wide. `wide_px` is `neck_ratio` times the largest bulge, so the neck is too wide to split, and the groups are merged.
    """
    wide = squared >= wide_px**2 * (1 + 1e-9)  # allows for the rounding of the ratio
    if (is_peak & ~wide).any():
        return True
    return int(ndimage.label(wide, EIGHT)[1]) > 1


def _necks(basins: Labels, distance: FloatArray) -> dict[tuple[int, int], float]:
    """Return half the width of the neck between each two basins that touch: the largest distance on their common border."""
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
    """Merge neighbours that are one object, the widest neck first, until only narrow necks are left; return part per basin."""
    into = np.arange(len(radii))

    def width(one: int, other: int, neck: float) -> float:
        """Return the neck relative to the smaller bulge and to the limit; infinite where a bulge is too small for an object."""
        share = neck / min(radii[one], radii[other]) / neck_ratio
        for basin in (one, other):
            if radii[basin] < least_radius_px:
                share = max(share, neck / radii[basin] / (neck_ratio * _SLENDER_NECK))
                if areas[basin] < _SLENDER_AREA * least_radius_px**2:
                    return float("inf")
        return float(share)

    while necks:
        # Among equally wide necks the larger one is first, then the higher numbers. Any fixed order is correct.
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
