"""Runs on damaged scans: `python performance/mutations.py [--count 200] [--seed 1] [--out F.json]`.

Copies of the sample slides are damaged as disks, interrupted copies and users damage files: bytes flipped in the header, the
index or the image data; files truncated, zeroed, emptied, removed, made unreadable, or replaced by a folder. Wells of 20
damaged slides with undamaged ones among them are run. No run may die. Every damaged slide must be listed as failed, be
partial with its lost area reported, or be read completely. The rows of the undamaged slides must be byte-identical to a run
without the damaged ones.

A flipped bit that leaves a decodable JPEG changes pixels and cannot be detected, since JPEG has no checksum. Such slides have
the outcome "whole, other counts", or "whole".
"""

import argparse
import csv
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from performance import runs  # noqa: E402  # it is no installed package

SAMPLE_SLIDES = (
    ROOT / "sample_slides" / "well" / "6407_6-5 1200 mDC.svs",
    ROOT / "sample_slides" / "well" / "6407_6-5 1430.43 mC.mrxs",
)
#: Byte ranges of a scan file by purpose, half-open.
Ranges = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Mutation:
    """The damage of a slide: `kind`, and `where` in words."""

    kind: str
    where: str


def files_of(slide: Path) -> list[Path]:
    """Return the non-empty files of a slide."""
    folder = slide.with_suffix("")
    inside = sorted(folder.iterdir()) if slide.suffix == ".mrxs" else []
    return [path for path in (slide, *inside) if path.stat().st_size]


def copy_slide(slide: Path, target: Path) -> Path:
    """Copy a slide, and its folder if it has one, to `target` (same suffix)."""
    shutil.copyfile(slide, target)
    if slide.suffix == ".mrxs":
        shutil.copytree(slide.with_suffix(""), target.with_suffix(""))
    return target


def ranges_of(path: Path) -> Ranges:
    """Return the byte ranges of `header`, `index` (the positions of images) and `tiles` of a scan file."""
    size = path.stat().st_size
    if path.suffix == ".dat" or path.suffix == ".ini":
        name = {"Index.dat": "index", "Slidedat.ini": "header"}.get(path.name, "tiles")
        return {name: [(0, size)]}
    return _tiff_ranges(path.read_bytes())


def _tiff_ranges(data: bytes) -> Ranges:
    header: list[tuple[int, int]] = [(0, 8)]
    index: list[tuple[int, int]] = []
    (at,) = struct.unpack_from("<I", data, 4)
    while at:
        (entries,) = struct.unpack_from("<H", data, at)
        header.append((at, at + 2 + 12 * entries + 4))
        for number in range(entries):
            tag, kind, count, value = struct.unpack_from("<HHII", data, at + 2 + 12 * number)
            length = count * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
            if length > 4:
                (index if tag in (324, 325) else header).append((value, value + length))
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * entries)
    tiles, end = [], 0
    for start, stop in [*sorted(header + index), (len(data), len(data))]:
        if start > end:
            tiles.append((end, start))
        end = max(end, stop)
    return {"header": header, "index": index, "tiles": tiles}


def _place(ranges: Sequence[tuple[int, int]], draw: random.Random) -> int:
    at = draw.randrange(sum(stop - start for start, stop in ranges))
    for start, stop in ranges:
        if at < stop - start:
            return start + at
        at -= stop - start
    raise ValueError("no bytes")


def _flip(slide: Path, draw: random.Random, part: str) -> str:
    candidates = [(path, found[part]) for path in files_of(slide) if part in (found := ranges_of(path))]
    path, ranges = draw.choice(candidates)
    data = bytearray(path.read_bytes())
    places = sorted({_place(ranges, draw) for _ in range(draw.choice((1, 1, 2, 8, 32)))})
    for at in places:
        data[at] ^= draw.choice((1 << draw.randrange(8), draw.randrange(1, 256)))
    path.write_bytes(data)
    return f"{path.name}: {len(places)} bytes at {places[0]}"


def _flip_header(slide: Path, draw: random.Random) -> str:
    return _flip(slide, draw, "header")


