"""Tiles of a scan for a deep-zoom viewer: read on request, from the pyramid level that fits best, in bounded memory.

At the finest viewer level the picture is the scanned part of the slide (its bounds) at level 0; each coarser viewer level halves
width and height. Tiles overlap by one pixel so that no seam shows between them.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from slidepipe.errors import RegionError
from slidepipe.slides.geometry import Box, Level, SlideMeta
from slidepipe.slides.reader import SlideReader

TILE_PX, OVERLAP_PX = 510, 1
_QUALITY = 82

#: The largest number of source pixels read at once. Without this limit, the overview of a scan that has no coarse levels would
#: read the whole scan.
_MAX_SOURCE_PX = 8_000_000

#: A part of a tile that cannot be read is split in halves until its longer side has this many pixels; then it is shown as lost.
_MIN_LOST_PX = 128


@dataclass(frozen=True)
class TilePyramid:
    """The viewer's levels over the scanned part of a slide.

    Attributes:
        bounds: the scanned part, level-0 pixels of the whole slide.
    """

    bounds: Box

    @property
    def top(self) -> int:
        """The finest viewer level: one of its pixels is one level-0 pixel."""
        return max(1, math.ceil(math.log2(max(self.bounds.width, self.bounds.height, 2))))

    def size(self, level: int) -> tuple[int, int]:
        """Return width and height of the picture at a viewer level, in pixels of that level."""
        scale = 2 ** (self.top - level)
        return math.ceil(self.bounds.width / scale), math.ceil(self.bounds.height / scale)

    def tile(self, level: int, column: int, row: int) -> Box | None:
        """Return the box of a tile with its overlap, in pixels of its viewer level; None if there is no such tile."""
        if not 0 <= level <= self.top or column < 0 or row < 0:
            return None
        width, height = self.size(level)
        box = Box(
            max(0, column * TILE_PX - OVERLAP_PX),
            max(0, row * TILE_PX - OVERLAP_PX),
            min(width, (column + 1) * TILE_PX + OVERLAP_PX),
            min(height, (row + 1) * TILE_PX + OVERLAP_PX),
        )
        return box if column * TILE_PX < width and row * TILE_PX < height else None


def render_tile(slide: SlideReader, pyramid: TilePyramid, level: int, tile: Box) -> bytes:
    """Return a tile as a JPEG.

    Parts that cannot be read are hatched, so that they do not look like empty slide.

    Args:
        slide: the scan.
        pyramid: its viewer levels.
        level: viewer level of the tile.
        tile: box of the tile, from `TilePyramid.tile`.
    """
    scale = 2 ** (pyramid.top - level)
    source = _source_level(slide.meta, scale)
    buffer = io.BytesIO()
    _render(slide, source, pyramid.bounds, scale, tile).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _source_level(meta: SlideMeta, scale: float) -> Level:
    """Return the coarsest level of the scan that still has the resolution of the viewer level.

    A level that misses the resolution by up to one per cent is taken: the next finer one costs four times the reading.
    """
    usable = [level for level in meta.levels if level.downsample <= scale * 1.01]
    return max(usable, key=lambda level: level.downsample) if usable else meta.levels[0]


def _render(slide: SlideReader, source: Level, bounds: Box, scale: float, tile: Box) -> Image.Image:
    """Return a tile, or a part of one; `scale` is in level-0 pixels per pixel of the tile."""
    # The tile in pixels of the source level; it may start and end within a pixel.
    x0, x1 = ((bounds.x0 + min(edge * scale, bounds.width)) / source.downsample_x for edge in (tile.x0, tile.x1))
    y0, y1 = ((bounds.y0 + min(edge * scale, bounds.height)) / source.downsample_y for edge in (tile.y0, tile.y1))
    left, top = math.floor(x0), math.floor(y0)
    width, height = max(1, math.ceil(x1) - left), max(1, math.ceil(y1) - top)
    if width * height > _MAX_SOURCE_PX and max(tile.width, tile.height) > 1:
        return _render_in_halves(slide, source, bounds, scale, tile)
    try:
        rgb, _ = slide.read(source, left, top, width, height)
    except RegionError:
        if max(tile.width, tile.height) > _MIN_LOST_PX:
            return _render_in_halves(slide, source, bounds, scale, tile)
        return _hatched(tile)
    image = Image.fromarray(rgb)
    part = (x0 - left, y0 - top, min(float(width), x1 - left), min(float(height), y1 - top))
    if image.size == (tile.width, tile.height) and part[:2] == (0, 0):
        return image
    return image.resize((tile.width, tile.height), Image.Resampling.BILINEAR, box=part, reducing_gap=3.0)


def _render_in_halves(slide: SlideReader, source: Level, bounds: Box, scale: float, tile: Box) -> Image.Image:
    """Return a tile whose two halves are rendered one after the other."""
    if tile.width >= tile.height:
        middle = (tile.x0 + tile.x1) // 2
        halves = Box(tile.x0, tile.y0, middle, tile.y1), Box(middle, tile.y0, tile.x1, tile.y1)
    else:
        middle = (tile.y0 + tile.y1) // 2
        halves = Box(tile.x0, tile.y0, tile.x1, middle), Box(tile.x0, middle, tile.x1, tile.y1)
    image = Image.new("RGB", (tile.width, tile.height))
    for half in halves:
        image.paste(_render(slide, source, bounds, scale, half), (half.x0 - tile.x0, half.y0 - tile.y0))
    return image


def _hatched(tile: Box) -> Image.Image:
    """Return a hatched image; the pattern continues in the neighbouring tiles."""
    rows, columns = np.mgrid[tile.y0 : tile.y1, tile.x0 : tile.x1]
    hatch = np.where((rows + columns) % 16 < 3, 90, 170).astype(np.uint8)
    return Image.fromarray(np.repeat(hatch[..., None], 3, axis=2))
