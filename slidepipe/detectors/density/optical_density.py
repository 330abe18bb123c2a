"""Compute optical density relative to the local background, in integers.

The background of a bright-field scan varies over a slide (illumination, thickness of the mounting medium), so a fixed grey level
has no meaning. Each cell of a fixed grid gives one grey level, a high percentile of its scanned pixels. A rank over the
neighbouring cells replaces the cells that an object covers. Between cell centres the level is interpolated.

A pixel gets the same value in every window: the calculation uses integers, depends on pixels at most `BACKGROUND_REACH_PX` away,
and has no sums that run along a window.
"""

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import BoolArray, UInt8Array

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

CELL_PX = 16
"""Side of a background cell in pixels. Windows start at multiples of it."""
NEIGHBOURS = 4
"""Cells on each side that the rank of the background includes: 9 x 9 cells of 16 px, so 144 px."""
BACKGROUND_REACH_PX = (NEIGHBOURS + 2) * CELL_PX
"""Largest distance to a pixel that the density of a pixel depends on: the next cell, its neighbours and their width."""

UNKNOWN = -1
"""Background of a cell where too few pixels near it were scanned."""

_CELL_PERCENT = 70
_NEIGHBOUR_PERCENT = 65
# A quarter of the sampled pixels. In a thinner rim the scanner blends the pixels with its fill colour.
_LEAST_SCANNED = CELL_PX**2 // 16
_FAR_TOO_DENSE = np.int32(2_000_000)  # excludes the pixel even at the smallest interpolation weight, 1 / 1024
# Lambert-Beer: OD = -log10(I / I0), in thousandths. A black pixel (I = 0) counts as half a grey level.
_OD_OF_GREY: Int16Array = np.round(-1000 * np.log10(np.maximum(np.arange(256), 0.5) / 255)).astype(np.int16)


def grey_of(rgb: UInt8Array) -> UInt8Array:
    """Return the darker of green and blue.

    Pollen and dinocysts are yellow to brown: they absorb mainly blue, then green, and hardly any red. Black matter absorbs all
    three.

    Args:
        rgb: uint8 (H, W, 3), sRGB.

    Returns:
        uint8 (H, W).
    """
    return np.minimum(rgb[..., 1], rgb[..., 2])


def density(grey: UInt8Array, scanned: BoolArray, background: Int16Array) -> Int16Array:
    """Return the optical density relative to the local background, in thousandths.

    Args:
        grey: uint8 (H, W), both sides multiples of `CELL_PX`.
        scanned: bool (H, W), True where the slide was scanned.
        background: The result of `background_of`.

    Returns:
        int16 (H, W), negative for pixels brighter than the background. It is 0 for pixels that were not scanned, and for
        scanned pixels without a background (less than a quarter of every cell near them was scanned).
    """
    columns = background.shape[1]
    known = bool((background != UNKNOWN).all())
    levels: Int32Array = np.where(background == UNKNOWN, _FAR_TOO_DENSE, background.astype(np.int32))
    levels = np.pad(levels, 1, mode="edge")
    # A pixel lies between two cell centres. The weights count half pixels, so that they are whole numbers.
    whole, half = 2 * CELL_PX, CELL_PX // 2
    bits = 2 * (whole.bit_length() - 1)  # whole is a power of two: a shift divides by whole ** 2 faster
    offset = np.arange(CELL_PX)
    weight = ((2 * offset + 1 + CELL_PX) % whole).astype(np.int32)
    column = np.repeat(np.arange(columns), CELL_PX) + np.tile((offset >= half).astype(np.intp), columns)
    column_weight = np.tile(weight, columns)
    across: Int32Array = levels[:, column] * (whole - column_weight) + levels[:, column + 1] * column_weight
    first: Int32Array = across[:-1] * whole + whole * whole // 2
    step: Int32Array = across[1:] - across[:-1]
    out: Int16Array = np.empty(grey.shape, np.int16)
    for top in range(0, grey.shape[0], half):  # rows between two cell centres, few enough for the processor cache
        strip = slice(top, top + half)
        above = (top + half) // CELL_PX
        level = step[above] * weight[top % CELL_PX : top % CELL_PX + half, None]
        level += first[above]
        level >>= bits
        if not known:
            np.minimum(level, np.iinfo(np.int16).max, out=level)
        # All indices are valid. The mode "wrap" saves the check for it.
        np.subtract(_OD_OF_GREY.take(grey[strip], mode="wrap"), level.astype(np.int16), out=out[strip])
    if not (known and scanned.all()):
        out[~scanned | (out < np.iinfo(np.int16).min // 2)] = 0
    return out


def background_of(grey: UInt8Array, scanned: BoolArray) -> Int16Array:
    """Return the background of each cell as optical density in thousandths.

    Args:
        grey: uint8 (H, W), both sides multiples of `CELL_PX`.
        scanned: bool (H, W), True where the slide was scanned.

    Returns:
        int16 (H / 16, W / 16), or `UNKNOWN` where too few pixels were scanned.
    """
    # Every second pixel along both axes gives the same background as all pixels.
    values = _cells(np.where(scanned[::2, ::2], grey[::2, ::2].astype(np.int16), np.int16(UNKNOWN)), CELL_PX // 2)
    cells = _rank(values, _CELL_PERCENT, _LEAST_SCANNED)
    rows, columns = cells.shape
    padded = np.pad(cells, NEIGHBOURS, constant_values=UNKNOWN)
    side = 2 * NEIGHBOURS + 1
    around = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).reshape(rows, columns, side * side)
    levels = _rank(around, _NEIGHBOUR_PERCENT, 1)
    return np.where(levels == UNKNOWN, np.int16(UNKNOWN), _OD_OF_GREY[np.maximum(levels, 0)])


def _cells(image: Int16Array, side: int) -> Int16Array:
    """Divide (H, W) into squares of `side` pixels: (H / side, W / side, side * side)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side * side)


def _rank(values: Int16Array, percent: int, least: int) -> Int16Array:
    """Return the percentile (nearest rank) of the known values along the last axis; -1 if fewer than `least` are known."""
    ordered = np.sort(values, axis=-1)  # unknown values are -1, so they come first
    unknown = (ordered == UNKNOWN).sum(axis=-1)
    known = values.shape[-1] - unknown
    index = unknown + (np.maximum(known - 1, 0) * percent + 50) // 100
    level: Int16Array = np.take_along_axis(ordered, np.minimum(index, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.where(known >= least, level, np.int16(UNKNOWN))
