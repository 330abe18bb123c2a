"""The viewer on a large well: `python performance/view.py [--objects 100000] [--gigapixels 3.3]`.

Makes a RESULTS folder with many objects, whose first slide is a scan of several gigapixels, and starts `slidepipe view` on
it. Measures in headless Chromium the time of the first page and the scrolling of a list of specimens. Measures over HTTP the
time of tiles (random places and zooms, each requested once) and the growth of the server's memory over 2,000 tiles.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from performance.memory import write_large  # noqa: E402  # it is no installed package
from slidepipe.slides.geometry import Box  # noqa: E402
from slidepipe.slides.reader import open_slide  # noqa: E402
from slidepipe.viewer.tiles import TILE_PX, TilePyramid  # noqa: E402
from tests.synthetic import make_well  # noqa: E402
from tests.viewer.view_server import ViewServer, serving  # noqa: E402

SAMPLES = 20

#: JavaScript that scrolls through the list for some seconds and records the time per frame and the fraction of missing images.
SCROLL = """async () => {
  const grid = document.getElementById("grid");
  const times = [];
  let blank = 0, seen = 0;
  const end = performance.now() + 6000;
  let last = performance.now();
  while (performance.now() < end) {
    grid.scrollTop += 40;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
    const frame = grid.getBoundingClientRect();
    for (const image of grid.querySelectorAll(".cell img")) {
      const box = image.getBoundingClientRect();
      if (box.bottom < frame.top || box.top > frame.bottom) continue;
      seen += 1;
      if (!image.complete) blank += 1;
    }
  }
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.floor(times.length * share)];
  return { median: at(0.5), p95: at(0.95), blank: blank / seen, frames: times.length };
}"""


def make(folder: Path, objects: int, gigapixels: float) -> tuple[Path, tuple[int, int]]:
    """Make RESULTS with `objects` objects, whose first slide has a scan; return the folder and the scan's size."""
    results = make_well(folder / "results", samples=SAMPLES, genera=20, objects=round(objects / SAMPLES / 4 * 3))
    scan = folder / "scan.svs"
    size = write_large(scan, gigapixels)
    manifest = json.loads((results / "manifest.json").read_text())
    entry = manifest["slides"][0]
    entry |= {"path": str(scan), "width_px": size[0], "height_px": size[1], "bounds": [0, 0, *size]}
    (results / "manifest.json").write_text(json.dumps(manifest))
    return results, size


def first_pages(server: ViewServer) -> dict[str, float]:
    """Return the milliseconds in the browser until the well page, its counts, and the first specimens are shown."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto("about:blank")
        figures = {}
        started = time.monotonic()
        page.goto(server.url)
        figures["first_page_ms"] = (time.monotonic() - started) * 1000
        page.wait_for_selector("#counts tbody tr")
        figures["first_page_with_counts_ms"] = (time.monotonic() - started) * 1000
        started = time.monotonic()
        page.goto(f"{server.url}/grid?name=all&sort=certain")
        page.wait_for_selector(".cell img")
        figures["grid_of_all_ms"] = (time.monotonic() - started) * 1000
        page.goto(f"{server.url}/grid?name=unknown&sort=near")
        page.wait_for_selector(".cell img")
        page.wait_for_timeout(1500)
        scrolled: dict[str, float] = page.evaluate(SCROLL)
        figures |= {
            "grid_specimens": float(str(page.locator("#status").inner_text()).split()[0]),
            "scroll_frame_median_ms": scrolled["median"],
            "scroll_frame_p95_ms": scrolled["p95"],
            "scroll_pictures_not_yet_there": scrolled["blank"],
        }
        browser.close()
    return figures


def tiles(server: ViewServer, size: tuple[int, int], count: int) -> dict[str, Any]:
    """Return the latency of tiles at random places and zooms, and the memory of the server meanwhile."""
    pyramid = TilePyramid(Box(0, 0, *size))
    rng = random.Random(3)
    process = psutil.Process(server.process.pid)
    milliseconds, memory = [], [process.memory_info().rss / 1e6]
    asked: set[tuple[int, int, int]] = set()
    while len(asked) < count:
        level = rng.randint(pyramid.top - 7, pyramid.top)
        width, height = pyramid.size(level)
        column, row = rng.randint(0, (width - 1) // TILE_PX), rng.randint(0, (height - 1) // TILE_PX)
        if (level, column, row) in asked:
            continue
        asked.add((level, column, row))
        started = time.monotonic()
        answer = server.ask(f"/tile/0/{level}/{column}_{row}.jpg")
        milliseconds.append((time.monotonic() - started) * 1000)
        if answer.status != 200:
            raise SystemExit(f"tile {level}/{column}_{row}: {answer.status} {answer.body[:200]!r}")
        if len(asked) % 50 == 0:
            memory.append(process.memory_info().rss / 1e6)
    ordered = sorted(milliseconds)
    half = len(memory) // 2
    return {
        "tiles": count,
        "tile_median_ms": statistics.median(ordered),
        "tile_p95_ms": ordered[round(0.95 * (count - 1))],
        "memory_before_tiles_mb": memory[0],
        "memory_peak_mb": max(memory),
        "memory_growth_over_second_half_mb": max(memory[half:]) - max(memory[:half]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--gigapixels", type=float, default=3.3)
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results, size = make(Path(folder), options.objects, options.gigapixels)
        with open_slide(Path(folder) / "scan.svs") as slide:
            size = (slide.meta.width_px, slide.meta.height_px)
        started = time.monotonic()
        with serving(results):
            cold = time.monotonic() - started
        started = time.monotonic()
        with serving(results) as server:
            figures: dict[str, Any] = {
                "objects": json.loads((results / "manifest.json").read_text())["objects"],
                "gigapixels": size[0] * size[1] / 1e9,
                "start_with_chart_drawn_s": cold,
                "start_again_s": time.monotonic() - started,
            }
            figures |= first_pages(server)
            figures |= tiles(server, size, options.tiles)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
