"""The published detection method compared with slidepipe's detection: time, found and missed fossils.

The published method: DeepZoom tiles of 2048 px of level 0 without overlap, inside the bounds; mean of green and blue;
Gaussian blur of 127 px; adaptive Gaussian threshold (block 255 px, C = 2); connected components of at least 4000 px; of boxes
that overlap (IoU >= 0.001) both are dropped. One thread each.
"""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
from openslide.deepzoom import DeepZoomGenerator

from performance.detection import overlaps, score
from performance.figures import Measured, Row, at_least
from performance.scale import NO_DATA, Scale, composite_slides, data_folder
from performance.stage_detect import detect_slide
from performance.timing import clocked, median
from slidepipe.slides.reader import read_meta

TILE_PX, BLUR_PX, BLOCK_PX, BELOW, LEAST_PX, LEAST_IOU = 2048, 127, 255, 2, 4000, 0.001
Boxes = npt.NDArray[np.float64]


def find_as_today(path: Path) -> Boxes:
    """Return the boxes that the published method finds on a scan: float64 (N, 4), level-0 pixels."""
    import cv2

    cv2.setNumThreads(1)
    found: list[Boxes] = []
    with openslide.OpenSlide(path) as slide:
        x0 = int(slide.properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0))
        y0 = int(slide.properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0))
        zoom = DeepZoomGenerator(slide, tile_size=TILE_PX, overlap=0, limit_bounds=True)
        columns, rows = zoom.level_tiles[-1]
        for row in range(rows):
            for column in range(columns):
                tile = np.asarray(zoom.get_tile(zoom.level_count - 1, (column, row)))
                grey = tile[..., 1:].mean(axis=2).astype(np.uint8)
                blurred = cv2.GaussianBlur(grey, (BLUR_PX, BLUR_PX), 0)
                mask = cv2.adaptiveThreshold(
                    blurred, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, BLOCK_PX, BELOW
                )
                parts = cv2.connectedComponentsWithStats(mask)[2][1:]  # component 0 is the background
                parts = parts[parts[:, cv2.CC_STAT_AREA] >= LEAST_PX][:, :4].astype(np.float64)
                boxes = np.concatenate([parts[:, :2], parts[:, :2] + parts[:, 2:]], axis=1)
                found.append(_alone(boxes) + np.array([x0 + column * TILE_PX, y0 + row * TILE_PX] * 2, np.float64))
    return np.concatenate(found) if found else np.zeros((0, 4))


def _alone(boxes: Boxes) -> Boxes:
    kept = [np.count_nonzero(overlaps(box, boxes) >= LEAST_IOU) == 1 for box in boxes]  # a box overlaps itself
    alone: Boxes = boxes[np.array(kept, bool)]
    return alone


def measure(scale: Scale) -> Measured:
    """Measure both methods on the composite wells against their truth."""
    data = data_folder()
    if data is None:
        return Measured(skipped=[f"the job as today: {NO_DATA}"])
    if importlib.util.find_spec("cv2") is None:
        return Measured(skipped=["the job as today: opencv-python-headless is not installed (pip install '.[bench]')"])
    seconds: dict[str, list[tuple[float, float]]] = {"today": [], "slidepipe": []}
    counts = {name: np.zeros(4, np.int64) for name in seconds}
    for path in composite_slides(data, scale.slides):
        with (path.parent / "truth.csv").open(newline="", encoding="utf-8") as file:
            truth = [row for row in csv.DictReader(file) if row["slide"] == path.stem]
        mpp = read_meta(path).mpp
        boxes: dict[str, Boxes] = {}

        def as_today(path: Path = path, boxes: dict[str, Boxes] = boxes) -> None:
            boxes["today"] = find_as_today(path)

        def as_here(path: Path = path, boxes: dict[str, Boxes] = boxes) -> None:
            boxes["slidepipe"] = detect_slide(path).boxes.astype(np.float64)

        seconds["today"].append(clocked(as_today))
        rounds = median([clocked(as_here) for _ in range(scale.repeats)])
        seconds["slidepipe"].append((rounds.wall_s, rounds.cpu_s))
        for name, found in boxes.items():
            counts[name] += score(found, truth, mpp)
    return _compare(seconds, counts)


def _compare(seconds: dict[str, list[tuple[float, float]]], counts: dict[str, npt.NDArray[np.int64]]) -> Measured:
    measured = Measured()
    for name, timings in seconds.items():
        fossils, found, boxes, right = (int(count) for count in counts[name])
        measured.figures[name] = {
            "slides": len(timings),
            "wall_s": sum(wall for wall, _ in timings),
            "cpu_s": sum(cpu for _, cpu in timings),
            "fossils": fossils,
            "found": found,
            "missed": fossils - found,
            "boxes": boxes,
            "boxes_right": right,
        }
    today, here = measured.figures["today"], measured.figures["slidepipe"]
    ratio = today["wall_s"] / here["wall_s"]
    measured.figures["times_as_fast"] = ratio
    compared = f"as today {today['wall_s']:.1f} s, slidepipe {here['wall_s']:.2f} s for {here['slides']} scans"
    measured.rows.append(
        at_least("finding objects, times as fast as the job done as today", ratio, 25, "{:.0f}", compared)
    )
    measured.rows.append(
        Row(
            "fossils found (IoU at least 0.5) / missed",
            f"{here['found']} / {here['missed']}",
            f"as today {today['found']} / {today['missed']}",
            "more found",
            here["found"] > today["found"],
        )
    )
    measured.rows.append(
        Row(
            "boxes that lie on an object",
            f"{here['boxes_right'] / max(1, here['boxes']):.1%}",
            f"as today {today['boxes_right'] / max(1, today['boxes']):.1%}",
        )
    )
    return measured
