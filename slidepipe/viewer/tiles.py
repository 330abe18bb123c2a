"""Tiles of a scan for a deep-zoom viewer: read when asked for, from the nearest pyramid level, in bounded memory.

The picture is the scanned part (the scan's bounds) at level 0; each viewer level below halves it. Tiles carry one pixel of
overlap so that no seam shows between them.
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

#: Source pixels read at once. A scan without coarse levels would otherwise be read whole for its overview.
_MOST_SOURCE_PX = 8_000_000

#: A part of this many pixels that cannot be read is shown as lost, larger ones are tried again in halves.
_LEAST_LOST_PX = 128


@dataclass(frozen=True)
class Pyramid:
    """The viewer's levels over the scanned part of a slide: at ``top`` a viewer pixel is a level-0 pixel."""

    bounds: Box

    @property
    def top(self) -> int:
        """The finest level."""
        return max(1, math.ceil(math.log2(max(self.bounds.width, self.bounds.height, 2))))

    def size(self, level: int) -> tuple[int, int]:
        """Width and height of the picture at a viewer level."""
        scale = 2 ** (self.top - level)
        return math.ceil(self.bounds.width / scale), math.ceil(self.bounds.height / scale)

    def tile(self, level: int, column: int, row: int) -> Box | None:
        """The tile in pixels of its viewer level; None where there is none."""
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


def render_tile(slide: SlideReader, pyramid: Pyramid, level: int, tile: Box) -> bytes:
    """A tile as JPEG. What cannot be read is hatched, so that nobody takes it for an empty slide."""
    scale = 2 ** (pyramid.top - level)
    source = _nearest(slide.meta, scale)
    buffer = io.BytesIO()
    _render(slide, source, pyramid.bounds, scale, tile).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _nearest(meta: SlideMeta, scale: float) -> Level:
    """The coarsest level that has the pixels wanted; one per cent short of them is not worth four times the reading."""
    usable = [level for level in meta.levels if level.downsample <= scale * 1.01]
    return max(usable, key=lambda level: level.downsample) if usable else meta.levels[0]


def _render(slide: SlideReader, source: Level, bounds: Box, scale: float, tile: Box) -> Image.Image:
    x0, x1 = ((bounds.x0 + min(edge * scale, bounds.width)) / source.downsample_x for edge in (tile.x0, tile.x1))
    y0, y1 = ((bounds.y0 + min(edge * scale, bounds.height)) / source.downsample_y for edge in (tile.y0, tile.y1))
    left, top = math.floor(x0), math.floor(y0)
    width, height = max(1, math.ceil(x1) - left), max(1, math.ceil(y1) - top)
    if width * height > _MOST_SOURCE_PX and max(tile.width, tile.height) > 1:
        return _in_halves(slide, source, bounds, scale, tile)
    try:
        rgb, _ = slide.read(source, left, top, width, height)
    except RegionError:
        if max(tile.width, tile.height) > _LEAST_LOST_PX:
            return _in_halves(slide, source, bounds, scale, tile)
        return _lost(tile)
    image = Image.fromarray(rgb)
    part = (x0 - left, y0 - top, min(float(width), x1 - left), min(float(height), y1 - top))
    if image.size == (tile.width, tile.height) and part[:2] == (0, 0):
        return image
    return image.resize((tile.width, tile.height), Image.Resampling.BILINEAR, box=part, reducing_gap=3.0)


def _in_halves(slide: SlideReader, source: Level, bounds: Box, scale: float, tile: Box) -> Image.Image:
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


def _lost(tile: Box) -> Image.Image:
    rows, columns = np.mgrid[tile.y0 : tile.y1, tile.x0 : tile.x1]
    hatch = np.where((rows + columns) % 16 < 3, 90, 170).astype(np.uint8)
    return Image.fromarray(np.repeat(hatch[..., None], 3, axis=2))
