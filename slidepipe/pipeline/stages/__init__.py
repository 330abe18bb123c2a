"""The stages of the work on a slide, in order. A new stage is a new file here and one more entry in `STAGES`."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from slidepipe.config import Config
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.pipeline.stages.crop import CROP
from slidepipe.pipeline.stages.detect import DETECT
from slidepipe.pipeline.stages.detect import count_blocks as count_blocks
from slidepipe.pipeline.stages.embed import EMBED
from slidepipe.pipeline.stages.stage import Stage
from slidepipe.slides.geometry import SlideMeta
from slidepipe.store.slide_store import StageName

STAGES: tuple[Stage, ...] = (DETECT, CROP, EMBED)


def fingerprint_stages(job: SlideJob, meta: SlideMeta) -> dict[StageName, str]:
    """Return the fingerprint that each stage of a slide must have to be used again, by the stage's name in the store."""
    fingerprints: dict[StageName, str] = {}
    before = ""
    for stage in STAGES:
        before = fingerprints[stage.stored] = stage.fingerprint(job, meta, before)
    return fingerprints


def slide_steps(state: SlideState, config: Config, expect: Callable[[str, int], None]) -> Work:
    """Yield the tasks of one slide, stage by stage, and receive their results. A stage whose result is stored is skipped.

    Args:
        state: the slide.
        config: the settings of the run.
        expect: receives a stage's name and the number of units of progress that it has found to do.
    """
    if state.job is None:
        return
    if not state.absent:
        yield from _retry_lost(state, config)
    for stage in STAGES:
        state.stage = stage.name
        if stage.must_run(state):
            yield from stage.work(state, config, partial(expect, stage.name))
    for stage in STAGES:
        if stage.clean_up is not None:
            yield from stage.clean_up(state)


def is_finished(state: SlideState) -> bool:
    """Return whether nothing is left to do on a slide.

    A partial slide is never finished: what could not be read may be readable at the next run.
    """
    if state.job is None or not all(state.is_done(stage.stored) for stage in STAGES):
        return False
    if state.absent:
        return True
    lost = any(state.lost_in(stage.stored) for stage in STAGES)
    return not lost and state.has_crop_pixels == state.job.keep_crops


def can_finish_without_slide(state: SlideState) -> bool:
    """Return whether the run can finish this slide from its stored results alone, without the slide's file."""
    if state.failure:
        return True  # it fails either way
    if not state.is_done("boxes"):
        return False
    return state.is_done("embeddings") or (state.is_done("crops") and state.has_crop_pixels)


def _retry_lost(state: SlideState, config: Config) -> Generator[list[Task], list[Any], None]:
    """Try again to read what an earlier run could not read. If it can be read now, unpublish that stage and all after it."""
    if state.job is None or not any(state.lost_in(stage.stored) for stage in STAGES):
        return
    state.stage = STAGES[0].name
    for number, stage in enumerate(STAGES):
        if stage.retry_lost is not None and (yield from stage.retry_lost(state, config)):
            state.job.store.unpublish(*(later.stored for later in STAGES[number:]))
            return
