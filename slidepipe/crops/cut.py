"""Cut each object from its slide with a margin, at the resolution that the backbone needs, and encode it as JPEG.

A crop keeps the aspect ratio of its object. `slidepipe.embedding.square` makes the square that a backbone receives, for
crops and reference images alike.
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

#: Height, in level-0 pixels, of the bands in which crops are cut: one or two rows of JPEG tiles.
_BAND_PX = 1024


@dataclass(frozen=True)
class CropSpec:
    """How crops are cut and stored.

    The fingerprint of the stage "crops" hashes the names and values of these fields: renaming one would make every finished
    run cut its crops again.

    Attributes:
        margin: width added on each side, as a share of the box's long side.
        long_side_px: largest long side of a stored crop in pixels; a smaller object keeps its own pixels.
        jpeg_quality: JPEG quality of the stored crop, 1 to 100.
    """

    margin: float
    long_side_px: int
    jpeg_quality: int


def crop_box(box: Sequence[int], spec: CropSpec, meta: SlideMeta) -> Box:
    """Return the part of the slide that a crop shows: the object's box and its margin, clipped to the slide.

    Args:
        box: x0, y0, x1, y1 in level-0 pixels.
        spec: how crops are cut.
        meta: the slide's size.

    Returns:
        The box in level-0 pixels.
    """
    x0, y0, x1, y1 = (int(edge) for edge in box)
    margin = round(spec.margin * max(x1 - x0, y1 - y0))
    return Box(x0 - margin, y0 - margin, x1 + margin, y1 + margin).intersection(
        Box(0, 0, meta.width_px, meta.height_px)
    )


def slide_order(boxes: IntArray) -> IntArray:
    """Return the rows of boxes in an order that reads neighbouring pixels together: bands, left to right and back.

    Args:
        boxes: int64 (N, 4), x0, y0, x1, y1 in level-0 pixels.

    Returns:
        int64 (N,), a permutation of the rows.
    """
    band = (boxes[:, 1] + boxes[:, 3]) // (2 * _BAND_PX)
    x = np.where(band % 2 == 0, boxes[:, 0], -boxes[:, 0])
    return np.lexsort((boxes[:, 1], x, band)).astype(np.int64)


def cut_crop(slide: SlideReader, box: Sequence[int], spec: CropSpec) -> UInt8Array:
    """Cut the crop of one object.

    Args:
        slide: an open slide.
        box: x0, y0, x1, y1 in level-0 pixels.
        spec: how crops are cut.

    Returns:
        uint8 (h, w, 3) sRGB with the object's aspect ratio; the long side is at most `spec.long_side_px`.

    Raises:
        RegionError: these pixels cannot be read.
    """
    part = crop_box(box, spec, slide.meta)
    shrink = max(part.width, part.height) / spec.long_side_px
    level = _level_for(slide.meta.levels, shrink)
    x0, y0 = math.floor(part.x0 / level.downsample_x), math.floor(part.y0 / level.downsample_y)
    x1, y1 = math.ceil(part.x1 / level.downsample_x), math.ceil(part.y1 / level.downsample_y)
    rgb, _ = slide.read(level, x0, y0, max(1, x1 - x0), max(1, y1 - y0))
    return _reduced(rgb, spec.long_side_px)


def cut_crops(slide: SlideReader, boxes: IntArray, spec: CropSpec) -> Iterator[tuple[int, UInt8Array | RegionError]]:
    """Cut the crops of many objects, in the order in which they lie on the slide.

    Args:
        slide: an open slide.
        boxes: int64 (N, 4), x0, y0, x1, y1 in level-0 pixels.
        spec: how crops are cut.

    Yields:
        The row of each box and its crop, uint8 (h, w, 3) sRGB; the error in place of a crop that cannot be read.
    """
    slide.set_cache_size(TILE_CACHE_BYTES)
    for row in slide_order(boxes):
        try:
            yield int(row), cut_crop(slide, boxes[row], spec)
        except RegionError as error:
            yield int(row), error


def encode_crop(crop: UInt8Array, spec: CropSpec) -> bytes:
    """Encode a crop, uint8 (h, w, 3), as JPEG. Chroma is not subsampled (4:4:4), so that thin walls keep their colour."""
    out = io.BytesIO()
    Image.fromarray(crop).save(out, "JPEG", quality=spec.jpeg_quality, subsampling=0)
    return out.getvalue()


def decode_crop(data: bytes) -> UInt8Array:
    """Decode a stored crop to uint8 (h, w, 3) sRGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def make_crop_like(image: UInt8Array, spec: CropSpec) -> UInt8Array:
    """Return an image as a run would have stored it as a crop: reduced to the same size, and through JPEG.

    Args:
        image: uint8 (h, w, 3) sRGB, for example a reference image.
        spec: how crops are stored.

    Returns:
        uint8 (h', w', 3); the long side is at most `spec.long_side_px`.
    """
    return decode_crop(encode_crop(_reduced(image, spec.long_side_px), spec))


def _reduced(rgb: UInt8Array, long_side_px: int) -> UInt8Array:
    side = max(rgb.shape[:2])
    if side <= long_side_px:
        return rgb
    height, width = (max(1, round(length * long_side_px / side)) for length in rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def _level_for(levels: Sequence[Level], shrink: float) -> Level:
    # The coarsest level that still has at least the required pixels. One that lacks up to 1 % of them is accepted: the next
    # finer level would take four times as long to read.
    usable = [level for level in levels if level.downsample <= max(1.0, shrink) * 1.01]
    return max(usable, key=lambda level: level.downsample)
