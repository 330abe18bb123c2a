"""Crops: each object cut from its slide with a margin, at the resolution that the backbone needs, stored as JPEG.

A crop keeps the object's own aspect; how it becomes the square a backbone wants is :mod:`slidepipe.embedding.square`'s matter, so
that reference images and objects go the same way.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from slidepipe.errors import RegionError
from slidepipe.interfaces import IntArray, UInt8Array
from slidepipe.slides.geometry import Box, Level, SlideMeta
from slidepipe.slides.reader import TILE_CACHE_BYTES, SlideReader

#: Height of the bands in which crops are taken, level-0 pixels: one or two rows of JPEG tiles.
_BAND_PX = 1024


@dataclass(frozen=True)
class CropSpec:
    """How crops are cut.

    Attributes:
        margin: added on each side, as a share of the box's long side.
        long_side_px: long side of a stored crop; a smaller object keeps its own pixels.
        jpeg_quality: of the stored crop, 1 to 100.
    """

    margin: float
    long_side_px: int
    jpeg_quality: int


def crop_box(box: Sequence[int], spec: CropSpec, meta: SlideMeta) -> Box:
    """The part of the slide that the crop of ``box`` shows: the box and its margin, within the slide. Level-0 pixels."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    margin = round(spec.margin * max(x1 - x0, y1 - y0))
    return Box(x0 - margin, y0 - margin, x1 + margin, y1 + margin).intersection(
        Box(0, 0, meta.width_px, meta.height_px)
    )


def slide_order(boxes: IntArray) -> IntArray:
    """Rows of ``boxes`` (N, 4) in the order in which their pixels lie on the slide: bands, there and back."""
    band = (boxes[:, 1] + boxes[:, 3]) // (2 * _BAND_PX)
    x = np.where(band % 2 == 0, boxes[:, 0], -boxes[:, 0])
    return np.lexsort((boxes[:, 1], x, band)).astype(np.int64)


def cut_crop(slide: SlideReader, box: Sequence[int], spec: CropSpec) -> UInt8Array:
    """The crop of one object: uint8 (h, w, 3) sRGB, long side at most ``spec.long_side_px``, the object's own aspect.

    Raises:
        RegionError: these pixels cannot be read.
    """
    part = crop_box(box, spec, slide.meta)
    shrink = max(part.width, part.height) / spec.long_side_px
    level = _level_for(slide.meta.levels, shrink)
    x0, y0 = math.floor(part.x0 / level.downsample_x), math.floor(part.y0 / level.downsample_y)
    x1, y1 = math.ceil(part.x1 / level.downsample_x), math.ceil(part.y1 / level.downsample_y)
    rgb, _ = slide.read(level, x0, y0, max(1, x1 - x0), max(1, y1 - y0))
    return _shrunk(rgb, spec.long_side_px)


def cut_crops(slide: SlideReader, boxes: IntArray, spec: CropSpec) -> Iterator[tuple[int, UInt8Array | RegionError]]:
    """Row and crop of each of ``boxes`` (N, 4), in slide order; in place of a crop that cannot be read, the error."""
    slide.set_cache_size(TILE_CACHE_BYTES)
    for row in slide_order(boxes):
        try:
            yield int(row), cut_crop(slide, boxes[row], spec)
        except RegionError as error:
            yield int(row), error


def encode_crop(crop: UInt8Array, spec: CropSpec) -> bytes:
    """The crop as JPEG bytes (4:4:4, so that thin walls keep their colour)."""
    out = io.BytesIO()
    Image.fromarray(crop).save(out, "JPEG", quality=spec.jpeg_quality, subsampling=0)
    return out.getvalue()


def decode_crop(data: bytes) -> UInt8Array:
    """uint8 (h, w, 3) of a stored crop."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def as_stored(image: UInt8Array, spec: CropSpec) -> UInt8Array:
    """What would be left of an image, uint8 (h, w, 3), had it been cut from a slide: shrunk and through JPEG as a crop is."""
    return decode_crop(encode_crop(_shrunk(image, spec.long_side_px), spec))


def _shrunk(rgb: UInt8Array, long_side_px: int) -> UInt8Array:
    side = max(rgb.shape[:2])
    if side <= long_side_px:
        return rgb
    height, width = (max(1, round(length * long_side_px / side)) for length in rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def _level_for(levels: Sequence[Level], shrink: float) -> Level:
    # The coarsest level that still has at least the pixels asked for; 1 % short of them is not worth four times the reading.
    usable = [level for level in levels if level.downsample <= max(1.0, shrink) * 1.01]
    return max(usable, key=lambda level: level.downsample)
