"""Accuracy and speed of a detector on wells with known truth.

    python performance/detection.py WELL [WELL ...] [--core-px 2048] [--setting neck_ratio=0.65 ...]

A WELL is a folder of slides with `truth.csv` in it (performance/make_composite.py makes one). A fossil is found if a box
overlaps it with IoU >= 0.5. A box is right if it overlaps a true object with IoU >= 0.3. Boxes on debris that is too small to
count (under 15 um) are ignored. Times are those of one process: reading the pixels of the level once, and detection with its
halos.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidepipe.detection.blocks import plan_blocks, plan_grid, read_window
from slidepipe.detection.detect_slide import detect_block, merge_blocks
from slidepipe.detectors.density.detector import DensityDetector, DensitySettings
from slidepipe.slides.reader import open_slide

FOUND_IOU, RIGHT_IOU, LEAST_UM = 0.5, 0.3, 15.0
Boxes = npt.NDArray[np.float64]


def overlaps(box: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """Return the IoU of one box (4,) with each of `others` (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / union, np.float64)


def score(boxes: Boxes, truth: list[dict[str, str]], mpp: float) -> npt.NDArray[np.int64]:
    """Return the numbers of fossils, found fossils, counted boxes and right boxes."""
    true = np.array([[float(row[edge]) for edge in ("x0", "y0", "x1", "y1")] for row in truth]).reshape(-1, 4)
    is_fossil = np.array([row["genus"] != "debris" for row in truth], bool)
    counts = is_fossil | ((true[:, 2:] - true[:, :2]).max(axis=1) * mpp >= LEAST_UM)
    found = sum(overlaps(box, boxes).max(initial=0) >= FOUND_IOU for box in true[is_fossil])
    right = wrong = 0
    for box in boxes:
        iou = overlaps(box, true)
        best = int(iou.argmax()) if len(iou) else -1
        if best < 0 or iou[best] < RIGHT_IOU:
            wrong += 1
        elif counts[best]:
            right += 1
    return np.array([is_fossil.sum(), found, right + wrong, right], np.int64)


def measure(
    path: Path, truth: list[dict[str, str]], detector: DensityDetector, core_px: int
) -> npt.NDArray[np.float64]:
    """Return the score of one slide, its detection pixels, and the seconds of reading once, reading with halos, and detecting."""
    with open_slide(path) as slide:
        grid = plan_grid(slide.meta, detector.mpp)
        blocks = plan_blocks(grid, detector, core_px)
        start = time.perf_counter()
        for block in blocks:
            read_window(slide, grid, block.core)
        once = time.perf_counter() - start
        start = time.perf_counter()
        windows = [read_window(slide, grid, block.window) for block in blocks]
        halo = time.perf_counter() - start
        start = time.perf_counter()
        for window in windows:
            detector.detect(window.region)
        detecting = time.perf_counter() - start
        table = merge_blocks(detect_block(slide, grid, block, detector).table for block in blocks)
    counts = score(table.boxes.astype(np.float64), truth, slide.meta.mpp)
    return np.array([*counts, grid.width * grid.height, once, halo, detecting], np.float64)


def line(name: str, total: npt.NDArray[np.float64]) -> str:
    """Return one line of figures."""
    fossils, found, boxes, right, pixels, once, halo, detecting = total
    return (
        f"{name}: found {found / max(1, fossils):.4f} of {fossils:.0f} fossils, {right / max(1, boxes):.4f} of {boxes:.0f} boxes "
        f"right; reading {once / pixels * 1e9:.0f} ns a pixel ({halo / pixels * 1e9:.0f} with halos), "
        f"detecting {detecting / pixels * 1e9:.0f}: {(halo + detecting) / once:.2f} times the reading"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wells", type=Path, nargs="+")
    parser.add_argument("--core-px", type=int, default=2048)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    settings = dict(setting.partition("=")[::2] for setting in options.setting)
    detector = DensityDetector(DensitySettings.model_validate(settings))
    all_wells = np.zeros(8)
    for well in options.wells:
        with (well / "truth.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        total = np.zeros(8)
        for slide in sorted({row["slide"] for row in rows}):
            path = next(path for path in sorted(well.iterdir()) if path.is_file() and path.stem == slide)
            total += measure(path, [row for row in rows if row["slide"] == slide], detector, options.core_px)
        print(line(well.name, total))
        all_wells += total
    print(line("all", all_wells))


if __name__ == "__main__":
    main()
