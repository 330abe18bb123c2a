"""Many wells: each a run of its own with a RESULTS folder of its own, and one table of how all of them ended."""

import csv
import io
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidepipe import store
from slidepipe.config import Config
from slidepipe.errors import SlidepipeError, WellError
from slidepipe.flow import run_well
from slidepipe.manifest import RunSummary
from slidepipe.progress import Progress
from slidepipe.status import StatusFile

logger = logging.getLogger("slidepipe.run")

SUMMARY = "wells.csv"


@dataclass(frozen=True)
class WellOutcome:
    """How the run of one well ended: a summary, or what was wrong with its input."""

    source: Path
    out: Path
    summary: RunSummary | None
    error: str = ""

    @property
    def status(self) -> str:
        """``ok``, ``incomplete`` (some slides failed or are partial) or ``refused`` (bad input: nothing was run)."""
        if self.summary is None:
            return "refused"
        return "incomplete" if self.summary.exit_status else "ok"


def find_wells(source: Path) -> list[Path]:
    """The wells below a folder (its own folders, those with a dot left out), or those that a list file names, a path a line.

    Raises:
        WellError: there are none, or two would get the same RESULTS folder.
    """
    if source.is_dir():
        wells = sorted(
            entry
            for entry in source.iterdir()
            # A MIRAX slide's data is no well, and neither is a RESULTS folder.
            if entry.is_dir()
            and not entry.name.startswith(".")
            and not entry.with_name(entry.name + ".mrxs").exists()
            and not (entry / "manifest.json").exists()
        )
        if not wells:
            raise WellError(f"{source}: no folders in it. --each takes a folder that holds a folder for each well")
    elif source.is_file():
        try:
            lines = source.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WellError(f"{source}: cannot be read as a list of wells ({error}). Write one path a line") from error
        wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        wells = [Path(os.path.abspath(source.parent / line)) for line in wanted]  # noqa: PTH100  # resolve would follow links
        if not wells:
            raise WellError(f"{source}: no wells in this list. Write one path a line")
    else:
        raise WellError(f"{source}: no such file or folder. --each takes a folder of wells, or a list of them")
    named: dict[str, Path] = {}
    for well in wells:
        other = named.setdefault(well.stem if well.is_file() else well.name, well)
        if other != well:
            raise WellError(f"{other} and {well}: both would write to the same folder of results. Rename one")
    return list(dict.fromkeys(wells))


def run_wells(source: Path, out: Path, config: Config, progress: Callable[[StatusFile], Progress]) -> list[WellOutcome]:
    """Count the fossils of each well, see :func:`~slidepipe.flow.run_well`, and write ``wells.csv``.

    A well that cannot be run as it is does not keep the others from being run (unless ``run.on_error`` is ``stop``).

    Args:
        source: see :func:`find_wells`.
        out: holds a RESULTS folder for each well, named after it.
        config: the settings of all.
        progress: makes what hears of one well's work.
    """
    outcomes: list[WellOutcome] = []
    wells = find_wells(source)
    for number, well in enumerate(wells, start=1):
        results = out / (well.stem if well.is_file() else well.name)
        logger.info(
            "well %d of %d: %s", number, len(wells), well, extra={"event": "well", "facts": {"well": str(well)}}
        )
        try:
            outcome = WellOutcome(well, results, run_well(well, results, config, progress(StatusFile(results))))
        except SlidepipeError as error:
            if config.run.on_error == "stop":
                raise
            outcome = WellOutcome(well, results, None, str(error))
            logger.warning("%s", error)
        outcomes.append(outcome)
        # After each: whoever looks in the morning finds what the night has done.
        out.mkdir(parents=True, exist_ok=True)
        store.write_text(out / SUMMARY, _summary_csv(outcomes))
    return outcomes


def _summary_csv(outcomes: Sequence[WellOutcome]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["well", "results", "status", "slides", "failed", "partial", "objects", "accepted", "reason"])
    for outcome in outcomes:
        summary = outcome.summary
        numbers: list[object] = ["", "", "", "", ""]
        if summary is not None:
            numbers = [
                summary.slides, len(summary.failed), len(summary.partial), summary.objects, summary.accepted,
            ]  # fmt: skip
        reason = outcome.error or (summary.reason if summary is not None else "")
        writer.writerow([str(outcome.source), str(outcome.out), outcome.status, *numbers, reason])
    return text.getvalue()