def _flip_index(slide: Path, draw: random.Random) -> str:
    return _flip(slide, draw, "index")


def _flip_tiles(slide: Path, draw: random.Random) -> str:
    return _flip(slide, draw, "tiles")


def _absurd(slide: Path, draw: random.Random) -> str:
    """Replace a size or a count in the header or the index by an absurd one."""
    absurd = draw.choice((0, 1, 2**16, 2**20, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1))
    if slide.suffix == ".mrxs":
        if draw.random() < 0.5:
            path = slide.with_suffix("") / "Index.dat"
            data = bytearray(path.read_bytes())
            at = draw.randrange(37, len(data) - 4)
            at -= (at - 37) % 4
            struct.pack_into("<I", data, at, absurd)
            path.write_bytes(data)
            return f"{path.name}: {absurd} at {at}"
        path = slide.with_suffix("") / "Slidedat.ini"
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        row = draw.choice([row for row, line in enumerate(lines) if line.partition("=")[2].strip().isdecimal()])
        key = lines[row].partition("=")[0].strip()
        lines[row] = f"{key} = {absurd}"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"{path.name}: {key} = {absurd}"
    data = bytearray(slide.read_bytes())
    starts = [start for start, stop in _tiff_ranges(bytes(data))["header"] if (stop - start) % 12 == 6]
    start = draw.choice(starts)
    entry = start + 2 + 12 * draw.randrange(struct.unpack_from("<H", data, start)[0])
    tag = struct.unpack_from("<H", data, entry)[0]
    struct.pack_into("<I", data, entry + draw.choice((4, 8)), absurd)
    slide.write_bytes(data)
    return f"{slide.name}: tag {tag} = {absurd}"


def _truncate(slide: Path, draw: random.Random) -> str:
    path = draw.choice(files_of(slide))
    length = draw.randrange(1, path.stat().st_size)
    os.truncate(path, length)
    return f"{path.name}: to {length} bytes"


def _zero_stretch(slide: Path, draw: random.Random) -> str:
    """Overwrite a range with zeros, as after a badly resumed copy or a bad disk block."""
    path = draw.choice(files_of(slide))
    data = bytearray(path.read_bytes())
    at, length = draw.randrange(len(data)), draw.choice((512, 4096, 65536))
    data[at : at + length] = bytes(len(data[at : at + length]))
    path.write_bytes(data)
    return f"{path.name}: {length} bytes at {at}"


def _empty(slide: Path, draw: random.Random) -> str:
    path = draw.choice(files_of(slide))
    path.write_bytes(b"")
    return path.name


def _missing(slide: Path, draw: random.Random) -> str:
    if slide.suffix != ".mrxs":  # a missing file is not a slide of the well; a link with a missing target is
        slide.unlink()
        slide.symlink_to("gone.svs")
        return "the target of a link"
    folder = slide.with_suffix("")
    if draw.random() < 0.25:
        shutil.rmtree(folder)
        return "the whole folder"
    path = draw.choice(sorted({*files_of(slide), slide}))  # the .mrxs file itself is often empty
    path.unlink()
    return path.name


def _folder_instead(slide: Path, draw: random.Random) -> str:
    path = draw.choice([path for path in files_of(slide) if path != slide] or [slide])
    path.unlink()
    path.mkdir()
    return path.name


def _forbidden(slide: Path, draw: random.Random) -> str:
    path = draw.choice([*files_of(slide), slide.with_suffix("")] if slide.suffix == ".mrxs" else [slide])
    path.chmod(0)
    return path.name


Mutate = Callable[[Path, random.Random], str]
KINDS: dict[str, Mutate] = {
    "header flipped": _flip_header,
    "index flipped": _flip_index,
    "tiles flipped": _flip_tiles,
    "absurd number": _absurd,
    "truncated": _truncate,
    "zeros": _zero_stretch,
    "empty": _empty,
    "missing": _missing,
    "folder instead": _folder_instead,
    "forbidden": _forbidden,
}


def mutate(slide: Path, kind: str, draw: random.Random) -> Mutation:
    """Damage `slide` in place with one of `KINDS`."""
    return Mutation(kind, KINDS[kind](slide, draw))


