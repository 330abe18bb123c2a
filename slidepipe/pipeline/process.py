"""Working on all slides of a well side by side: detect, crop, embed."""

import logging
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

from slidepipe.config import Config
from slidepipe.errors import SlideError, SlidepipeError
from slidepipe.pipeline.disk import is_out_of_space
from slidepipe.pipeline.engine import Engine, Work
from slidepipe.pipeline.jobs import SlideState
from slidepipe.pipeline.plan import stop_if_wanted
from slidepipe.pipeline.progress import Progress, RunPlan
from slidepipe.pipeline.stages import count_blocks, slide_steps

logger = logging.getLogger(__name__)


def process_slides(
    engine: Engine, pending: Sequence[SlideState], states: Sequence[SlideState], config: Config, progress: Progress
) -> None:
    """Run the stages of all slides that need work. Slides that failed are tried once more.

    The outcome of a slide is in its state: `failure` is set if it failed.

    Args:
        engine: runs the tasks.
        pending: the slides that need work.
        states: all slides of the well.
        config: the settings of the run.
        progress: reports how far the work is.

    Raises:
        SlideError: a slide failed and `run.on_error` is "stop".
        OSError: the disk is full.
    """
    blocks = {state.slide.slide_id: count_blocks(state, config) for state in pending}
    plan = RunPlan(
        slides=len(states),
        finished=len(states) - len(pending),
        failed={state.slide.slide_id: state.failure for state in states if state.failure},
        blocks=sum(blocks.values()),
        megapixels=sum(
            state.meta.bounds.width * state.meta.bounds.height * 1e-6
            for state in pending
            if state.meta is not None and blocks[state.slide.slide_id]
        ),
        threads=engine.threads,
        dashboard=engine.dashboard,
    )
    with progress.reporting(plan):
        worth_retrying = _process_once(engine, pending, config, progress)
        if worth_retrying:
            # A drive or a network that was away for a while may be back by now.
            for state in worth_retrying:
                state.failure = None
            progress.report_retry(len(worth_retrying))
            _process_once(engine, worth_retrying, config, progress)


def _process_once(
    engine: Engine, pending: Sequence[SlideState], config: Config, progress: Progress
) -> list[SlideState]:
    """Run the stages of the slides and return those that failed for a reason that may be temporary."""
    by_id = {state.slide.slide_id: state for state in pending}
    started: dict[str, float] = {}

    def works() -> Iterator[tuple[str, Work]]:
        for slide_id, state in by_id.items():
            started[slide_id] = perf_counter()
            yield slide_id, slide_steps(state, config, progress.add_planned)

    worth_retrying = []
    for slide_id, error in engine.drive(works(), progress.task_done):
        state = by_id[slide_id]
        if error is not None:
            if is_out_of_space(error):
                raise error
            reason = str(error) if isinstance(error, SlidepipeError) else f"{type(error).__name__}: {error}"
            state.failure = " ".join(reason.split()).removeprefix(f"{state.slide.path}: ")
            logger.debug("%s failed in %s", slide_id, state.stage, exc_info=error)
            stop_if_wanted(config, state)
            if isinstance(error, (SlideError, OSError)) and not state.absent:
                worth_retrying.append(state)
        progress.slide_done(slide_id, state.failure, _facts(state, perf_counter() - started[slide_id]))
    return worth_retrying


def _facts(state: SlideState, seconds: float) -> dict[str, Any]:
    if state.job is None or state.failure:
        return {"seconds": round(seconds, 1)}
    boxes, crops = (state.job.store.attributes(stage) for stage in ("boxes", "crops"))
    return {
        "objects": boxes["objects"],
        "area_mm2": round(boxes["analysed_mm2"], 3),
        "lost_mm2": round(boxes["lost_mm2"], 3),
        "lost_crops": len(crops["lost"]),
        "seconds": round(seconds, 1),
    }
