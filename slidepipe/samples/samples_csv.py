"""Read `samples.csv`, an optional file in a well's folder with facts that the names of the scans do not give.

Its columns are `slide` (the path below the well, with or without suffix), `well`, `depth_m`, `sample_type`, `mpp`,
`exclude`, and the four of the marker spores. An empty cell leaves the fact as the name of the scan gives it.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from slidepipe.errors import WellError
from slidepipe.samples.sample import Sample, Spike, WellSlide
from slidepipe.slides.geometry import check_mpp

SAMPLES_FILE = "samples.csv"
_SPIKE_COLUMNS = ("tablets", "spores_per_tablet", "spores_sd", "grams")
_COLUMNS = ("slide", "well", "depth_m", "sample_type", "mpp", "exclude", *_SPIKE_COLUMNS)
_TRUE, _FALSE = frozenset({"1", "true", "yes", "y", "x"}), frozenset({"", "0", "false", "no", "n"})


@dataclass(frozen=True)
class SampleRow:
    """One row of `samples.csv`.

    Attributes:
        place: File and line of the row, for messages.
        cells: Text by column; a missing column is an empty cell.
    """

    place: str
    cells: dict[str, str]

    @property
    def slide(self) -> str:
        """The slide as the file names it."""
        return self.cells["slide"]

    def is_excluded(self) -> bool:
        """Return whether the slide is left out.

        Raises:
            WellError: The cell is neither yes nor no.
        """
        text = self.cells.get("exclude", "")
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise WellError(
            f"{self.place}: exclude '{text}' of {self.slide} is neither yes nor no. Write yes, or leave it empty"
        )

    def sample(self, named: Sample | None) -> Sample | None:
        """Return the sample with the facts of this row.

        Args:
            named: The sample in the name of the scan, or None where the name cannot be read.

        Returns:
            The sample, or None where neither the name nor this row gives well and depth.

        Raises:
            WellError: The depth is not a number.
        """
        well, depth, sample_type = (self.cells.get(key, "") for key in ("well", "depth_m", "sample_type"))
        if named is None:
            if not (well and depth):
                return None
            named = Sample(well, None, "")
        if well:
            named = replace(named, well=well)
        if depth:
            named = replace(named, depth_m=self._depth(depth))
        if sample_type:
            named = replace(named, sample_type=sample_type.upper())
        return named

    def mpp(self) -> float | None:
        """Return the resolution in micrometres per level-0 pixel, or None where the cell is empty.

        Raises:
            WellError: The cell is not a number.
            ResolutionError: A scan cannot have this resolution.
        """
        text = self.cells.get("mpp", "")
        return check_mpp(self._number("mpp", text), f"{self.place}: mpp of {self.slide}") if text else None

    def spike(self) -> Spike | None:
        """Return the marker spores, or None where all their cells are empty.

        Raises:
            WellError: A cell is missing, not a number, or not above 0.
        """
        given = {column: self.cells[column] for column in _SPIKE_COLUMNS if self.cells.get(column)}
        if not given:
            return None
        missing = [column for column in ("tablets", "spores_per_tablet", "grams") if column not in given]
        if missing:
            raise WellError(
                f"{self.place}: {self.slide} has {next(iter(given))} but no {missing[0]}. Give all, or leave all empty"
            )
        values = {column: self._number(column, text) for column, text in given.items()}
        for column, value in values.items():
            if not math.isfinite(value) or value < 0 or (value == 0 and column != "spores_sd"):
                raise WellError(f"{self.place}: {column} '{given[column]}' of {self.slide} must be above 0")
        return Spike(values["tablets"], values["spores_per_tablet"], values.get("spores_sd", 0.0), values["grams"])

    def _depth(self, text: str) -> Decimal:
        try:
            depth = Decimal(text.replace(",", "."))
        except InvalidOperation:
            depth = Decimal("nan")
        if not depth.is_finite():
            raise WellError(
                f"{self.place}: depth_m '{text}' of {self.slide} is not a number. Write it in metres, for example 1430.43"
            )
        return depth

    def _number(self, column: str, text: str) -> float:
        try:
            return float(text.replace(",", "."))
        except ValueError as error:
            raise WellError(
                f"{self.place}: {column} '{text}' of {self.slide} is not a number. Write a number, for example 0.25"
            ) from error


def read_samples_csv(path: Path) -> dict[str, SampleRow]:
    """Return the rows of a `samples.csv` by the slide they name; no rows where the file does not exist.

    Raises:
        WellError: The file cannot be read, has an unknown column, or names a slide twice.
    """
    if not path.exists():
        return {}
    columns, rows = _read_cells(path)
    unknown = [column for column in columns if column not in _COLUMNS]
    if unknown or "slide" not in columns:
        wrong = f"column '{unknown[0]}' is unknown" if unknown else "there is no column 'slide'"
        raise WellError(f"{path}: {wrong}. The columns are {', '.join(_COLUMNS)}")
    found: dict[str, SampleRow] = {}
    for line, cells in rows:
        if not any(cells.values()):
            continue
        if cells["slide"] in found:
            raise WellError(f"{path}, line {line}: slide '{cells['slide']}' has a row already. Keep one of them")
        found[cells["slide"]] = SampleRow(f"{path}, line {line}", cells)
    return found


def check_spikes(slides: Iterable[WellSlide], path: Path) -> None:
    """Check that the slides of one sample agree on its marker spores.

    Args:
        slides: The slides of the well.
        path: The `samples.csv`, for the message.

    Raises:
        WellError: Two slides of one sample have different marker spores.
    """
    first: dict[Sample, WellSlide] = {}
    for slide in slides:
        if slide.spike is None:
            continue
        other = first.setdefault(slide.sample, slide)
        if other.spike != slide.spike:
            raise WellError(
                f"{path}: {other.slide_id} and {slide.slide_id} are of one sample but have different tablets or grams. "
                "Correct one, or leave one empty"
            )


def _read_cells(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV file, and the line number and cells of each row. All texts are stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            # A spreadsheet program with decimal commas writes semicolons; others write tabs.
            reader = csv.DictReader(file, delimiter=next((sign for sign in ";\t" if sign in first), ","))
            rows = []
            for row in reader:
                if None in row:
                    raise WellError(
                        f"{path}, line {reader.line_num}: has more cells than the header. Put a cell with a comma in quotes, "
                        "or add a column"
                    )
                cells = {(key or "").strip(): (value or "").strip() for key, value in row.items()}
                rows.append((reader.line_num, cells))
            return [column.strip() for column in reader.fieldnames or []], rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WellError(
            f"{path}: cannot be read ({error}). Save it as CSV in UTF-8, with as many cells per row as the header has"
        ) from error
