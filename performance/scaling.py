"""Scaling with workers and slides: `python performance/scaling.py [--slides 6] [--out FILE.json]`.

* Workers: a well of six scans of 67 megapixels is counted with one worker and with two, with one orientation per embedding,
  so that detection and cutting dominate. Then only its embedding is repeated, with eight orientations. The start-up time,
  measured on a well of one empty block, is subtracted. The ratio of one worker to two should be at least 1.8 on two idle
  cores.
* Slides: wells of 1, 2, 4 and 8 copies of a scan are counted with two workers. A line is fitted to the wall times; none should
  differ from it by more than 10 %.

The reference set is embedded in advance. Takes about five minutes on two idle cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from performance import runs  # noqa: E402  # it is no installed package
from performance.made_scans import blocks_of_tiles, spread, write_blocks  # noqa: E402
from sample_slides.scanfiles import Tiles  # noqa: E402

COPIES = (1, 2, 4, 8)
#: Columns and rows of blocks of a scan, and the number of blocks with objects: first well, and copies.
_SCAN, _COPY = ((2, 2), 1), ((3, 2), 6)
LEAST_RATIO, MOST_RESIDUAL = 1.8, 0.1


def write_well(folder: Path, slides: int, blocks: tuple[int, int], dense: int, tiles: Mapping[bool, Tiles]) -> float:
    """Write a well of equal scans; return its megapixels."""
    folder.mkdir(parents=True)
    columns, rows = blocks
    return sum(
        1000 * write_blocks(folder / f"1_2-3 {100 + n} mDC.svs", columns, rows, spread(dense, columns, rows), tiles)
        for n in range(slides)
    )


def seconds_of(plan: runs.RunPlan, out: Path, workers: int, orientations: int) -> float:
    """Return the wall time of a run.

    Raises:
        SystemExit: the run failed.
    """
    options = (*plan.options, "--workers", str(workers), "--orientations", str(orientations))
    ended = runs.finish(replace(plan, options=options), out, out.with_name(out.name + ".log"))
    if ended.status:
        raise SystemExit(f"the run ended with status {ended.status}: {ended.output}")
    return ended.seconds


def two_workers(folder: Path, plan: runs.RunPlan, slides: int, tiles: Mapping[bool, Tiles]) -> list[dict[str, Any]]:
    """Measure start-up, detection and embedding with one worker and with two."""
    write_well(folder / "barren", 1, (1, 1), 0, tiles)
    megapixels = write_well(folder / "large", slides, *_SCAN, tiles)
    startup, detecting, embedding, objects = {}, {}, {}, 0
    for orientations in (1, 8):  # embeds the reference set for both
        seconds_of(replace(plan, well=folder / "barren"), folder / f"warm-{orientations}", 2, orientations)
    for workers in (1, 2):
        startup[workers] = seconds_of(replace(plan, well=folder / "barren"), folder / f"start-{workers}", workers, 1)
        large, out = replace(plan, well=folder / "large"), folder / f"large-{workers}"
        detecting[workers] = seconds_of(large, out, workers, 1) - startup[workers]
        embedding[workers] = seconds_of(large, out, workers, 8) - startup[workers]
        objects = int(json.loads((out / "manifest.json").read_text())["objects"])
    return [
        {"what": "start-up (s)", **_times(startup), "ratio": ""},
        {"what": f"detection, crops, {megapixels:.0f} megapixels (s)", **_times(detecting), "ratio": _ratio(detecting)},
        {
            "what": f"embedding over 8 orientations, {objects} objects (s)",
            **_times(embedding),
            "ratio": _ratio(embedding),
        },
    ]


def _times(seconds: Mapping[int, float]) -> dict[str, float]:
    return {"1 worker": round(seconds[1], 1), "2 workers": round(seconds[2], 1)}


def _ratio(seconds: Mapping[int, float]) -> float:
    return round(seconds[1] / seconds[2], 2)


def copies(folder: Path, plan: runs.RunPlan, tiles: Mapping[bool, Tiles]) -> list[dict[str, Any]]:
    """Measure the wall time of 1, 2, 4 and 8 copies of a scan, and fit a line."""
    walls = []
    for count in COPIES:
        well = folder / f"copies-{count}"
        write_well(well, count, *_COPY, tiles)
        walls.append(seconds_of(replace(plan, well=well), folder / f"copies-out-{count}", 2, 1))
    fitted = fit_line(COPIES, walls)
    return [
        {"slides": count, "s": round(wall, 1), "line": round(line, 1), "off": f"{wall / line - 1:+.1%}"}
        for count, wall, line in zip(COPIES, walls, fitted, strict=True)
    ]


def fit_line(sizes: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Return the values at `sizes` of the line with the least squared relative error to `seconds`."""
    weights = 1 / np.asarray(seconds)
    slope, start = np.polyfit(sizes, seconds, 1, w=weights)
    return [float(start + slope * size) for size in sizes]


def main() -> None:
    """Measure and print; exit status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=6, help="scans of the well that one and two workers count")
    parser.add_argument("--out", type=Path, help="also write the figures there (JSON)")
    options = parser.parse_args()
    tiles = blocks_of_tiles()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = runs.RunPlan(folder, ("--reference", str(ROOT / "sample_slides" / "reference")), folder / "cache")
        workers = two_workers(folder, plan, options.slides, tiles)
        runs.print_table(workers)
        lines = copies(folder, plan, tiles)
        runs.print_table(lines)
    missed = [
        f"{row['what']}: {row['ratio']} times, not {LEAST_RATIO}" for row in workers[1:] if row["ratio"] < LEAST_RATIO
    ]
    missed += [
        f"{row['slides']} slides: off the line by more than {MOST_RESIDUAL:.0%}" for row in lines if _is_off(row)
    ]
    for line in missed:
        print("MISSED:", line)
    if options.out:
        options.out.write_text(json.dumps({"workers": workers, "slides": lines, "missed": missed}, indent=2) + "\n")
    sys.exit(1 if missed else 0)


def _is_off(row: Mapping[str, Any]) -> bool:
    return abs(float(row["off"].rstrip("%"))) > 100 * MOST_RESIDUAL


if __name__ == "__main__":
    main()
