"""Blocks: how a slide is cut for detection, and which block an object belongs to.

A slide's bounds are covered by a grid of detection pixels (a pyramid level, averaged down by a whole factor). Blocks
partition the grid into cores; each block is read once with a halo. An object belongs to the block whose core holds its
owner point, so the objects of a slide do not depend on how large the blocks are or who reads them.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slidepipe.errors import RegionError
from slidepipe.interfaces import BoolArray, Detector, Region, UInt8Array
from slidepipe.slides.geometry import Box, Level, SlideMeta
from slidepipe.slides.reader import SlideReader

#: A level up to this much coarser than wanted is still taken: it saves three quarters of the pixels.
_COARSER_BY = 1.25

#: Detection pixels read at a time: where the pyramid's factor is no whole number every read resamples, so reads start at
#: fixed places whatever the block; and where a read fails, only such a cell is lost.
CELL_PX = 512


@dataclass(frozen=True)
class Grid:
    """The detection pixels of a slide: pixel (0, 0) is the corner of the scan's bounds.

    Attributes:
        level: pyramid level that is read.
        factor: level pixels averaged into one detection pixel, along each axis.
        left_px: level pixel of the grid's column 0.
        top_px: level pixel of the grid's row 0.
        width: detection pixels across.
        height: detection pixels down.
        mpp: micrometres a detection pixel.
    """

    level: Level
    factor: int
    left_px: int
    top_px: int
    width: int
    height: int
    mpp: float

    @property
    def scale_x(self) -> float:
        """Level-0 pixels a detection pixel, across."""
        return self.factor * self.level.downsample_x

    @property
    def scale_y(self) -> float:
        """Level-0 pixels a detection pixel, down."""
        return self.factor * self.level.downsample_y

    @property
    def x0_px(self) -> float:
        """Level-0 x of the grid's left edge."""
        return self.left_px * self.level.downsample_x

    @property
    def y0_px(self) -> float:
        """Level-0 y of the grid's top edge."""
        return self.top_px * self.level.downsample_y


@dataclass(frozen=True)
class Block:
    """``core`` is what the block owns, ``window`` what it reads; both in detection pixels of the grid."""

    core: Box
    window: Box


@dataclass(frozen=True)
class Window:
    """The pixels of a block. ``failed`` marks what could not be read (shown as not scanned), ``reasons`` say why."""

    region: Region
    failed: BoolArray
    reasons: tuple[str, ...]


def plan_grid(meta: SlideMeta, mpp: float) -> Grid:
    """The grid on which a detector that wants ``mpp`` (um a pixel) sees the slide.

    The coarsest level that is not much coarser than wanted, averaged down by a whole factor to come nearest to it.
    """
    usable = [level for level in meta.levels if meta.mpp * level.downsample <= mpp * _COARSER_BY]
    level = max(usable, key=lambda level: level.downsample) if usable else meta.levels[0]
    level_mpp = meta.mpp * math.sqrt(level.downsample_x * level.downsample_y)
    factor = max(1, round(mpp / level_mpp))
    left, top = math.floor(meta.bounds.x0 / level.downsample_x), math.floor(meta.bounds.y0 / level.downsample_y)
    right, bottom = math.ceil(meta.bounds.x1 / level.downsample_x), math.ceil(meta.bounds.y1 / level.downsample_y)
    return Grid(
        level=level,
        factor=factor,
        left_px=left,
        top_px=top,
        width=math.ceil((right - left) / factor),
        height=math.ceil((bottom - top) / factor),
        mpp=level_mpp * factor,
    )


