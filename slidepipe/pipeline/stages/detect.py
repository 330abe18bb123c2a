"""The stage "detect": the boxes of a slide's objects."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from slidepipe.config import Config
from slidepipe.detection.blocks import Block, Grid, plan_blocks, plan_grid, read_window
from slidepipe.detection.detect_slide import BlockResult, detect_block, merge_blocks
from slidepipe.errors import SlideError
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.pipeline.stages.stage import Expect, Retry, Stage
from slidepipe.pipeline.tasks import get_detector
from slidepipe.slides.geometry import Box, LostRegion, SlideMeta

_NAME = "detect"


def count_blocks(state: SlideState, config: Config) -> int:
    """Return the number of blocks that detection still has to do for this slide."""
    if state.job is None or state.absent or not DETECT.must_run(state):
        return 0
    return len(_plan(state, config)[1])


def _depends_on(job: SlideJob, meta: SlideMeta, before: str) -> tuple[object, ...]:
    return job.identity, (meta.mpp_x, meta.mpp_y), job.detector.digest


def _plan(state: SlideState, config: Config) -> tuple[Grid, list[Block]]:
    job, meta = state.job, state.meta
    if job is None or meta is None:
        raise SlideError(f"{state.slide.path}: cannot be opened")
    detector = get_detector(job.detector)
    grid = plan_grid(meta, detector.mpp)
    return grid, plan_blocks(grid, detector, config.detector.block_px)


def _work(state: SlideState, config: Config, expect: Expect) -> Work:
    job = state.job_with_slide()
    started = perf_counter()
    grid, blocks = _plan(state, config)  # their number is known before the run starts, so it is not reported here
    results = yield [Task(detect_in_block, (job, grid, block), counts_for=_NAME) for block in blocks]
    if len(results) != len(blocks):
        raise SlideError(f"{job.path}: {len(blocks)} blocks planned, {len(results)} done")
    # A disk or network that failed for a moment may work again.
    again = [index for index, result in enumerate(results) if result.lost_regions]
    redone = yield [Task(detect_in_block, (job, grid, blocks[index]), counts_for=_NAME) for index in again]
    for index, result in zip(again, redone, strict=True):
        results[index] = result
    lost = [region for result in results for region in result.lost_regions]
    # Nothing is stored, so that the next run tries the slide again.
    if lost and not any(result.analysed_mm2 for result in results):
        raise SlideError(f"{job.path}: no part of the slide can be read ({lost[0].reason})")
    yield [Task(publish_boxes, (job, results, perf_counter() - started))]


def _retry_lost(state: SlideState, config: Config) -> Retry:
    lost = state.lost_in("boxes")
    if state.job is None or not lost:
        return False
    grid, _ = _plan(state, config)
    boxes = list(dict.fromkeys(LostRegion.from_stored(pair).box for pair in lost))
    (now_mm2,) = yield [Task(measure_lost_mm2, (state.job, grid, boxes))]
    return bool(now_mm2 < 0.999 * float(state.job.store.attributes("boxes")["lost_mm2"]))


# -- tasks --------------------------------------------------------------------------------------------------------------


def detect_in_block(job: SlideJob, grid: Grid, block: Block) -> BlockResult:
    """Detect the objects of one block."""
    result = detect_block(job.open_slide(), grid, block, get_detector(job.detector))
    lost = tuple(LostRegion(region.box, job.without_path(region.reason)) for region in result.lost_regions)
    return replace(result, lost_regions=lost)


def measure_lost_mm2(job: SlideJob, grid: Grid, boxes: Sequence[Box]) -> float:
    """Return the area (mm²) that still cannot be read of boxes (level-0 pixels) that could not be read before."""
    lost_px = 0
    for box in boxes:
        lost_px += int(read_window(job.open_slide(), grid, grid.from_level0(box)).failed.sum())
    return lost_px * grid.mpp * grid.mpp * 1e-6


def publish_boxes(job: SlideJob, results: Sequence[BlockResult], seconds: float) -> None:
    """Join the blocks of a slide and publish its boxes.

    Args:
        job: the work on the slide.
        results: one result per block.
        seconds: how long detection took.
    """
    table = merge_blocks(result.table for result in results)
    analysed = float(np.sum([result.analysed_mm2 for result in results]))
    lost = float(np.sum([result.lost_mm2 for result in results]))

    def write(group: Any) -> None:
        for name in ("boxes", "area_um2", "score", "cut"):
            group.create_array(name, data=getattr(table, name))

    attributes = {
        "objects": len(table),
        "blocks": len(results),
        "analysed_mm2": analysed,
        "lost_mm2": lost,
        "lost": [region.to_stored() for result in results for region in result.lost_regions],
        "seconds": round(seconds, 3),
    }
    job.store.unpublish(*job.stages_after("boxes"))  # they belong to the earlier boxes
    job.store.publish("boxes", job.fingerprints["boxes"], attributes, write)


DETECT = Stage(
    name=_NAME,
    stored="boxes",
    version=1,
    unit="block",
    depends_on=_depends_on,
    work=_work,
    count_units=lambda result: 1,
    retry_lost=_retry_lost,
)
