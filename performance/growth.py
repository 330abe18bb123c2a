"""Growth: log-log slopes of wall time and peak memory over larger scans, more objects and more slides.

Measures whole `slidepipe run` commands with two workers and the default backbone. The reference set is embedded in advance. A
slope is a least-squares fit over all points. Every point includes the start-up time, which makes the slope smaller; therefore
the slope between the two largest points is reported too, and the larger of the two must meet the bar.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from performance.figures import Measured, Row, at_most
from performance.made_scans import blocks_of_tiles, spread, write_blocks
from performance.scale import Scale
from performance.timing import ROOT, Ran, run_slidepipe
from sample_slides.scanfiles import Tiles

REFERENCE = ROOT / "sample_slides" / "reference"
WORKERS = 2
#: Below this size, memory grows with the scan because the scan does not yet fill the blocks in memory.
MEMORY_FROM_GIGAPIXELS = 0.4
#: One in this many blocks of the growing scan has objects; an empty scan would not exercise the later stages.
ONE_DENSE_IN = 6


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the least-squares log-log slope of `values` against `sizes`; NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def run_well(well: Path, out: Path, cache: Path) -> tuple[Ran, int]:
    """Run a well while sampling its memory; return the figures and the number of objects."""
    ran = run_slidepipe(
        ["run", well, "--out", out, "--reference", REFERENCE, "--workers", str(WORKERS)], cache=cache, watch=True
    )
    return ran, int(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["objects"])


def measure(scale: Scale) -> Measured:
    """Measure growth with scan size, objects and slides."""
    tiles = blocks_of_tiles()
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # The first run embeds the reference set; the others read it from the cache.
        _run_scans(root, "warm", [(1, 1, 1)], tiles)

        def gigapixels(shape: tuple[int, int]) -> tuple[float, Ran, int]:
            columns, rows = shape
            return _run_scans(root, "size", [(columns, rows, max(1, columns * rows // ONE_DENSE_IN))], tiles)

        largest = scale.rectangles[-1]
        points = [gigapixels(shape) for shape in scale.rectangles]
        _tell(measured, "gigapixels", [point[0] for point in points], [point[1] for point in points])
        large = [point for point in points if point[0] >= MEMORY_FROM_GIGAPIXELS] or points
        _memory(measured, "gigapixels", [point[0] for point in large], [point[1] for point in large])

        side = min(11, largest[0])
        dense = [_run_scans(root, "objects", [(side, side, count)], tiles) for count in scale.dense]
        _tell(measured, "objects", [max(1, point[2]) for point in dense], [point[1] for point in dense])
        _memory(measured, "objects", [max(1, point[2]) for point in dense], [point[1] for point in dense])

        wells = [_run_scans(root, "slides", [(3, 2, 6)] * count, tiles) for count in scale.wells]
        _tell(measured, "slides", list(scale.wells), [point[1] for point in wells])
    return measured


def _run_scans(
    root: Path, name: str, slides: Sequence[tuple[int, int, int]], tiles: Mapping[bool, Tiles]
) -> tuple[float, Ran, int]:
    """Write and run a well of scans (columns, rows, blocks with objects); return gigapixels, the run and its objects."""
    with tempfile.TemporaryDirectory(prefix=name, dir=root) as folder:
        well = Path(folder) / "well"
        well.mkdir()
        size = 0.0
        for number, (columns, rows, dense) in enumerate(slides):
            path = well / f"1_2-3 {1000 + 10 * number} mDC.svs"
            size += write_blocks(path, columns, rows, spread(dense, columns, rows), tiles)
        ran, objects = run_well(well, Path(folder) / "results", root / "cache")
        return size, ran, objects


def _tell(measured: Measured, what: str, sizes: Sequence[float], runs: Sequence[Ran]) -> None:
    walls = [ran.wall_s for ran in runs]
    value, last = slope(sizes, walls), slope(sizes[-2:], walls[-2:])
    measured.figures[what] = {
        what: list(sizes),
        "wall_s": walls,
        "cpu_s": [ran.cpu_s for ran in runs],
        "worker_peak_mb": [ran.worker_peak_mb for ran in runs],
        "parent_peak_mb": [ran.parent_peak_mb for ran in runs],
        "slope": value,
        "slope_of_last_two": last,
    }
    points = ", ".join(f"{size:.3g}: {wall:.1f} s" for size, wall in zip(sizes, walls, strict=True))
    measured.rows.append(
        at_most(
            f"wall time against {what}, log-log slope",
            max(value, last),
            1.05,
            floor=f"{points}; all {value:.2f}, last two {last:.2f}",
        )
    )


def _memory(measured: Measured, what: str, sizes: Sequence[float], runs: Sequence[Ran]) -> None:
    message = ", ".join(
        f"{size:.3g}: {ran.worker_peak_mb:.0f} MB (parent {ran.parent_peak_mb:.0f})"
        for size, ran in zip(sizes, runs, strict=True)
    )
    value = slope(sizes, [ran.worker_peak_mb for ran in runs])
    measured.figures[f"memory against {what}"] = {
        what: list(sizes),
        "worker_peak_mb": [ran.worker_peak_mb for ran in runs],
        "parent_peak_mb": [ran.parent_peak_mb for ran in runs],
        "worker_slope": value,
        "parent_slope": slope(sizes, [ran.parent_peak_mb for ran in runs]),
    }
    name = f"peak memory of a worker against {what}, log-log slope"
    measured.rows.append(
        at_most(name, value, 0.05, "{:.3f}", message) if what == "gigapixels" else Row(name, f"{value:.3f}", message)
    )
