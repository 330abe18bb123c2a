"""The progress of a run: work planned and done per stage, rates and the time left, for a terminal, a log and the status file."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tqdm import tqdm

from slidepipe.pipeline.engine import Task
from slidepipe.pipeline.stages import STAGES
from slidepipe.pipeline.stages.detect import DETECT
from slidepipe.pipeline.status import StatusFile, format_seconds

logger = logging.getLogger("slidepipe.run")

#: The stages by name.
_STAGES = {stage.name: stage for stage in STAGES}


@dataclass
class StageWork:
    """The work of one stage.

    Attributes:
        planned: units known so far.
        done: units done.
        worker_s: seconds that workers spent on the units done.
    """

    planned: int = 0
    done: int = 0
    worker_s: float = 0.0


@dataclass(frozen=True)
class RunPlan:
    """The work that a run starts with.

    Attributes:
        slides: number of slides of the well.
        finished: number of slides without work to do, including those in `failed`.
        blocks: number of blocks to detect in.
        megapixels: size of the slides to detect in, level-0 megapixels.
        threads: number of tasks that the workers run at once.
        dashboard: address of Dask's dashboard, or None.
        failed: reason for each slide that could not be opened, by slide id.
    """

    slides: int
    finished: int
    blocks: int
    megapixels: float
    threads: int
    dashboard: str | None = None
    failed: Mapping[str, str] = field(default_factory=dict)


class Progress:
    """Counts the work of a run and reports it: bars, log lines and the status file.

    Args:
        bars: show progress bars on stderr; None shows them on a terminal only.
        status: the file that `slidepipe status` reads, or None.
    """

    def __init__(self, bars: bool | None = False, status: StatusFile | None = None) -> None:
        self._shown = sys.stderr.isatty() if bars is None else bars
        self._bars: dict[str, tqdm[Any]] = {}
        self._status = status
        self._begin(RunPlan(0, 0, 0, 0.0, 1))

    def _begin(self, plan: RunPlan) -> None:
        self._plan = plan
        self._started = monotonic()
        self._stages = {stage: StageWork() for stage in _STAGES}
        self._stages[DETECT.name].planned = plan.blocks
        self._before = plan.finished - len(plan.failed)
        self._found = self._ended = self._analysed = 0
        self._failed: dict[str, None] = {}

    @contextlib.contextmanager
    def reporting(self, plan: RunPlan) -> Iterator[None]:
        """Report the run while the context is open.

        Args:
            plan: the work that the run starts with.
        """
        self._begin(plan)
        todo = plan.slides - plan.finished
        facts: dict[str, Any] = {"slides": plan.slides, "finished": self._before, "megapixels": round(plan.megapixels)}
        if plan.dashboard:
            facts["dashboard"] = plan.dashboard
        where = f"; Dask dashboard: {plan.dashboard}" if plan.dashboard else ""
        logger.info(
            "%d of %d slides to do, %.1f gigapixels%s", todo, plan.slides, plan.megapixels / 1000, where,
            extra={"event": "started", "facts": facts},
        )  # fmt: skip
        self._bars = {
            name: tqdm(
                total=total,
                desc=f"{name:7}",
                unit=f" {unit}",
                position=position,
                dynamic_ncols=True,
                disable=not self._shown,
                leave=False,
            )
            for position, (name, unit, total) in enumerate(
                [("slides", "slide", todo), *((stage.name, stage.unit, None) for stage in STAGES)]
            )
        }
        self._bars[DETECT.name].total = plan.blocks
        for slide_id, reason in plan.failed.items():
            self._slide_ended(slide_id, reason, {})
        self._report(now=True)
        try:
            yield
        finally:
            for bar in reversed(self._bars.values()):
                bar.close()
            self._bars = {}
            if self._status is not None:
                self._status.remove()

    def add_planned(self, stage: str, count: int) -> None:
        """Add units of a stage to the work planned.

        Args:
            stage: name of the stage.
            count: number of units.
        """
        self._stages[stage].planned += count
        if stage in self._bars:
            self._bars[stage].total = self._stages[stage].planned
            self._bars[stage].refresh()

    def task_done(self, task: Task, result: Any, seconds: float) -> None:
        """Count a finished task.

        Args:
            task: the task.
            result: its result, from which its stage counts the units done.
            seconds: how long it took in the worker.
        """
        stage = task.counts_for
        if not stage:
            return
        units = _STAGES[stage].count_units(result)
        if stage == DETECT.name:
            self._found += len(result.table)
        work = self._stages[stage]
        work.done += units
        work.worker_s += seconds
        if stage in self._bars:
            self._bars[stage].update(units)
        self._report()

    def slide_done(self, slide_id: str, failure: str | None, facts: Mapping[str, Any]) -> None:
        """Count a slide that has ended, and log one line about it.

        Args:
            slide_id: the slide.
            failure: why it failed, or None.
            facts: objects, area_mm2, lost_mm2, lost_crops and seconds.
        """
        self._slide_ended(slide_id, failure, facts)
        if "slides" in self._bars:
            self._bars["slides"].update(1)
        self._report(now=True)

    def _slide_ended(self, slide_id: str, failure: str | None, facts: Mapping[str, Any]) -> None:
        self._ended += 1
        place = f"[{self._before + self._ended}/{self._plan.slides}] {slide_id}"
        if failure:
            self._failed[slide_id] = None
            status, line = "failed", f"{place}: failed: {failure}"
        else:
            self._analysed += 1
            self._failed.pop(slide_id, None)
            lost = float(facts.get("lost_mm2") or 0)
            status = "partial" if lost or facts.get("lost_crops") else "ok"
            line = f"{place}: {facts.get('objects', 0)} objects on {float(facts.get('area_mm2') or 0):.1f} mm2"
            line += f", {lost:.2f} mm2 lost" if lost else ""
            line += f", {facts['lost_crops']} objects unreadable" if facts.get("lost_crops") else ""
            line += f" ({float(facts.get('seconds') or 0):.0f} s)"
        record = {"slide_id": slide_id, "status": status, **facts, **({"reason": failure} if failure else {})}
        logger.info("%s", line, extra={"event": "slide", "facts": record})

    def report_retry(self, count: int) -> None:
        """Report that failed slides are tried once more. They are reported as failed until they succeed.

        Args:
            count: number of slides.
        """
        self._ended -= count
        logger.info(
            "%d slides failed; trying them once more", count, extra={"event": "retry", "facts": {"slides": count}}
        )  # fmt: skip
        if "slides" in self._bars:
            self._bars["slides"].update(-count)

    def seconds_left(self) -> float | None:
        """Return the estimated time left in seconds, from the time per unit so far; None while it is unknown.

        The blocks still to come are expected to hold as many objects each as those done.
        """
        detect = self._stages[DETECT.name]
        if detect.planned and not detect.done:
            return None
        left = 0.0
        for stage, work in self._stages.items():
            expected = work.planned
            if stage != DETECT.name and detect.done:
                expected = max(expected, round(self._found * detect.planned / detect.done))
            if expected > work.done:
                if not work.done:
                    return None
                left += (expected - work.done) * work.worker_s / work.done
        return left / max(1, self._plan.threads)

    def _report(self, now: bool = False) -> None:
        if self._status is None and not self._shown:
            return
        left = self.seconds_left()
        if self._shown and "slides" in self._bars and left is not None:
            self._bars["slides"].set_postfix_str(f"about {format_seconds(left)} left", refresh=False)
        if self._status is None:
            return
        elapsed = max(monotonic() - self._started, 1e-3)
        self._status.write(
            {
                "slides": self._plan.slides,
                "finished": self._before + self._analysed,
                "failed": list(self._failed),
                "elapsed_s": round(elapsed, 1),
                "left_s": None if left is None else round(left, 1),
                "dashboard": self._plan.dashboard,
                "megapixels_per_s": round(
                    self._plan.megapixels / max(1, self._plan.blocks) * self._stages[DETECT.name].done / elapsed, 2
                ),
                "stages": {
                    stage: {"unit": _STAGES[stage].unit, "planned": work.planned, "done": work.done}
                    for stage, work in self._stages.items()
                },
            },
            now=now,
        )
