"""Peak memory of a worker on a slide of several gigapixels: `python performance/memory.py [--gigapixels 3.3]`.

Writes a scan that repeats the encoded tiles of the sample well, and runs slidepipe on it with worker processes. Samples the
resident memory of every process of the run, and prints the peak of the largest worker and of the parent.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from sample_slides.scanfiles import image_tiles, write_svs  # noqa: E402  # it is no installed package
from slidepipe.slides.reader import open_slide  # noqa: E402

TILE_PX = 256


def write_large(path: Path, gigapixels: float) -> tuple[int, int]:
    """Write a scan of this size that repeats the middle of a sample slide; return its size in pixels."""
    with open_slide(ROOT / "sample_slides" / "well" / "6407_6-5 1200 mDC.svs") as slide:
        level = slide.meta.levels[0]
        side = min(level.width_px, level.height_px) // (16 * TILE_PX) * 16 * TILE_PX
        image = np.ascontiguousarray(slide.read(level, 0, 0, side, side)[0])
    repeat = max(1, round((gigapixels * 1e9) ** 0.5 / side))
    tiles = image_tiles(image, quality=80)
    across = [side // factor // TILE_PX for factor in (1, 4, 16)]
    kept: dict[tuple[int, int, int], bytes | None] = {}

    def repeated(level: int, column: int, row: int) -> bytes | None:
        key = (level, column % across[level], row % across[level])
        if key not in kept:
            kept[key] = tiles(*key)
        return kept[key]

    size = (side * repeat, side * repeat)
    write_svs(path, size, repeated, big=True)
    return size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigapixels", type=float, default=3.3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "1_2-3 100 mDC.svs"
        width, height = write_large(scan, options.gigapixels)
        command = [sys.executable, "-m", "slidepipe.cli", "run", str(scan), "--out", f"{folder}/results"]
        command += ["--reference", str(ROOT / "sample_slides" / "reference"), "--workers", str(options.workers)]
        started = time.monotonic()
        run = subprocess.Popen(
            command, env={**os.environ, "SLIDEPIPE_CACHE": f"{folder}/cache"}, stdout=subprocess.DEVNULL
        )
        parent, workers = 0, dict[int, int]()
        process = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                parent = max(parent, process.memory_info().rss)
                for child in process.children(recursive=True):
                    workers[child.pid] = max(workers.get(child.pid, 0), child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.1)
        seconds = time.monotonic() - started
        manifest = json.loads((Path(folder) / "results" / "manifest.json").read_text())
        stored = sum(path.stat().st_size for path in (Path(folder) / "results" / "slides").rglob("*") if path.is_file())
    figures = {
        "gigapixels": width * height / 1e9,
        "objects": manifest["objects"],
        "exit_status": run.returncode,
        "seconds": round(seconds, 1),
        "worker_peak_mb": round(max(workers.values(), default=0) / 1e6),
        "parent_peak_mb": round(parent / 1e6),
        "stored_bytes_per_object": round(stored / max(1, manifest["objects"])),
    }
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
