"""Detection: finding and splitting the objects of a scan, compared with reading the same pixels once with OpenSlide.

The lower bound is `read_region` of the level that detection reads, within the bounds of the scan, in pieces of 2048 px; the
pixels are dropped. Both open the file again for each repetition. Detection reads with its halos. One process each.
"""

import itertools
from pathlib import Path

import openslide

from performance.figures import Measured, Row, at_most
from performance.scale import NO_DATA, Scale, composite_slides, data_folder
from performance.timing import alternate
from slidepipe.config import DetectorConfig
from slidepipe.detection.blocks import Grid, plan_blocks, plan_grid
from slidepipe.detection.detect_slide import BoxTable, detect_block, merge_blocks
from slidepipe.detectors.density.detector import DensityDetector
from slidepipe.slides.reader import open_slide

PIECE_PX = 2048
#: A real scan that does not record its resolution, and its approximate resolution.
REAL, REAL_MPP = "palyno_A.tif", 0.25


def detect_slide(path: Path, mpp: float | None = None) -> BoxTable:
    """Return all objects of a scan, as a run finds them."""
    detector = DensityDetector()
    with open_slide(path, mpp) as slide:
        grid = plan_grid(slide.meta, detector.mpp)
        blocks = plan_blocks(grid, detector, DetectorConfig().block_px)
        return merge_blocks(detect_block(slide, grid, block, detector).table for block in blocks)


def detection_grid(path: Path, mpp: float | None = None) -> Grid:
    """Return the grid of pixels that detection reads."""
    with open_slide(path, mpp) as slide:
        return plan_grid(slide.meta, DensityDetector().mpp)


def read_level(path: Path, grid: Grid) -> None:
    """Read the pixels that detection needs, once, and drop them."""
    width, height, scale = grid.width * grid.factor, grid.height * grid.factor, grid.level.downsample
    with openslide.OpenSlide(path) as slide:
        for y, x in itertools.product(range(0, height, PIECE_PX), range(0, width, PIECE_PX)):
            corner = round((grid.left_px + x) * scale), round((grid.top_px + y) * scale)
            slide.read_region(corner, grid.level.index, (min(PIECE_PX, width - x), min(PIECE_PX, height - y)))


def measure(scale: Scale) -> Measured:
    """Measure the composite wells and the real scan."""
    data = data_folder()
    if data is None:
        return Measured(skipped=[f"detection: {NO_DATA}"])
    measured = Measured()
    _measure("composite wells", [(path, None) for path in composite_slides(data, scale.slides)], scale, measured)
    real = data / "real" / REAL
    if real.exists() and scale.slides > 1:
        _measure("real scan (debris)", [(real, REAL_MPP)], scale, measured)
    return measured


def _measure(name: str, slides: list[tuple[Path, float | None]], scale: Scale, measured: Measured) -> None:
    grids = [(path, detection_grid(path, mpp)) for path, mpp in slides]
    tables: list[BoxTable] = []

    def detect() -> None:
        tables[:] = [detect_slide(path, mpp) for path, mpp in slides]

    def read() -> None:
        for path, grid in grids:
            read_level(path, grid)

    timings = alternate({"reading": read, "detection": detect}, scale.repeats)
    reading, detection = timings["reading"], timings["detection"]
    megapixels = sum(grid.width * grid.height * grid.scale_x * grid.scale_y for _, grid in grids) / 1e6
    ratio = detection.wall_s / reading.wall_s
    measured.figures[name] = {
        "slides": len(slides),
        "megapixels_level0": round(megapixels, 1),
        "objects": sum(len(table) for table in tables),
        "reading": vars(reading),
        "detection": vars(detection),
        "times_reading": ratio,
        "times_reading_cpu": detection.cpu_s / reading.cpu_s,
        "level0_megapixels_per_second_and_core": megapixels / detection.wall_s,
    }
    compared = f"reading {reading.wall_s:.2f} s, detection {detection.wall_s:.2f} s (medians of {reading.runs})"
    measured.rows.append(
        at_most(f"detection with splitting, {name}, times reading its pixels", ratio, 4, floor=compared)
    )
    measured.rows.append(
        Row(f"detection, {name}, level-0 megapixels per second and core", f"{megapixels / detection.wall_s:.0f}")
    )
