"""Optical density against the local background, in integers, so that a pixel gets the same value in every window.

The background of a bright-field scan drifts over a slide (illumination, thickness of the mounting medium), so a fixed grey level
means nothing. Here each cell of a fixed grid gives one grey level, a high percentile of its scanned pixels; a rank over the
neighbouring cells bridges those that an object covers; between cell centres the level is interpolated. All of this has finite
reach (:data:`BACKGROUND_REACH_PX`) and no sum runs along a window, so nothing depends on where a window starts.
"""

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import BoolArray, UInt8Array

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

CELL_PX = 16
"""Side of a background cell; windows start on multiples of it."""
NEIGHBOURS = 4
"""The background is a rank over this many cells to each side: 9 x 9 cells of 16 px, 144 px."""
BACKGROUND_REACH_PX = (NEIGHBOURS + 2) * CELL_PX
"""A pixel's density depends on others at most this far away: the next cell (interpolation), its neighbours, their width."""

UNKNOWN = -1
"""Background of a cell where too little near it was scanned."""

_CELL_PERCENT = 70
_NEIGHBOUR_PERCENT = 65
_LEAST_SCANNED = CELL_PX**2 // 16  # a quarter of the pixels looked at: a thinner rim is blended with the scanner's fill
_FAR_TOO_DENSE = np.int32(2_000_000)  # even at the least weight of an interpolation (1 / 1024) it hides the pixel
# Lambert-Beer: OD = -log10(I / I0), in thousandths. A black pixel (I = 0) counts as half a grey level.
_OD_OF_GREY: Int16Array = np.round(-1000 * np.log10(np.maximum(np.arange(256), 0.5) / 255)).astype(np.int16)


def grey_of(rgb: UInt8Array) -> UInt8Array:
    """The darker of green and blue, uint8 (H, W), of uint8 (H, W, 3).

    Pollen and dinocysts are yellow to brown: they absorb blue first, then green and hardly red; black matter absorbs all three.
    """
    return np.minimum(rgb[..., 1], rgb[..., 2])


def density(grey: UInt8Array, scanned: BoolArray, background: Int16Array) -> Int16Array:
    """Optical density over the local background, in thousandths: int16 (H, W), negative on pixels brighter than the background.

    ``grey`` is uint8 and ``scanned`` bool, (H, W), both sides multiples of :data:`CELL_PX`; ``background`` is that of
    :func:`background_of`. Unscanned pixels get 0; so do slivers of scan too thin to have a background (less than a quarter of
    every cell near them).
    """
    columns = background.shape[1]
    known = bool((background != UNKNOWN).all())
    levels: Int32Array = np.where(background == UNKNOWN, _FAR_TOO_DENSE, background.astype(np.int32))
    levels = np.pad(levels, 1, mode="edge")
    # A pixel lies between two cell centres; weights count in half pixels, so that they are whole numbers.
    whole, half = 2 * CELL_PX, CELL_PX // 2
    bits = 2 * (whole.bit_length() - 1)  # whole is a power of two: a shift is the quicker division by whole ** 2
    offset = np.arange(CELL_PX)
    weight = ((2 * offset + 1 + CELL_PX) % whole).astype(np.int32)
    column = np.repeat(np.arange(columns), CELL_PX) + np.tile((offset >= half).astype(np.intp), columns)
    column_weight = np.tile(weight, columns)
    across: Int32Array = levels[:, column] * (whole - column_weight) + levels[:, column + 1] * column_weight
    first: Int32Array = across[:-1] * whole + whole * whole // 2
    step: Int32Array = across[1:] - across[:-1]
    out: Int16Array = np.empty(grey.shape, np.int16)
    for top in range(
        0, grey.shape[0], half
    ):  # half a row of cells lies between two centres, and stays in the processor's cache
        strip = slice(top, top + half)
        above = (top + half) // CELL_PX
        level = step[above] * weight[top % CELL_PX : top % CELL_PX + half, None]
        level += first[above]
        level >>= bits
        if not known:
            np.minimum(level, np.iinfo(np.int16).max, out=level)
        # No index lies outside, and "wrap" is the mode that does not look for one first.
        np.subtract(_OD_OF_GREY.take(grey[strip], mode="wrap"), level.astype(np.int16), out=out[strip])
    if not (known and scanned.all()):
        out[~scanned | (out < np.iinfo(np.int16).min // 2)] = 0
    return out


def background_of(grey: UInt8Array, scanned: BoolArray) -> Int16Array:
    """Background of each cell as optical density in thousandths, int16 (H / 16, W / 16), or :data:`UNKNOWN`.

    ``grey`` is uint8 and ``scanned`` bool, (H, W), both sides multiples of :data:`CELL_PX`.
    """
    # Every second pixel each way says as much of a background as all of them do.
    values = _cells(np.where(scanned[::2, ::2], grey[::2, ::2].astype(np.int16), np.int16(UNKNOWN)), CELL_PX // 2)
    cells = _rank(values, _CELL_PERCENT, _LEAST_SCANNED)
    rows, columns = cells.shape
    padded = np.pad(cells, NEIGHBOURS, constant_values=UNKNOWN)
    side = 2 * NEIGHBOURS + 1
    around = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).reshape(rows, columns, side * side)
    levels = _rank(around, _NEIGHBOUR_PERCENT, 1)
    return np.where(levels == UNKNOWN, np.int16(UNKNOWN), _OD_OF_GREY[np.maximum(levels, 0)])


def _cells(image: Int16Array, side: int) -> Int16Array:
    """Cut (H, W) into squares of ``side``: (H / side, W / side, side * side)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side * side)


def _rank(values: Int16Array, percent: int, least: int) -> Int16Array:
    """Percentile (nearest rank) of the known values along the last axis, -1 where fewer than ``least`` are known."""
    ordered = np.sort(values, axis=-1)  # unknown ones are -1 and come first
    unknown = (ordered == UNKNOWN).sum(axis=-1)
    known = values.shape[-1] - unknown
    index = unknown + (np.maximum(known - 1, 0) * percent + 50) // 100
    level: Int16Array = np.take_along_axis(ordered, np.minimum(index, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.where(known >= least, level, np.int16(UNKNOWN))
