"""Scans of any size for measurements: repeated blocks of a sample slide and of empty field.

Each distinct tile is encoded and stored once, and all its positions refer to it. So a scan of 6 gigapixels takes a second to
write and a few megabytes. OpenSlide decodes each position separately, as in any scan.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sample_slides.scanfiles import Tiles, image_tiles, write_svs
from slidepipe.interfaces import UInt8Array
from slidepipe.slides.reader import open_slide

SAMPLE = Path(__file__).parent.parent / "sample_slides" / "well" / "6407_6-5 1200 mDC.svs"
TILE_PX, FACTORS, QUALITY = 256, (1, 4, 16), 80
BLOCK_PX = 4096
"""Side of a block; at every level it is whole tiles."""
BARREN_PX = 6144
"""Side of the empty slide of the benchmarks."""

IsDense = Callable[[int, int], bool]
"""(column, row) of a block -> whether it holds objects."""


def dense_block() -> UInt8Array:
    """Return a corner of a sample slide with about 80 objects: uint8 (4096, 4096, 3)."""
    with open_slide(SAMPLE) as slide:
        pixels, _ = slide.read(slide.meta.levels[0], 0, 0, BLOCK_PX, BLOCK_PX)
    return pixels


def empty_field(side_px: int = BLOCK_PX) -> UInt8Array:
    """Return empty mounting medium with the brightness and noise of the sample slide: uint8 (side, side, 3)."""
    with open_slide(SAMPLE) as slide:
        pixels = slide.read(slide.meta.levels[0], 0, 0, 1024, 1024)[0]
    colour = np.median(pixels, axis=(0, 1))
    grain = np.random.default_rng(1).normal(0, 2, (side_px, side_px, 1)).astype(np.float32)
    field: UInt8Array = np.clip(np.rint(grain + colour.astype(np.float32)), 0, 255).astype(np.uint8)
    return field


def blocks_of_tiles() -> Mapping[bool, Tiles]:
    """Return the encoded tiles of a block with objects (True) and of an empty block (False)."""
    return {
        dense: _kept(image_tiles(image, tile_px=TILE_PX, factors=FACTORS, quality=QUALITY))
        for dense, image in ((True, dense_block()), (False, empty_field()))
    }


def write_blocks(path: Path, columns: int, rows: int, is_dense: IsDense, tiles: Mapping[bool, Tiles]) -> float:
    """Write an Aperio-style scan of `columns` x `rows` blocks; return its gigapixels."""

    def tile(level: int, column: int, row: int) -> bytes | None:
        across = BLOCK_PX // FACTORS[level] // TILE_PX
        dense = is_dense(column // across, row // across)
        return tiles[dense](level, column % across, row % across)

    size = columns * BLOCK_PX, rows * BLOCK_PX
    write_svs(path, size, tile, factors=FACTORS, tile_px=TILE_PX, big=True)
    return size[0] * size[1] / 1e9


def spread(count: int, columns: int, rows: int) -> IsDense:
    """Return a function that is True for `count` blocks, spread evenly over `columns` x `rows`."""
    total = columns * rows
    chosen = {total * index // max(1, count) for index in range(count)}
    return lambda column, row: row * columns + column in chosen


def write_barren(path: Path, side_px: int = BARREN_PX) -> None:
    """Write a scan of empty field."""
    tiles = image_tiles(empty_field(side_px), tile_px=TILE_PX, factors=FACTORS, quality=QUALITY)
    write_svs(path, (side_px, side_px), tiles, factors=FACTORS, tile_px=TILE_PX)


def _kept(tiles: Tiles) -> Tiles:
    kept: dict[tuple[int, int, int], bytes | None] = {}

    def tile(level: int, column: int, row: int) -> bytes | None:
        key = level, column, row
        if key not in kept:
            kept[key] = tiles(*key)
        return kept[key]

    return tile
