"""What a stage is: one step of the work on a slide, with its own results in the slide's store."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from slidepipe.config import Config
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.slides.geometry import SlideMeta
from slidepipe.store.files import fingerprint
from slidepipe.store.slide_store import StageName

#: Receives the number of units of progress that a stage has found to do.
Expect = Callable[[int], None]
#: Yields tasks, receives their results, and returns whether something that was lost can be read now.
Retry = Generator[list[Task], list[Any], bool]


@dataclass(frozen=True)
class Stage:
    """One stage of the work on a slide.

    Attributes:
        name: its name in messages, progress and failures.csv ("detect").
        stored: its name in the slide's store ("boxes").
        version: increase it when the code changes what the stage stores. Stored results of other versions are made again.
        unit: what its progress counts ("object").
        depends_on: returns the values that decide the stage's result, to be hashed. It receives the job, the slide's metadata
            and the fingerprint of the stage before.
        work: yields the stage's tasks and receives their results; see `slidepipe.pipeline.engine.Work`. The tasks carry the
            stage's name as `Task.counts_for`. It reports the units that it finds to do.
        count_units: the units of progress that the result of one task stands for.
        is_needed: whether the stage still has to run. None: it has to unless its result is stored.
        retry_lost: tries again to read what an earlier run could not read. None: the stage reads nothing from the slide.
        clean_up: work to do after the last stage, or None.
    """

    name: str
    stored: StageName
    version: int
    unit: str
    depends_on: Callable[[SlideJob, SlideMeta, str], tuple[object, ...]]
    work: Callable[[SlideState, Config, Expect], Work]
    count_units: Callable[[Any], int] = int
    is_needed: Callable[[SlideState], bool] | None = None
    retry_lost: Callable[[SlideState, Config], Retry] | None = None
    clean_up: Callable[[SlideState], Work] | None = None

    def fingerprint(self, job: SlideJob, meta: SlideMeta, before: str) -> str:
        """Return the fingerprint that the stage's result must have to be used again.

        Args:
            job: the work on the slide.
            meta: the slide's metadata.
            before: fingerprint of the stage before.
        """
        return fingerprint(self.stored, self.version, *self.depends_on(job, meta, before))

    def must_run(self, state: SlideState) -> bool:
        """Return whether the stage still has to run for this slide."""
        return not state.is_done(self.stored) if self.is_needed is None else self.is_needed(state)
