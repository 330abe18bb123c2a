"""Divide a slide into blocks for detection, and read the pixels of a block.

A grid of detection pixels covers the scanned part of the slide. A detection pixel is a pixel of a pyramid level, or the mean of
a square of them. Blocks divide the grid into cores, and each block is read once with a halo around its core. An object belongs
to the block whose core contains its owner point. Therefore the objects of a slide depend neither on the size of the blocks nor
on which worker reads them.
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

# A level may be coarser than the wanted resolution by this factor: reading it saves three quarters of the pixels.
_COARSER_BY = 1.25

#: Side of a cell in detection pixels. The grid is read cell by cell, for two reasons: where the factor of a level is not a whole
#: number, OpenSlide resamples, so reads must start at the same places for every block; and a failed read loses only one cell.
CELL_PX = 512


@dataclass(frozen=True)
class Grid:
    """The detection pixels of a slide. Pixel (0, 0) is at the top left corner of the scanned part.

    Attributes:
        level: The pyramid level that is read.
        factor: Level pixels per detection pixel, along each axis.
        left_px: Column 0 of the grid, in level pixels.
        top_px: Row 0 of the grid, in level pixels.
        width: Number of columns, in detection pixels.
        height: Number of rows, in detection pixels.
        mpp: Micrometres per detection pixel.
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
        """Level-0 pixels per detection pixel along x."""
        return self.factor * self.level.downsample_x

    @property
    def scale_y(self) -> float:
        """Level-0 pixels per detection pixel along y."""
        return self.factor * self.level.downsample_y

    @property
    def x0_px(self) -> float:
        """Left edge of the grid in level-0 pixels."""
        return self.left_px * self.level.downsample_x

    @property
    def y0_px(self) -> float:
        """Top edge of the grid in level-0 pixels."""
        return self.top_px * self.level.downsample_y

    def from_level0(self, box: Box) -> Box:
        """Return a box in detection pixels, rounded, for a box in level-0 pixels."""
        return Box(
            round((box.x0 - self.x0_px) / self.scale_x),
            round((box.y0 - self.y0_px) / self.scale_y),
            round((box.x1 - self.x0_px) / self.scale_x),
            round((box.y1 - self.y0_px) / self.scale_y),
        )


@dataclass(frozen=True)
class Block:
    """A part of the grid that is read and detected in one task.

    Attributes:
        core: The block owns the objects whose owner point lies here, in detection pixels of the grid.
        window: What the block reads, core and halo, in detection pixels of the grid.
    """

    core: Box
    window: Box


@dataclass(frozen=True)
class Window:
    """The pixels of a block.

    Attributes:
        region: The pixels as the detector receives them; those that could not be read count as not scanned.
        failed: bool (H, W), True where a pixel could not be read.
        reasons: Why cells could not be read, one line per cell.
    """

    region: Region
    failed: BoolArray
    reasons: tuple[str, ...]


def plan_grid(meta: SlideMeta, mpp: float) -> Grid:
    """Return the grid of a slide for a detector.

    The grid uses the coarsest level that is at most 1.25 times coarser than wanted, and averages its pixels by the whole factor
    that comes nearest to the wanted resolution.

    Args:
        meta: Metadata of the slide.
        mpp: The resolution that the detector wants, in micrometres per pixel.
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
    """Divide the grid into blocks. Every pixel of the grid lies in the core of exactly one block.

    Windows start at multiples of the detector's `align_px`. They extend beyond the grid by at most one such step, because the
    pixels outside the grid are not scanned.

    Args:
        grid: The detection pixels of the slide.
        detector: Gives the halo and the alignment.
        core_px: Approximate side of a core, in detection pixels.
    """
    align = detector.align_px
    halo = math.ceil(detector.halo_um / grid.mpp)

    def cuts(length: int) -> list[int]:
        # Blocks of equal size: a narrow last block would consist almost only of halo.
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
    """Read a window cell by cell. A cell that cannot be read is marked as failed; the others are kept.

    Args:
        slide: The open slide.
        grid: The detection pixels of the slide.
        window: The window in detection pixels of the grid. It may extend beyond the grid.
    """
    height, width = window.height, window.width
    rgb = np.empty((height, width, 3), np.uint8)  # filled completely, because the cells cover the window
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
    # Cells start at multiples of CELL_PX of the grid, so that all blocks that read a cell get the same pixels. A cell at the edge
    # of the window is cut there; the cut lies on a whole level pixel, see _read_cell.
    for top in range(window.y0 // CELL_PX * CELL_PX, window.y1, CELL_PX):
        for left in range(window.x0 // CELL_PX * CELL_PX, window.x1, CELL_PX):
            yield Box(left, top, left + CELL_PX, top + CELL_PX).intersection(window)


def _read_cell(slide: SlideReader, grid: Grid, cell: Box) -> tuple[UInt8Array, BoolArray]:
    factor = grid.factor
    whole = float(grid.level.downsample).is_integer()
    # Where the level's factor is not a whole number, reading a part of a cell returns other pixels than reading all of it: there,
    # always read the whole cell.
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
    for dy in range(factor):  # sums of strided slices need no temporary array of the full size
        for dx in range(factor):
            total += rgb[dy::factor, dx::factor]
    count = factor * factor
    return ((total + count // 2) // count).astype(np.uint8)


def _limit_to_grid(mask: BoolArray, grid: Grid, window: Box) -> None:
    # Outside the bounds nothing counts as scanned, even where a reader returns pixels there.
    inside = window.intersection(Box(0, 0, grid.width, grid.height))
    mask[: inside.y0 - window.y0] = False
    mask[inside.y1 - window.y0 :] = False
    mask[:, : inside.x0 - window.x0] = False
    mask[:, inside.x1 - window.x0 :] = False
