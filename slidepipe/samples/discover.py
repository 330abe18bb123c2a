"""Wells: which slides there are, and which sample (well, depth, type) each was made from.

A scan is named after its sample, ``6407_6-5 1430.43 mC.mrxs``: well 6407/6-5, 1430.43 m, a core chip. A name that cannot be
read is an error; a ``samples.csv`` in the well's folder says what the names do not.
"""

import csv
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from slidepipe.errors import WellError
from slidepipe.paths import absolute
from slidepipe.slides.geometry import check_mpp
from slidepipe.slides.reader import is_slide, slide_of_folder, slide_suffixes

#: Ditch cuttings, sidewall core, core (chip), conventional core: how they end a name, after the m of the depth.
SAMPLE_TYPES = ("SWC", "DC", "CC", "C")

SAMPLES_FILE = "samples.csv"
_SPIKE_COLUMNS = ("tablets", "spores_per_tablet", "spores_sd", "grams")
_SAMPLES_COLUMNS = ("slide", "well", "depth_m", "sample_type", "mpp", "exclude", *_SPIKE_COLUMNS)
_TRUE, _FALSE = frozenset({"1", "true", "yes", "y", "x"}), frozenset({"", "0", "false", "no", "n"})

# The depth is the number right before "m" and a sample type, wherever the well's own numbers are. What follows the type (a
# time stamp, " - Copy") must not go on with a letter or digit.
_NAME = re.compile(
    r"^(?P<well>.*\S?)[\s_]+(?P<depth>\d+(?:[.,]\d+)?)\s*m\s*(?P<type>" + "|".join(SAMPLE_TYPES) + r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_QUADRANT = re.compile(r"^(\d+)[_/ ](\d+-.*)$")


@dataclass(frozen=True)
class Sample:
    """Where a slide's material comes from. ``depth_m`` is None where a lone slide's name does not say."""

    well: str
    depth_m: Decimal | None
    sample_type: str

    @property
    def sample_id(self) -> str:
        """The sample's name: well, depth as short as it can be written, type."""
        if self.depth_m is None:
            return self.well
        return f"{self.well} {self.depth_m.normalize():f} m{self.sample_type}".strip()


@dataclass(frozen=True)
class Spike:
    """What was added to a sample to tell fossils a gram: ``tablets`` of ``spores_per_tablet`` spores (``spores_sd``: standard
    deviation of one tablet) in ``grams`` of rock.
    """

    tablets: float
    spores_per_tablet: float
    spores_sd: float
    grams: float


@dataclass(frozen=True)
class WellSlide:
    """A slide of the well: its id (path below the well without suffix), file, sample and, where given by hand, mpp and spike."""

    slide_id: str
    path: Path
    sample: Sample
    mpp: float | None = None
    spike: Spike | None = None


def parse_name(stem: str) -> Sample:
    """The sample that a scan's file name (without suffix) tells of.

    Raises:
        WellError: no depth and sample type can be read in it.
    """
    match = _NAME.match(stem)
    if match is None or not match["well"].strip(" _-"):
        raise WellError(f"{stem}: no 'WELL DEPTH mTYPE' in the name (as in '6407_6-5 1430.43 mC')")
    well = re.sub(r"\s+", " ", match["well"].strip(" _"))
    quadrant = _QUADRANT.match(well)
    if quadrant:  # "/" cannot stand in a file name: 6407_6-5 is quadrant 6407, block 6, well 5
        well = f"{quadrant[1]}/{quadrant[2]}"
    return Sample(well, Decimal(match["depth"].replace(",", ".")), match["type"].upper())


def discover(source: Path, mpp: float | None = None) -> list[WellSlide]:
    """The slides of a well, in the order of their ids.

    Args:
        source: a folder (searched below too, with an optional ``samples.csv``), one slide, or a text file with a path a line.
        mpp: micrometres a level-0 pixel for all slides; a slide's own line in ``samples.csv`` goes before it.

    Raises:
        WellError: nothing found, a name that cannot be read, two slides of one id, or a ``samples.csv`` that does not fit.
    """
    if not source.exists():
        raise WellError(f"{source}: no such file or folder. Give the well's folder, one slide, or a list of slides")
    overrides: dict[str, dict[str, str]] = {}
    if source.is_dir():
        root, paths = source, _slides_below(source)
        if not paths:
            suffixes = " ".join(slide_suffixes())
            raise WellError(f"{source}: no slides in this folder or below it (looked for {suffixes})")
        overrides = _read_samples(source / SAMPLES_FILE)
    elif source.suffix.lower() in {".txt", ".lst", ".list"}:
        paths = _read_list(source)
        root = _common_folder(source, paths)
    else:
        return [WellSlide(source.stem, source, _sample_of_lone_slide(source.stem), mpp)]
    return _assemble(source, root, paths, overrides, mpp)


def describe(folder: Path, paths: Sequence[Path], mpp: float | None = None) -> list[WellSlide]:
    """Slides that once were in a well's folder, as names and ``samples.csv`` describe them now; see :func:`discover`."""
    root = absolute(folder)
    named = {path.relative_to(root) for path in paths}
    names = {name.as_posix() for name in named} | {name.with_suffix("").as_posix() for name in named}
    overrides = {name: row for name, row in _read_samples(folder / SAMPLES_FILE).items() if name in names}
    return _assemble(folder, root, sorted(paths), overrides, mpp)


def _assemble(
    source: Path, root: Path, paths: Sequence[Path], overrides: dict[str, dict[str, str]], mpp: float | None
) -> list[WellSlide]:
    slides: dict[str, WellSlide] = {}
    unread: list[str] = []
    used: set[str] = set()
    for path in paths:
        slide_id = path.relative_to(root).with_suffix("").as_posix()
        key = next((key for key in (slide_id, path.relative_to(root).as_posix()) if key in overrides), None)
        row = overrides[key] if key is not None else {}
        if key is not None:
            used.add(key)
        if _flag(row.get("exclude", ""), root / SAMPLES_FILE, slide_id):
            continue
        if slide_id in slides:
            raise WellError(
                f"{path} and {slides[slide_id].path.name} would both be slide '{slide_id}'. "
                f"Rename one, or exclude it in {SAMPLES_FILE}"
            )
        sample = _sample(path, row, root / SAMPLES_FILE)
        if sample is None:
            unread.append(str(path))
            continue
        own_mpp = row.get("mpp", "")
        slides[slide_id] = WellSlide(
            slide_id,
            path,
            sample,
            _number(own_mpp, root / SAMPLES_FILE, slide_id, "mpp") if own_mpp else mpp,
            _spike(row, root / SAMPLES_FILE, slide_id),
        )
    if unread:
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        raise WellError(
            f"{', '.join(unread[:5])}{more}: the name does not say 'WELL DEPTH mTYPE' (as '6407_6-5 1430.43 mC'; types "
            f"{', '.join(SAMPLE_TYPES)}). Rename the scan, or give its well, depth_m and sample_type in {root / SAMPLES_FILE}"
        )
    unknown = sorted(set(overrides) - used)
    if unknown:
        raise WellError(
            f"{root / SAMPLES_FILE}: slide '{unknown[0]}' is not in {source}. Write its path below the well"
        )
    if not slides:
        raise WellError(f"{source}: every slide is excluded in {SAMPLES_FILE}")
    _check_spikes(slides.values(), root / SAMPLES_FILE)
    return [slides[slide_id] for slide_id in sorted(slides)]


def _slides_below(folder: Path) -> list[Path]:
    # A results folder kept inside the well holds no slides, but its stores hold many files: do not walk them.
    found: list[Path] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            raise WellError(
                f"{here}: cannot be listed ({error.strerror}). Give yourself access, or move it away"
            ) from error
        if (here / "manifest.json").exists() and (here / "slides").is_dir():
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_slide(
                entry
            ):  # a folder with a slide's suffix too: it cannot be opened, and the run lists it as failed
                found.append(entry)
            elif entry.is_dir():
                slide = slide_of_folder(entry)
                if slide is None:
                    pending.append(entry)
                elif not slide.exists():  # only the slide's data is left: the run lists the slide as failed
                    found.append(slide)
    return sorted(found)


def _read_list(source: Path) -> list[Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WellError(
            f"{source}: cannot be read as a list of slides ({error}). Write one path a line, UTF-8"
        ) from error
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    # Absolute and without "..", so that an id never leads out of the well.
    paths = [absolute(source.parent / line) for line in wanted]
    for path in paths:
        if not path.is_file():
            what = "is a folder, not a slide" if path.is_dir() else "does not exist"
            raise WellError(
                f"{source}: {path} {what}. Write a slide's path a line; paths count from the list's own folder"
            )
    if not paths:
        raise WellError(f"{source}: no slides in this list. Write one path a line")
    return sorted(set(paths))


def _common_folder(source: Path, paths: Iterable[Path]) -> Path:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:  # two drives
        raise WellError(
            f"{source}: its slides have no folder in common ({error}). Make a list for each drive"
        ) from error


def _sample_of_lone_slide(stem: str) -> Sample:
    try:
        return parse_name(stem)
    except WellError:  # one slide needs no depth to be counted
        return Sample(stem, None, "")


def _sample(path: Path, row: dict[str, str], samples_file: Path) -> Sample | None:
    try:
        named: Sample | None = parse_name(path.stem)
    except WellError:
        named = None
    given = {key: row.get(key, "") for key in ("well", "depth_m", "sample_type")}
    if named is None:
        if not (given["well"] and given["depth_m"]):
            return None
        named = Sample(given["well"], None, "")
    if given["well"]:
        named = replace(named, well=given["well"])
    if given["depth_m"]:
        try:
            depth = Decimal(given["depth_m"].replace(",", "."))
        except InvalidOperation:
            depth = Decimal("nan")
        if not depth.is_finite():
            raise WellError(f"{samples_file}: depth_m '{given['depth_m']}' of {row['slide']} is not a number of metres")
        named = replace(named, depth_m=depth)
    if given["sample_type"]:
        named = replace(named, sample_type=given["sample_type"].upper())
    return named


def _read_samples(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            # A spreadsheet set to comma decimals writes semicolons, another one tabs.
            reader = csv.DictReader(file, delimiter=next((sign for sign in ";\t" if sign in first), ","))
            rows = []
            for number, row in enumerate(reader, start=2):
                if None in row:
                    raise WellError(
                        f"{path}: row {number} has more cells than the header. Quote commas, or add a column"
                    )
                rows.append({(key or "").strip(): (value or "").strip() for key, value in row.items()})
            columns = [column.strip() for column in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WellError(
            f"{path}: cannot be read ({error}). Save it as CSV, UTF-8, with as many cells a row as the header"
        ) from error
    unknown = [column for column in columns if column not in _SAMPLES_COLUMNS]
    if unknown or "slide" not in columns:
        wrong = f"column '{unknown[0]}' is unknown" if unknown else "there is no column 'slide'"
        raise WellError(f"{path}: {wrong}. The columns are {', '.join(_SAMPLES_COLUMNS)}")
    overrides: dict[str, dict[str, str]] = {}
    for row in rows:
        if not any(row.values()):
            continue
        if row["slide"] in overrides:
            raise WellError(f"{path}: slide '{row['slide']}' stands in two rows. Keep one")
        overrides[row["slide"]] = row
    return overrides


def _flag(text: str, path: Path, slide_id: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise WellError(f"{path}: exclude '{text}' of {slide_id} is neither yes nor no")


def _number(text: str, path: Path, slide_id: str, column: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError as error:
        raise WellError(f"{path}: {column} '{text}' of {slide_id} is not a number") from error
    return check_mpp(value, f"{path}: {column} of {slide_id}") if column == "mpp" else value


def _spike(row: dict[str, str], path: Path, slide_id: str) -> Spike | None:
    given = {column: row[column] for column in _SPIKE_COLUMNS if row.get(column)}
    if not given:
        return None
    missing = [column for column in ("tablets", "spores_per_tablet", "grams") if column not in given]
    if missing:
        raise WellError(f"{path}: {slide_id} has {next(iter(given))} but no {missing[0]}. Give all, or leave all empty")
    values = {column: _number(text, path, slide_id, column) for column, text in given.items()}
    for column, value in values.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and column != "spores_sd"):
            raise WellError(f"{path}: {column} '{given[column]}' of {slide_id} must be above 0")
    return Spike(values["tablets"], values["spores_per_tablet"], values.get("spores_sd", 0.0), values["grams"])


def _check_spikes(slides: Iterable[WellSlide], path: Path) -> None:
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