# -- wells of damaged slides ----------------------------------------------------------------------------------------------


@dataclass
class Damaged:
    """A damaged slide and its outcome in the run."""

    slide_id: str
    source: str
    kind: str
    where: str
    outcome: str = ""
    message: str = ""


#: Names of the undamaged slides, by the suffix of the slide they are copies of.
_HEALTHY = {".svs": "6407_6-5 500 mDC.svs", ".mrxs": "6407_6-5 600.5 mC.mrxs"}


def make_healthy(folder: Path, sources: Sequence[Path]) -> Path:
    """Make a well with one undamaged copy of each of `sources` (of different suffixes)."""
    folder.mkdir(parents=True)
    for source in sources:
        copy_slide(source, folder / _HEALTHY[source.suffix])
    return folder


def make_damaged(
    folder: Path, sources: Sequence[Path], kinds: Sequence[str], count: int, draw: random.Random, first: int = 0
) -> list[Damaged]:
    """Add `count` damaged slides to a well, numbered from `first`; kinds and sources alternate."""
    made = []
    for number in range(first, first + count):
        kind, source = kinds[number % len(kinds)], sources[number // len(kinds) % len(sources)]
        slide = copy_slide(source, folder / f"6407_6-5 {1000 + number} mDC{source.suffix}")
        mutation = mutate(slide, kind, draw)
        made.append(Damaged(slide.stem, source.name, kind, mutation.where))
    return made


def slide_rows(out: Path) -> dict[str, dict[str, str]]:
    """Return the rows of `counts_slides.csv` by slide."""
    with (out / "counts_slides.csv").open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def healthy_bytes(out: Path, sources: Sequence[Path]) -> tuple[list[bytes], list[Any]]:
    """Return the lines of the count tables and the object rows of the undamaged slides."""
    names = [Path(_HEALTHY[source.suffix]).stem for source in sources]
    lines = [
        line
        for name, key in (("counts_slides.csv", names), ("counts.csv", [name.replace("_", "/", 1) for name in names]))
        for line in (out / name).read_bytes().splitlines()
        if line.startswith(tuple(f"{start},".encode() for start in key))
    ]
    objects = pq.read_table(out / "objects.parquet", filters=[("slide_id", "in", names)])
    return lines, objects.to_pylist()


def judge(out: Path, damaged: Sequence[Damaged], twins: dict[str, dict[str, str]]) -> None:
    """Set the outcome of each damaged slide; `twins` are the rows of the undamaged slides by suffix."""
    rows = slide_rows(out)
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        failures = list(csv.DictReader(file))
    for slide in damaged:
        mine = [row for row in failures if row["slide_id"] == slide.slide_id]
        reasons, stages = [row["reason"] for row in mine], {row["stage"] for row in mine}
        row, twin = rows.get(slide.slide_id), twins[Path(slide.source).suffix]
        slide.message = reasons[0] if reasons else slide.message
        if row is None:
            slide.outcome = "not reported" if not slide.outcome else slide.outcome
        elif row["status"] in ("failed", "partial") and not reasons:
            slide.outcome = f"{row['status']} without a reason"
        elif row["status"] == "failed":
            slide.outcome = "failed"
        elif row["status"] == "partial":
            # A lost crop is an object that is reported as unusable; a lost region is lost area.
            lost = "detect" not in stages or float(row["area_mm2"]) < float(twin["area_mm2"])
            slide.outcome = "partial" if lost else "partial, no area lost"
        elif all(row[name] == twin[name] for name in row if name not in _NAMING):
            slide.outcome = "whole"
        elif float(row["area_mm2"]) < float(twin["area_mm2"]):
            slide.outcome = "whole, less area scanned"
        else:
            slide.outcome = "whole, other counts"


#: Columns that identify the slide of a row.
_NAMING = ("slide_id", "sample_id", "well", "depth_m", "sample_type")

#: Outcomes that must not occur.
WRONG = ("not reported", "partial, no area lost", "failed without a reason", "partial without a reason")


def run_damaged(plan: runs.RunPlan, out: Path, damaged: Sequence[Damaged], **options: Any) -> runs.Ended:
    """Run a well of damaged slides; a slide that prevents the start is recorded and excluded, as the message advises."""
    refused: list[str] = []
    while True:
        ended = runs.finish(plan, out, out.with_suffix(".log"), **options)
        named = [slide for slide in damaged if slide.slide_id not in refused and f"{slide.slide_id}." in ended.output]
        if ended.status != 2 or len(named) != 1 or "Traceback" in ended.output:
            return ended
        named[0].outcome, named[0].message = "refused before the work", ended.output.strip().splitlines()[-1]
        refused.append(named[0].slide_id)
        lines = ["slide,exclude", *(f"{slide_id},yes" for slide_id in refused)]
        (plan.well / "samples.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure and print; exit status 1 if a run died or a slide was lost without a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--wells", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a run counts as hanging")
    parser.add_argument("--out", type=Path, help="also write the figures there (JSON)")
    options = parser.parse_args()
    wrong: list[str] = []
    every: list[Damaged] = []
    peaks_mb: list[int] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = ("--reference", str(ROOT / "sample_slides" / "reference"), "--workers", str(options.workers))
        healthy = make_healthy(folder / "healthy", SAMPLE_SLIDES)
        plan = runs.RunPlan(healthy, more, folder / "cache")
        kinds = list(KINDS)
        ended = runs.finish(plan, folder / "out", folder / "out.log", preexec_fn=runs.obey_modes)
        if ended.status:
            raise SystemExit(f"the healthy well ended with status {ended.status}: {ended.output}")
        wanted = healthy_bytes(folder / "out", SAMPLE_SLIDES)
        twins = twin_rows(folder / "out")
        each = options.count // options.wells
        for number in range(options.wells):
            draw = random.Random(f"{options.seed}/{number}")
            well = make_healthy(folder / f"well-{number}", SAMPLE_SLIDES)
            damaged = make_damaged(well, SAMPLE_SLIDES, kinds, each, draw, first=number * each)
            out = folder / f"out-{number}"
            plan = runs.RunPlan(well, more, folder / "cache")
            try:
                ended = run_damaged(plan, out, damaged, timeout_s=options.timeout, preexec_fn=runs.obey_modes)
            except subprocess.TimeoutExpired:
                wrong.append(f"well {number}: hangs")
                continue
            every += damaged
            seconds.append(ended.seconds)
            peaks_mb.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000)
            if ended.status not in (0, 1):
                wrong.append(f"well {number}: status {ended.status}: {ended.output[-500:]}")
                continue
            judge(out, damaged, twins)
            if healthy_bytes(out, SAMPLE_SLIDES) != wanted:
                wrong.append(f"well {number}: the healthy slides' tables are others")
            wrong += [f"{slide}" for slide in damaged if slide.outcome in WRONG]
            print(f"well {number}: {ended.seconds:.0f} s, {Counter(slide.outcome for slide in damaged)}", flush=True)
            _remove(well)
            shutil.rmtree(out)
    outcomes = sorted({slide.outcome for slide in every})
    runs.print_table(
        [
            {"damage": kind, **{outcome: _count(every, kind, outcome) for outcome in outcomes}}
            for kind in dict.fromkeys(slide.kind for slide in every)
        ]
    )
    print({outcome: sum(slide.outcome == outcome for slide in every) for outcome in outcomes})
    print(f"largest process {max(peaks_mb, default=0)} MB, {sum(seconds):.0f} s in all")
    for line in wrong:
        print("WRONG:", line)
    if options.out:
        figures = {"wrong": wrong, "peak_mb": max(peaks_mb, default=0), "slides": [asdict(slide) for slide in every]}
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if wrong else 0)


def twin_rows(out: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the undamaged slides by suffix, from a run of a well of `make_healthy`."""
    rows = slide_rows(out)
    return {suffix: rows[Path(name).stem] for suffix, name in _HEALTHY.items()}


def _count(slides: Sequence[Damaged], kind: str, outcome: str) -> int:
    return sum(slide.kind == kind and slide.outcome == outcome for slide in slides)


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