def plan_blocks(grid: Grid, detector: Detector, core_px: int) -> list[Block]:
    """Cover the grid with blocks of about ``core_px`` detection pixels a side, each with the detector's halo.

    Cores partition the grid. Windows start on multiples of the detector's ``align_px`` and reach at most one such step
    beyond the grid: what lies further is unscanned and would tell the detector nothing.
    """
    align = detector.align_px
    halo = math.ceil(detector.halo_um / grid.mpp)

    def cuts(length: int) -> list[int]:
        # Blocks of equal size: a last sliver would be nearly all halo.
        count = max(1, round(length / core_px))
        return [length * i // count for i in range(count + 1)]

    def reach(start: int, stop: int, length: int) -> tuple[int, int]:
        first = max((start - halo) // align, -1) * align
        last = min(-(-(stop + halo) // align), -(-length // align) + 1) * align
        return first, last

    columns, rows = cuts(grid.width), cuts(grid.height)
    blocks = []
    for y0, y1 in itertools.pairwise(rows):
        for x0, x1 in itertools.pairwise(columns):
            (left, right), (top, bottom) = reach(x0, x1, grid.width), reach(y0, y1, grid.height)
            blocks.append(Block(core=Box(x0, y0, x1, y1), window=Box(left, top, right, bottom)))
    return blocks


def read_window(slide: SlideReader, grid: Grid, window: Box) -> Window:
    """Read a window cell by cell; a cell that cannot be read is marked failed and the rest kept."""
    height, width = window.height, window.width
    rgb = np.empty((height, width, 3), np.uint8)  # every pixel is of a cell
    scanned = np.zeros((height, width), np.bool_)
    failed = np.zeros((height, width), np.bool_)
    reasons = []
    for cell in _cells(window):
        target = np.s_[cell.y0 - window.y0 : cell.y1 - window.y0, cell.x0 - window.x0 : cell.x1 - window.x0]
        try:
            rgb[target], scanned[target] = _read_cell(slide, grid, cell)
        except RegionError as error:
            rgb[target], failed[target] = slide.meta.background, True
            reasons.append(str(error))
    _limit_to_grid(scanned, grid, window)
    _limit_to_grid(failed, grid, window)
    return Window(Region(rgb, scanned, grid.mpp), failed, tuple(reasons))


def _cells(window: Box) -> Iterator[Box]:
    # Cells lie on multiples of CELL_PX of the grid, so that every block that reads one reads the same pixels. A read starts at
    # its cell's corner or, cut by the window, at the window's: those are whole level pixels apart, see _read_cell.
    for top in range(window.y0 // CELL_PX * CELL_PX, window.y1, CELL_PX):
        for left in range(window.x0 // CELL_PX * CELL_PX, window.x1, CELL_PX):
            yield Box(left, top, left + CELL_PX, top + CELL_PX).intersection(window)


def _read_cell(slide: SlideReader, grid: Grid, cell: Box) -> tuple[UInt8Array, BoolArray]:
    factor = grid.factor
    whole = float(grid.level.downsample).is_integer()
    # Reading only the wanted part of a cell gives other pixels where the factor is no whole number: there, read the cell whole.
    read = cell
    if not whole:
        left, top = cell.x0 // CELL_PX * CELL_PX, cell.y0 // CELL_PX * CELL_PX
        read = Box(left, top, left + CELL_PX, top + CELL_PX)
    rgb, scanned = slide.read(
        grid.level,
        grid.left_px + read.x0 * factor,
        grid.top_px + read.y0 * factor,
        read.width * factor,
        read.height * factor,
    )
    if factor > 1:
        rgb = _average(rgb, factor)
        scanned = np.asarray(scanned.reshape(read.height, factor, read.width, factor).all(axis=(1, 3)), np.bool_)
    part = np.s_[cell.y0 - read.y0 : cell.y1 - read.y0, cell.x0 - read.x0 : cell.x1 - read.x0]
    return rgb[part], scanned[part]


def _average(rgb: UInt8Array, factor: int) -> UInt8Array:
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    total = np.zeros((height, width, 3), np.uint32)
    for dy in range(factor):  # sums of strided views: no temporary of the full size
        for dx in range(factor):
            total += rgb[dy::factor, dx::factor]
    count = factor * factor
    return ((total + count // 2) // count).astype(np.uint8)


def _limit_to_grid(mask: BoolArray, grid: Grid, window: Box) -> None:
    # Beyond the bounds nothing counts as scanned, even where a reader draws something there.
    inside = window.intersection(Box(0, 0, grid.width, grid.height))
    mask[: inside.y0 - window.y0] = False
    mask[inside.y1 - window.y0 :] = False
    mask[:, : inside.x0 - window.x0] = False
    mask[:, inside.x1 - window.x0 :] = False
