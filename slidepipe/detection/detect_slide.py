"""Detect the objects of a slide block by block, as boxes in level-0 pixels, and measure the analysed and the lost area."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from slidepipe.detection.blocks import Block, Grid, Window, read_window
from slidepipe.interfaces import BoolArray, Detections, Detector, FloatArray, IntArray
from slidepipe.slides.geometry import Box, LostRegion, SlideMeta
from slidepipe.slides.reader import BLOCK_CACHE_BYTES, SlideReader


@dataclass(frozen=True)
class BoxTable:
    """Objects of a slide or of one block, as arrays of the same length N.

    Attributes:
        boxes: int64 (N, 4), x0, y0, x1, y1, half-open, level-0 pixels of the whole slide.
        area_um2: float64 (N,), area of the object's mask in square micrometres.
        score: float64 (N,), 0 to 1.
        cut: bool (N,), True where the object touches pixels that were not scanned or could not be read.
    """

    boxes: IntArray
    area_um2: FloatArray
    score: FloatArray
    cut: BoolArray

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class BlockResult:
    """Result of one block.

    Attributes:
        table: The objects that the block owns.
        analysed_mm2: Area of the core that was analysed.
        lost_mm2: Area of the core that could not be read.
        lost_regions: The core, once for each reason why a part of it could not be read; empty if all of it was read.
    """

    table: BoxTable
    analysed_mm2: float
    lost_mm2: float
    lost_regions: tuple[LostRegion, ...]


def detect_block(slide: SlideReader, grid: Grid, block: Block, detector: Detector) -> BlockResult:
    """Read one block with its halo, detect, and keep the objects that the block owns.

    A part that cannot be read is given to the detector as not scanned. It counts as lost area, never as empty field.

    Args:
        slide: The open slide.
        grid: The detection pixels of the slide.
        block: The block, in detection pixels.
        detector: The detector.
    """
    slide.set_cache_size(BLOCK_CACHE_BYTES)
    window = read_window(slide, grid, block.window)
    core = block.core
    inside = np.s_[
        core.y0 - block.window.y0 : core.y1 - block.window.y0, core.x0 - block.window.x0 : core.x1 - block.window.x0
    ]
    pixel_mm2 = grid.mpp * grid.mpp * 1e-6
    lost_mm2 = float(window.failed[inside].sum()) * pixel_mm2
    core_box = Box(*_to_level0(grid, np.array([[core.x0, core.y0, core.x1, core.y1]], float))[0].tolist())
    return BlockResult(
        table=_owned_objects(slide.meta, grid, block, _detect(detector, window, block)),
        analysed_mm2=float(window.region.scanned[inside].sum()) * pixel_mm2,
        lost_mm2=lost_mm2,
        # What is lost in the halo is reported by the blocks that own it.
        lost_regions=tuple(LostRegion(core_box, reason) for reason in dict.fromkeys(window.reasons))
        if lost_mm2
        else (),
    )


def merge_blocks(tables: Iterable[BoxTable]) -> BoxTable:
    """Return all objects of a slide, sorted by y0, x0, x1, y1.

    The order therefore does not depend on the size of the blocks, on the workers or on the order in which blocks finish.

    Args:
        tables: The objects of each block.
    """
    parts = list(tables)
    boxes = np.concatenate([part.boxes for part in parts]) if parts else np.zeros((0, 4), np.int64)
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 0], boxes[:, 1]))

    def joined(name: str, empty: np.dtype[np.generic]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return np.concatenate([getattr(part, name) for part in parts])[order] if parts else np.zeros(0, empty)

    return BoxTable(
        boxes=boxes[order],
        area_um2=joined("area_um2", np.dtype(float)).astype(np.float64),
        score=joined("score", np.dtype(float)).astype(np.float64),
        cut=joined("cut", np.dtype(bool)).astype(np.bool_),
    )


def _detect(detector: Detector, window: Window, block: Block) -> Detections:
    # The detector may skip objects that other blocks own: the halo is nearly half of a window.
    core, left, top = block.core, block.window.x0, block.window.y0
    return detector.detect_owned(window.region, (core.x0 - left, core.y0 - top, core.x1 - left, core.y1 - top))


def _owned_objects(meta: SlideMeta, grid: Grid, block: Block, found: Detections) -> BoxTable:
    """Return the objects whose owner point lies in the core of the block, in level-0 pixels."""
    core = block.core
    offset = np.array([block.window.x0, block.window.y0], float)
    owner = found.owner + offset
    owned = (owner[:, 0] >= core.x0) & (owner[:, 0] < core.x1) & (owner[:, 1] >= core.y0) & (owner[:, 1] < core.y1)
    boxes = _to_level0(grid, found.boxes[owned] + np.tile(offset, 2))
    limits = meta.bounds
    boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(limits.x0, limits.x1)
    boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(limits.y0, limits.y1)
    return BoxTable(
        boxes=boxes,
        area_um2=found.area[owned] * grid.mpp * grid.mpp,
        score=found.score[owned].astype(np.float64),
        cut=found.cut[owned],
    )


def _to_level0(grid: Grid, boxes: FloatArray) -> IntArray:
    """Convert boxes (N, 4) from detection pixels to level-0 pixels, rounded."""
    scale = np.array([grid.scale_x, grid.scale_y] * 2)
    origin = np.array([grid.x0_px, grid.y0_px] * 2)
    rounded: IntArray = np.rint(boxes * scale + origin).astype(np.int64)
    return rounded
