"""A survey of many wells: one run and one RESULTS folder per well, and one table of the outcomes."""

import csv
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slidepipe.config import Config
from slidepipe.errors import ResultsError, SlidepipeError, WellError
from slidepipe.paths import absolute
from slidepipe.pipeline.flow import run_well
from slidepipe.pipeline.progress import Progress
from slidepipe.pipeline.status import StatusFile
from slidepipe.pipeline.summary import RunSummary
from slidepipe.store.files import write_text
from slidepipe.store.manifest import MANIFEST

logger = logging.getLogger("slidepipe.run")

SUMMARY = "wells.csv"
_COLUMNS = ("well", "results", "status", "slides", "failed", "partial", "objects", "accepted", "reason")


@dataclass(frozen=True)
class WellOutcome:
    """The outcome of the run of one well.

    Attributes:
        source: the well.
        out: its RESULTS folder.
        summary: the summary of the run, or None if it ended with an error.
        error: the error message; empty if there was none.
        refused: whether the error was in the input or the settings.
    """

    source: Path
    out: Path
    summary: RunSummary | None
    error: str = ""
    refused: bool = False

    @property
    def status(self) -> str:
        """ "ok", "incomplete" (some slides failed or are partial), "refused" (bad input or settings) or "error" (any other)."""
        if self.summary is None:
            return "refused" if self.refused else "error"
        return "incomplete" if self.summary.exit_status else "ok"


def find_wells(source: Path, out: Path | None = None) -> list[Path]:
    """Return the wells of a survey.

    Args:
        source: a folder, whose folders are the wells (except those whose names start with a dot), or a list file with one path
            per line.
        out: the folder of the results, which is never a well.

    Raises:
        WellError: there are no wells, they cannot be listed, or two of them would get the same RESULTS folder.
    """
    try:
        if source.is_dir():
            wells = sorted(entry for entry in source.iterdir() if _is_well(entry, out))
            if not wells:
                raise WellError(f"{source}: it holds no folders. Give --each a folder that holds one folder per well")
        elif source.is_file():
            wells = _read_list(source)
        else:
            raise WellError(f"{source}: no such file or folder. Give --each a folder of wells, or a list file")
        named: dict[str, Path] = {}
        for well in wells:
            other = named.setdefault(_results_name(well), well)
            if other != well:
                raise WellError(f"{other} and {well}: both would write to the same RESULTS folder. Rename one of them")
    except OSError as error:
        raise WellError(
            f"{error.filename or source}: cannot be read ({error.strerror or error}). Fix its permissions or the disk"
        ) from error
    return list(dict.fromkeys(wells))


def _is_well(entry: Path, out: Path | None) -> bool:
    """Return whether a folder of a survey is a well. The data folder of a MIRAX slide is not, nor is a RESULTS folder."""
    if not entry.is_dir() or entry.name.startswith(".") or entry.with_name(entry.name + ".mrxs").exists():
        return False
    if out is not None and entry.resolve() == out.resolve():
        return False
    try:
        return not any((entry / name).exists() for name in (MANIFEST, SUMMARY))
    except PermissionError:  # its row in the table gives this error, and the other wells are run
        return True


def _read_list(source: Path) -> list[Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WellError(f"{source}: cannot be read as a list of wells ({error}). Write one path per line") from error
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not wanted:
        raise WellError(f"{source}: no wells in this list. Write one path per line")
    return [absolute(source.parent / line) for line in wanted]


def _results_name(well: Path) -> str:
    return well.stem if well.is_file() else well.name


def run_wells(source: Path, out: Path, config: Config, progress: Callable[[StatusFile], Progress]) -> list[WellOutcome]:
    """Count the fossils of each well (`slidepipe.pipeline.flow.run_well`) and write `wells.csv`.

    An error in one well does not stop the others, unless the setting `run.on_error` is "stop". Rows of earlier runs stay in
    `wells.csv` until their well is run again.

    Args:
        source: a folder of wells or a list file, as in `find_wells`.
        out: the folder for the results, with one RESULTS folder per well, named after it.
        config: the settings of all runs.
        progress: returns the progress report of one well, given its status file.

    Raises:
        WellError: as `find_wells`.
        ResultsError: `wells.csv` cannot be written.
    """
    outcomes: list[WellOutcome] = []
    wells = find_wells(source, out)
    rows = _read_summary(out / SUMMARY)
    _write_summary(out, rows)  # an error comes now and not after hours of work
    unwritten: ResultsError | None = None
    for number, well in enumerate(wells, start=1):
        results = out / _results_name(well)
        logger.info(
            "well %d of %d: %s", number, len(wells), well, extra={"event": "well", "facts": {"well": str(well)}}
        )
        try:
            outcome = WellOutcome(well, results, run_well(well, results, config, progress(StatusFile(results))))
        except SlidepipeError as error:
            if config.run.on_error == "stop":
                raise
            outcome = WellOutcome(well, results, None, str(error), refused=True)
            logger.warning("%s", error)
        except Exception as error:
            if config.run.on_error == "stop":
                raise
            # This is an error of slidepipe, a plugin or the machine. The other wells may still succeed.
            outcome = WellOutcome(well, results, None, " ".join(f"{type(error).__name__}: {error}".split()))
            logger.error("%s: %s", well, outcome.error, extra={"event": "error", "facts": {"well": str(well)}})
            logging.getLogger(__name__).debug("%s", well, exc_info=error)  # shown with --debug only
        outcomes.append(outcome)
        rows[results.name] = _row(outcome)
        # The table is written after each well, so that it can be read while the survey runs.
        try:
            _write_summary(out, rows)
            unwritten = None
        except ResultsError as error:
            unwritten = error  # it may be open in a spreadsheet only now; it is tried again after the next well
            logger.warning("%s", error)
    if unwritten is not None:
        raise unwritten
    return outcomes


def _row(outcome: WellOutcome) -> dict[str, str]:
    summary = outcome.summary
    row = {"well": str(outcome.source), "results": str(outcome.out), "status": outcome.status, "reason": outcome.error}
    if summary is not None:
        row |= {
            "slides": str(summary.slides),
            "failed": str(len(summary.failed)),
            "partial": str(len(summary.partial)),
            "objects": str(summary.objects),
            "accepted": str(summary.accepted),
            "reason": summary.reason,
        }
    return row


def _read_summary(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of earlier runs by the name of the RESULTS folder, which stays the same if the folders are moved."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames or ()
    except (FileNotFoundError, NotADirectoryError):  # the second is reported when the table is written
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise ResultsError(f"{path}: cannot be read ({error}). Delete it, or give another folder to --out") from error
    if not set(_COLUMNS) <= set(columns):
        raise ResultsError(
            f"{path}: not a table of wells written by slidepipe. Delete it, or give another folder to --out"
        )
    return {Path(row["results"]).name: {name: row[name] or "" for name in _COLUMNS} for row in rows if row["results"]}


def _write_summary(out: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SUMMARY, text.getvalue())
    except OSError as error:
        raise ResultsError(
            f"{out / SUMMARY}: cannot be written ({error.strerror or error}). Fix its permissions, or give another --out"
        ) from error
