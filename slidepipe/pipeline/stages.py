"""The stages of one slide: which tasks they are, in which order, and what is passed over because it is done already."""

from collections.abc import Generator
from time import perf_counter
from typing import Any

from slidepipe.config import Config
from slidepipe.detection.blocks import Block, plan_blocks, plan_grid
from slidepipe.errors import SlideError
from slidepipe.pipeline import tasks
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.plan import SlideState
from slidepipe.pipeline.progress import Progress
from slidepipe.store.slide_store import STAGE_NAMES, StageName

#: Yields tasks, is sent their results, returns nothing: a piece of a slide's work.
_Step = Generator[list[Task], list[Any], None]


def slide_steps(state: SlideState, config: Config, progress: Progress) -> Work:
    """The stages of one slide: yields their tasks, is sent the results. A stage that is published is passed over."""
    if state.job is None:
        return
    if not state.absent:
        yield from _look_again(state, config)
    state.stage = "detect"
    if not is_done(state, "boxes"):
        yield from _detect(state, config)
    objects = int(state.job.store.attributes("boxes")["objects"])
    state.stage = "crop"
    kept = _has_pixels(state) or (is_done(state, "embeddings") and not state.job.keep_crops)
    if not (is_done(state, "crops") and kept):
        progress.planned("crop", objects)
        yield from _crop(state, tasks.count_parts(objects))
    state.stage = "embed"
    if not is_done(state, "embeddings"):
        started = perf_counter()
        progress.planned("embed", objects)
        parts = tasks.count_parts(objects, state.job.embed.batch)
        embedding = [Task(tasks.embed_part, (state.job, part), gpu=True) for part in range(parts)]
        if state.job.embed.beside is not None:  # by the processes without a card, where there is one
            embedding += [Task(tasks.embed_beside_part, (state.job, parts, part)) for part in range(parts)]
        yield embedding
        yield [Task(tasks.publish_embeddings, (state.job, parts, perf_counter() - started))]
    if not state.job.keep_crops and _has_pixels(state):
        yield [Task(tasks.strip_crops, (state.job,))]


def is_done(state: SlideState, stage: StageName) -> bool:
    """Whether a stage of the slide is published as the settings want it."""
    return state.job is not None and state.job.store.is_done(stage, state.job.fingerprints[stage])


def is_enough(state: SlideState) -> bool:
    """Whether what is stored of a slide does without its file."""
    if state.failure or not is_done(state, "boxes"):
        return bool(state.failure)  # it is lost either way
    return is_done(state, "embeddings") or (is_done(state, "crops") and _has_pixels(state))


def is_finished(state: SlideState) -> bool:
    """Whether nothing is left to do on a slide. One that is partial is looked at again: what was lost may be readable now."""
    if state.job is None or not all(is_done(state, stage) for stage in STAGE_NAMES):
        return False
    return state.absent or (not _losses(state) and _has_pixels(state) == state.job.keep_crops)


def count_objects(state: SlideState) -> int:
    """The objects of a slide whose stages are published; 0 for one that failed."""
    if state.job is None or state.failure:
        return 0
    return int(state.job.store.attributes("boxes").get("objects", 0))


def count_blocks(state: SlideState, config: Config) -> int:
    """The blocks that detection of this slide has ahead."""
    return 0 if state.job is None or state.absent or is_done(state, "boxes") else len(_blocks(state, config)[1])


def _detect(state: SlideState, config: Config) -> _Step:
    job = _present(state)
    started = perf_counter()
    grid, blocks = _blocks(state, config)
    results = yield [Task(tasks.detect, (job, grid, block)) for block in blocks]
    if len(results) != len(blocks):
        raise SlideError(f"{job.path}: {len(blocks)} blocks planned, {len(results)} done")
    # A disk or network that stumbled may be back by now.
    again = [index for index, result in enumerate(results) if result.lost_regions]
    redone = yield [Task(tasks.detect, (job, grid, blocks[index])) for index in again]
    for index, result in zip(again, redone, strict=True):
        results[index] = result
    lost = [region for result in results for region in result.lost_regions]
    # Not published: what could not be read tonight may be read tomorrow.
    if lost and not any(result.analysed_mm2 for result in results):
        raise SlideError(f"{job.path}: none of it can be read ({lost[0][1]})")
    yield [Task(tasks.publish_boxes, (job, results, perf_counter() - started))]


def _crop(state: SlideState, parts: int) -> _Step:
    job = _present(state)
    started = perf_counter()
    yield [Task(tasks.crop_part, (job, part)) for part in range(parts)]
    (lost,) = yield [Task(tasks.find_lost_parts, (job, parts))]
    yield [Task(tasks.crop_part, (job, part, True)) for part in lost]
    yield [Task(tasks.publish_crops, (job, parts, perf_counter() - started))]


def _look_again(state: SlideState, config: Config) -> _Step:
    """Try what could not be read at an earlier run; where that has changed, the stage is made anew, and those after it."""
    job, losses = state.job, _losses(state)
    if job is None or not losses:
        return
    state.stage = "detect"
    if "boxes" in losses:
        grid, _ = _blocks(state, config)
        regions = [region for region, _ in losses["boxes"]]
        (now_mm2,) = yield [Task(tasks.measure_lost_mm2, (job, grid, list(dict.fromkeys(regions))))]
        if now_mm2 < 0.999 * float(job.store.attributes("boxes")["lost_mm2"]):
            job.store.unpublish(*STAGE_NAMES)
            return
    if "crops" in losses:
        rows = [int(row) for row in losses["crops"]]
        (lost,) = yield [Task(tasks.count_lost_crops, (job, rows))]
        if lost < len(rows):
            job.store.unpublish("crops", "embeddings")


def _losses(state: SlideState) -> dict[StageName, Any]:
    """What the published stages of a slide say that they could not read."""
    if state.job is None:
        return {}
    found: dict[StageName, Any] = {}
    for stage in ("boxes", "crops"):
        lost = state.job.store.attributes(stage).get("lost") if is_done(state, stage) else None
        if lost:
            found[stage] = lost
    return found


def _has_pixels(state: SlideState) -> bool:
    return state.job is not None and bool(state.job.store.attributes("crops").get("kept"))


def _blocks(state: SlideState, config: Config) -> tuple[Any, list[Block]]:
    job, meta = state.job, state.meta
    if job is None or meta is None:
        raise SlideError(f"{state.slide.path}: cannot be opened")
    detector = tasks.get_detector(job.detector)
    grid = plan_grid(meta, detector.mpp)
    return grid, plan_blocks(grid, detector, config.detector.block_px)


def _present(state: SlideState) -> tasks.SlideJob:
    """The job of a slide whose file is needed now.

    Raises:
        SlideError: the slide is absent, and what is stored of it does not reach for these settings.
    """
    if state.job is None or state.absent:
        raise SlideError(
            f"{state.slide.path}: the slide is not there, and what is stored of it is not enough for these settings. "
            "Bring it back, or give the settings it was stored with"
        )
    return state.job
