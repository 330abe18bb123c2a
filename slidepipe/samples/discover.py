"""Find the slides of a well, and the sample (well, depth, type) that each was made from.

A scan is named after its sample: `6407_6-5 1430.43 mC.mrxs` is well 6407/6-5, 1430.43 m, a core chip. A name that cannot be
read is an error. A `samples.csv` in the well's folder gives what the names do not (see `slidepipe.samples.samples_csv`).
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from slidepipe.errors import WellError
from slidepipe.paths import absolute
from slidepipe.samples.sample import SAMPLE_TYPES, Sample, WellSlide
from slidepipe.samples.samples_csv import SAMPLES_FILE, SampleRow, check_spikes, read_samples_csv
from slidepipe.slides.reader import is_slide, slide_of_folder, slide_suffixes

_CODES = tuple(sample_type.code for sample_type in SAMPLE_TYPES)

# The depth is the number right before "m" and a sample type; the name of the well may contain other numbers. After the type, a
# time stamp or " - Copy" may follow, but no letter or digit directly.
_NAME = re.compile(
    r"^(?P<well>.*\S?)[\s_]+(?P<depth>\d+(?:[.,]\d+)?)\s*m\s*(?P<type>" + "|".join(_CODES) + r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_QUADRANT = re.compile(r"^(\d+)[_/ ](\d+-.*)$")
_LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})


def parse_name(stem: str) -> Sample:
    """Return the sample in the name of a scan.

    Args:
        stem: Name of the file without its suffix, for example "6407_6-5 1430.43 mC".

    Raises:
        WellError: The name does not contain well, depth and sample type.
    """
    match = _NAME.match(stem)
    if match is None or not match["well"].strip(" _-"):
        raise WellError(
            f"{stem}: no 'WELL DEPTH mTYPE' in the name. Rename the scan, for example '6407_6-5 1430.43 mC'"
        )
    well = re.sub(r"\s+", " ", match["well"].strip(" _"))
    quadrant = _QUADRANT.match(well)
    if quadrant:  # a file name cannot contain "/": 6407_6-5 is quadrant 6407, block 6, well 5
        well = f"{quadrant[1]}/{quadrant[2]}"
    return Sample(well, Decimal(match["depth"].replace(",", ".")), match["type"].upper())


def discover(source: Path, mpp: float | None = None) -> list[WellSlide]:
    """Return the slides of a well, sorted by slide id.

    Args:
        source: A folder, which is searched with its subfolders and may contain a `samples.csv`; one slide; or a text file
            with one path per line.
        mpp: Micrometres per level-0 pixel of all slides. A value in `samples.csv` takes precedence.

    Raises:
        WellError: No slide is found, a name cannot be read, two slides have the same id, or `samples.csv` is not valid.
    """
    if not source.exists():
        raise WellError(
            f"{source}: no such file or folder. Give the folder of the well, one slide, or a list of slides"
        )
    rows: dict[str, SampleRow] = {}
    if source.is_dir():
        root, paths = source, _slides_below(source)
        if not paths:
            suffixes = " ".join(slide_suffixes())
            raise WellError(f"{source}: no slides in this folder or its subfolders (searched for {suffixes})")
        rows = read_samples_csv(source / SAMPLES_FILE)
    elif source.suffix.lower() in _LIST_SUFFIXES:
        paths = _read_list(source)
        root = _common_folder(source, paths)
    else:
        return [WellSlide(source.stem, source, _sample_of_single_slide(source.stem), mpp)]
    return _describe_all(source, root, paths, rows, mpp)


def describe(folder: Path, paths: Sequence[Path], mpp: float | None = None) -> list[WellSlide]:
    """Return slides that are no longer in a well's folder, as their names and the present `samples.csv` describe them.

    Args:
        folder: The folder of the well.
        paths: The files of the slides, which need not exist.
        mpp: Micrometres per level-0 pixel of all slides, as in `discover`.

    Raises:
        WellError: As in `discover`.
    """
    root = absolute(folder)
    named = {path.relative_to(root) for path in paths}
    names = {name.as_posix() for name in named} | {name.with_suffix("").as_posix() for name in named}
    rows = {name: row for name, row in read_samples_csv(folder / SAMPLES_FILE).items() if name in names}
    return _describe_all(folder, root, sorted(paths), rows, mpp)


def _describe_all(
    source: Path, root: Path, paths: Sequence[Path], rows: Mapping[str, SampleRow], mpp: float | None
) -> list[WellSlide]:
    """Return the slides at `paths` that are not excluded, with ids below `root`."""
    samples_file = root / SAMPLES_FILE
    slides: dict[str, WellSlide] = {}
    unnamed: list[Path] = []
    used: set[str] = set()
    for path in paths:
        file_name = path.relative_to(root)
        slide_id = file_name.with_suffix("").as_posix()
        row = rows.get(slide_id) or rows.get(file_name.as_posix())
        if row is not None:
            used.add(row.slide)
            if row.is_excluded():
                continue
        if slide_id in slides:
            raise WellError(
                f"{path} and {slides[slide_id].path.name} would both be slide '{slide_id}'. "
                f"Rename one, or exclude it in {SAMPLES_FILE}"
            )
        slide = _describe_slide(slide_id, path, row, mpp)
        if slide is None:
            unnamed.append(path)
        else:
            slides[slide_id] = slide
    if unnamed:
        raise WellError(_unnamed_message(unnamed, samples_file))
    unknown = sorted(set(rows) - used)
    if unknown:
        raise WellError(f"{samples_file}: slide '{unknown[0]}' is not in {source}. Write its path below the well")
    if not slides:
        raise WellError(f"{source}: every slide is excluded in {SAMPLES_FILE}. Keep at least one")
    check_spikes(slides.values(), samples_file)
    return [slides[slide_id] for slide_id in sorted(slides)]


def _describe_slide(slide_id: str, path: Path, row: SampleRow | None, mpp: float | None) -> WellSlide | None:
    """Return one slide, or None where neither its name nor its row gives well and depth."""
    try:
        named: Sample | None = parse_name(path.stem)
    except WellError:
        named = None
    sample = named if row is None else row.sample(named)
    if sample is None:
        return None
    own_mpp = None if row is None else row.mpp()
    return WellSlide(slide_id, path, sample, mpp if own_mpp is None else own_mpp, None if row is None else row.spike())


def _unnamed_message(paths: Sequence[Path], samples_file: Path) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return (
        f"{', '.join(map(str, paths[:5]))}{more}: no 'WELL DEPTH mTYPE' in the name, as in '6407_6-5 1430.43 mC' (types "
        f"{', '.join(_CODES)}). Rename the scan, or give its well, depth_m and sample_type in {samples_file}"
    )


def _slides_below(folder: Path) -> list[Path]:
    """Return the slides in a folder and its subfolders, sorted. RESULTS folders are not searched: they hold many files."""
    found: list[Path] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            raise WellError(
                f"{here}: cannot be listed ({error.strerror}). Correct its permissions, or move it away"
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
            f"{source}: cannot be read as a list of slides ({error}). Write one path per line, UTF-8"
        ) from error
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    # Absolute paths without "..", so that an id never leads out of the well.
    paths = [absolute(source.parent / line) for line in wanted]
    for path in paths:
        if not path.is_file():
            what = "is a folder, not a slide" if path.is_dir() else "does not exist"
            raise WellError(f"{source}: {path} {what}. Write one path per line, relative to the folder of the list")
    if not paths:
        raise WellError(f"{source}: no slides in this list. Write one path per line")
    return sorted(set(paths))


def _common_folder(source: Path, paths: Iterable[Path]) -> Path:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:  # two drives
        raise WellError(f"{source}: its slides have no folder in common ({error}). Write one list per drive") from error


def _sample_of_single_slide(stem: str) -> Sample:
    try:
        return parse_name(stem)
    except WellError:  # a single slide is counted without a depth
        return Sample(stem, None, "")
