"""Cropping: seconds per object on a dense scan compared with reading the same pixels once, and decodes per JPEG tile.

The scan has 2,000 objects on 400 megapixels. Crops are cut part by part (`PART_ROWS` rows of the box table). The parts
are distributed in turn to two workers, each with its own handle and OpenSlide cache, as in a run with two workers. The lower
bound reads every tile that a crop touches once, in one pass over the scan, and drops the pixels.

Decodes are counted in two ways. First from the rectangles that cutting requests from OpenSlide: the tiles of each rectangle
pass through a least-recently-used cache of `TILE_CACHE_BYTES` (4 bytes per pixel, one cache per worker), as in OpenSlide; a
tile that is not in the cache is a decode. Second, as an independent check: the bytes that the process read from the file
(`rchar` of the kernel, Linux only), divided by those of the lower bound, which reads the JPEG of each tile once.
"""

import math
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from performance.figures import Measured, Row, at_most
from performance.made_scans import TILE_PX, blocks_of_tiles, spread, write_blocks
from performance.scale import Scale
from performance.stage_detect import detect_slide
from performance.timing import alternate
from slidepipe.config import CropsConfig
from slidepipe.crops.cut import CropSpec, cut_crops, encode_crop
from slidepipe.errors import RegionError
from slidepipe.interfaces import BoolArray, IntArray, UInt8Array
from slidepipe.pipeline.stages.crop import PART_ROWS
from slidepipe.slides.geometry import Level
from slidepipe.slides.openslide_reader import OpenSlideReader
from slidepipe.slides.reader import TILE_CACHE_BYTES, open_slide

WORKERS = 2
Tile = tuple[int, int, int]
"""Level, column, row of a JPEG tile."""


class WatchedSlide(OpenSlideReader):
    """A slide that records the tiles of each read, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.touched: list[Tile] = []

    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        """Read as `OpenSlideReader` does, and record the tiles."""
        self.touched += tiles_of(level, x, y, width, height)
        return super().read(level, x, y, width, height)


def tiles_of(level: Level, x: int, y: int, width: int, height: int) -> Iterator[Tile]:
    """Yield the tiles that contain a rectangle of a level, within the level."""
    last_column = (min(x + width, level.width_px) - 1) // TILE_PX
    last_row = (min(y + height, level.height_px) - 1) // TILE_PX
    for row in range(max(0, y) // TILE_PX, last_row + 1):
        for column in range(max(0, x) // TILE_PX, last_column + 1):
            yield level.index, column, row


def decoded(touched: Iterable[Tile], cache_bytes: int = TILE_CACHE_BYTES) -> Iterator[Tile]:
    """Yield the tiles that are decoded if `touched` are read in order, with a least-recently-used cache of `cache_bytes`."""
    kept: OrderedDict[Tile, None] = OrderedDict()
    room = cache_bytes // (4 * TILE_PX * TILE_PX)
    for tile in touched:
        if tile in kept:
            kept.move_to_end(tile)
            continue
        yield tile
        kept[tile] = None
        if len(kept) > room:
            kept.popitem(last=False)


def crop_spec() -> CropSpec:
    """Return the default settings of crops."""
    settings = CropsConfig()
    return CropSpec(settings.margin, settings.long_side_px, settings.jpeg_quality)


def parts_of(boxes: IntArray) -> list[IntArray]:
    """Split the box table into the parts of a run."""
    return [boxes[start : start + PART_ROWS] for start in range(0, len(boxes), PART_ROWS)]


def read_tiles(path: Path, tiles: set[Tile]) -> None:
    """Read each tile once, row by row, adjacent tiles together, and drop the pixels."""
    with open_slide(path) as slide:
        for level in slide.meta.levels:
            own = sorted((row, column) for index, column, row in tiles if index == level.index)
            start = 0
            for end in range(1, len(own) + 1):
                if end < len(own) and own[end] == (own[end - 1][0], own[end - 1][1] + 1):
                    continue
                row, column = own[start]
                slide.read(level, column * TILE_PX, row * TILE_PX, (end - start) * TILE_PX, TILE_PX)
                start = end


def measure(scale: Scale) -> Measured:
    """Measure on a generated dense scan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1_2-3 100 mDC.svs"
        side = scale.dense_blocks
        gigapixels = write_blocks(path, side, side, spread(side * side, side, side), blocks_of_tiles())
        return _measure(path, gigapixels, scale)


def _measure(path: Path, gigapixels: float, scale: Scale) -> Measured:
    boxes, spec = detect_slide(path).boxes, crop_spec()
    parts = parts_of(boxes)

    def cut(*, encode: bool) -> list[WatchedSlide]:
        workers = [WatchedSlide(path) for _ in range(WORKERS)]
        for number, part in enumerate(parts):
            for _, crop in cut_crops(workers[number % WORKERS], part, spec):
                if isinstance(crop, RegionError):
                    raise crop
                if encode:
                    encode_crop(crop, spec)
        for worker in workers:
            worker.close()
        return workers

    before = _bytes_read()
    workers = cut(encode=False)
    bytes_cut = _bytes_read() - before
    times = Counter(tile for worker in workers for tile in decoded(worker.touched))
    distinct, decodes = set(times), times.total()
    before = _bytes_read()
    read_tiles(path, distinct)
    bytes_once = _bytes_read() - before
    timings = alternate(
        {
            "reading": lambda: read_tiles(path, distinct),
            "cutting": lambda: cut(encode=False),
            "cutting and encoding": lambda: cut(encode=True),
        },
        scale.repeats,
    )
    count, average = max(1, len(boxes)), decodes / max(1, len(distinct))
    by_bytes = bytes_cut / bytes_once if bytes_once else math.nan
    each = {name: 1000 * timing.wall_s / count for name, timing in timings.items()}
    figures = {
        "gigapixels": gigapixels,
        "objects": len(boxes),
        "parts": len(parts),
        "workers": WORKERS,
        "tiles_touched": len(distinct),
        "tiles_decoded": decodes,
        "tiles_decoded_more_than_once": sum(count > 1 for count in times.values()),
        "decodes_per_tile": average,
        "bytes_read_against_once": None if math.isnan(by_bytes) else by_bytes,
        **{name: vars(timing) for name, timing in timings.items()},
        "ms_per_object": each,
    }
    compared = f"{len(boxes)} objects on {gigapixels:.2f} gigapixels; file bytes read {by_bytes:.3f} times reading once"
    rows = [
        at_most("crops: decodes of a JPEG tile, on average", average, 1.2, "{:.3f}", compared),
        Row(
            "crops: ms per object, cutting (and encoding)",
            f"{each['cutting']:.2f} ({each['cutting and encoding']:.2f})",
            f"reading the touched tiles once {each['reading']:.2f} ms",
        ),
    ]
    return Measured(rows, figures)


def _bytes_read() -> float:
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.nan
    return float(next(line.split()[1] for line in lines if line.startswith("rchar")))
