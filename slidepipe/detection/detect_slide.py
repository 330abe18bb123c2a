"""Detection of one slide: blocks through a detector into boxes in level-0 pixels, with what was analysed and what was lost."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from slidepipe.detection.blocks import Block, Grid, read_window
from slidepipe.interfaces import BoolArray, Detections, Detector, FloatArray, IntArray
from slidepipe.slides.geometry import SlideMeta
from slidepipe.slides.reader import BLOCK_CACHE_BYTES, SlideReader


@dataclass(frozen=True)
class BoxTable:
    """Objects of one slide (or of one block of it), arrays of one length N.

    Attributes:
        boxes: int64 (N, 4), x0, y0, x1, y1 half-open, level-0 pixels of the whole slide.
        area_um2: float64 (N,), area of the object's mask.
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
    """What one block gave: the objects it owns, the area of its core that was analysed and lost, and why it was lost."""

    table: BoxTable
    analysed_mm2: float
    lost_mm2: float
    lost_regions: tuple[tuple[str, str], ...]
    """Pairs of region ("x0,y0,x1,y1" in level-0 pixels, or "" where unknown) and reason."""


def detect_block(slide: SlideReader, grid: Grid, block: Block, detector: Detector) -> BlockResult:
    """Read one block with its halo, detect, and keep what the block owns.

    A part that cannot be read is shown to the detector as not scanned and counted as lost, never as empty field.
    """
    slide.set_cache_size(BLOCK_CACHE_BYTES)
    window = read_window(slide, grid, block.window)
    core = block.core
    offset = np.array([block.window.x0, block.window.y0], float)
    # A detector that can tell early what the halo owns need not look at it closely: the halo is nearly half of a window.
    left, top = block.window.x0, block.window.y0
    found = detector.detect_owned(window.region, (core.x0 - left, core.y0 - top, core.x1 - left, core.y1 - top))
    owner = found.owner + offset
    owned = (owner[:, 0] >= core.x0) & (owner[:, 0] < core.x1) & (owner[:, 1] >= core.y0) & (owner[:, 1] < core.y1)

    inside = np.s_[
        core.y0 - block.window.y0 : core.y1 - block.window.y0, core.x0 - block.window.x0 : core.x1 - block.window.x0
    ]
    pixel_mm2 = grid.mpp * grid.mpp * 1e-6
    lost_mm2 = float(window.failed[inside].sum()) * pixel_mm2
    region = ",".join(
        str(edge) for edge in _to_level0(grid, np.array([[core.x0, core.y0, core.x1, core.y1]], float))[0]
    )
    return BlockResult(
        table=_table(slide.meta, grid, found, offset, owned),
        analysed_mm2=float(window.region.scanned[inside].sum()) * pixel_mm2,
        lost_mm2=lost_mm2,
        # The halo's losses are their own block's to report.
        lost_regions=tuple((region, reason) for reason in dict.fromkeys(window.reasons)) if lost_mm2 else (),
    )


def merge_blocks(tables: Iterable[BoxTable]) -> BoxTable:
    """All objects of a slide in one order that no block size, worker or finishing order can change: by place."""
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


def _table(meta: SlideMeta, grid: Grid, found: Detections, offset: FloatArray, owned: BoolArray) -> BoxTable:
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
    scale = np.array([grid.scale_x, grid.scale_y] * 2)
    origin = np.array([grid.x0_px, grid.y0_px] * 2)
    rounded: IntArray = np.rint(boxes * scale + origin).astype(np.int64)
    return rounded
