"""How a crop of its own aspect becomes the square that a backbone is given, and the flips and turns of that square."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from PIL import Image

from slidepipe.errors import SettingsError
from slidepipe.interfaces import Fit, UInt8Array

VIEW_COUNTS = (1, 8)


def border_colour(crop: UInt8Array) -> tuple[int, int, int]:
    """Median colour of the outermost pixels of ``crop``, uint8 (H, W, 3): what lies behind the object."""
    edge = np.concatenate([crop[0], crop[-1], crop[1:-1, 0], crop[1:-1, -1]])
    red, green, blue = np.rint(np.median(edge, axis=0)).astype(int).tolist()
    return red, green, blue


def present(crops: Sequence[UInt8Array], side_px: int, fit: Fit) -> UInt8Array:
    """Bring crops of any size to squares of one size.

    ``squeeze`` scales both sides to ``side_px``, so the aspect is lost: Pillow's antialiased bicubic, which is what
    torchvision's ``Resize((side, side), interpolation=3)`` does to a PIL image, to the digit. ``pad`` keeps the aspect: the
    long side becomes ``side_px`` and the rest is filled with the crop's own background, the median colour of its border.

    Args:
        crops: N arrays, uint8 (H, W, 3) sRGB, each of its own size.
        side_px: side of the squares in pixels.
        fit: ``"squeeze"`` or ``"pad"``.

    Returns:
        uint8 (N, side_px, side_px, 3); N may be 0.

    Raises:
        SettingsError: ``fit`` is neither, or ``side_px`` is below 1.
        ValueError: a crop is not uint8 (H, W, 3) with at least one pixel.
    """
    if fit not in ("squeeze", "pad"):
        raise SettingsError(f"fit: {fit!r} is not known; use 'squeeze' or 'pad'")
    if side_px < 1:
        raise SettingsError(f"input_px: {side_px} is not a size in pixels; use 1 or more")
    squares = np.empty((len(crops), side_px, side_px, 3), dtype=np.uint8)
    for square, crop in zip(squares, crops, strict=True):
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or crop.size == 0:
            raise ValueError(f"a crop must be uint8 (H, W, 3) and not empty, got {crop.dtype} {crop.shape}")
        height, width = crop.shape[:2]
        image = Image.fromarray(np.ascontiguousarray(crop))
        if fit == "squeeze":
            square[:] = _resized(image, side_px, side_px)
            continue
        long_side = max(height, width)
        new_width = max(1, round(width * side_px / long_side))
        new_height = max(1, round(height * side_px / long_side))
        left, top = (side_px - new_width) // 2, (side_px - new_height) // 2
        square[:] = border_colour(crop)
        square[top : top + new_height, left : left + new_width] = _resized(image, new_width, new_height)
    return squares


def _resized(image: Image.Image, width_px: int, height_px: int) -> UInt8Array:
    return np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC), dtype=np.uint8)


def views(crops: UInt8Array, n: int, mirrored: UInt8Array | None = None) -> Iterator[UInt8Array]:
    """Yield ``n`` flips and turns of square crops: 1 is the crops as they are, 8 the whole dihedral group.

    A microfossil lies on its slide any way round and either side up, so all eight are equally true pictures of it; the
    mean embedding over them does not depend on how it lay.

    Args:
        crops: uint8 (N, S, S, 3).
        n: 1 or 8.
        mirrored: like ``crops``; what the mirrored four of eight views are taken of, if not of ``crops``.

    Yields:
        uint8 (N, S, S, 3), contiguous; the first is ``crops`` unchanged.

    Raises:
        SettingsError: ``n`` is neither 1 nor 8.
        ValueError: the crops are not square and ``n`` is 8.
    """
    if n not in VIEW_COUNTS:
        raise SettingsError(f"views: {n} is not known; use 1 (as is) or 8 (all flips and turns)")
    if n == 8 and crops.shape[1] != crops.shape[2]:
        raise ValueError(f"only square crops can be turned, got {crops.shape}")
    return _views(crops, n, crops if mirrored is None else mirrored)


def _views(crops: UInt8Array, n: int, mirrored: UInt8Array) -> Iterator[UInt8Array]:
    for view in range(n):
        turned = np.rot90(crops if view < 4 else mirrored, k=view % 4, axes=(1, 2))
        if view >= 4:
            turned = turned[:, :, ::-1]
        yield cast(UInt8Array, np.ascontiguousarray(turned))
