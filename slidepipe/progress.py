"""Progress on a terminal: a bar a stage with rate and time left; silent where the output is not a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from slidepipe import tasks
from slidepipe.engine import Task


class Progress:
    """Bars for slides, blocks, cut objects and embedded objects."""

    def __init__(self, shown: bool | None = None) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._bars: dict[str, tqdm[Any]] = {}

    @contextlib.contextmanager
    def of(self, slides: int) -> Iterator[None]:
        """Show the bars while ``slides`` slides are worked on."""
        units = {"slides": "slide", "detect": "block", "crop": "object", "embed": "object"}
        self._bars = {
            name: tqdm(
                total=slides if name == "slides" else None,
                desc=f"{name:7}",
                unit=f" {unit}",
                position=position,
                dynamic_ncols=True,
                disable=not self._shown,
                leave=False,
            )
            for position, (name, unit) in enumerate(units.items())
        }
        try:
            yield
        finally:
            for bar in reversed(self._bars.values()):
                bar.close()
            self._bars = {}

    def planned(self, stage: str, count: int) -> None:
        """``count`` more units of a stage are known of, so that its bar can tell the time left."""
        bar = self._bars.get(stage)
        if bar is not None:
            bar.total = (bar.total or 0) + count
            bar.refresh()

    def task_done(self, task: Task, result: Any) -> None:
        """Count a finished task: a block, or the objects of a part."""
        stage = {tasks.detect: "detect", tasks.crop_part: "crop", tasks.embed_part: "embed"}.get(task.call)
        if stage in self._bars:
            self._bars[stage].update(1 if stage == "detect" else int(result))

    def slide_done(self, slide_id: str, failure: str | None) -> None:
        """Count a slide, and say at once if it failed."""
        if "slides" in self._bars:
            self._bars["slides"].update(1)
        if failure and self._shown:
            tqdm.write(f"{slide_id}: {failure}", file=sys.stderr)
