"""Turn crops of any size into the squares that a backbone receives, and into the orientations of these squares."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from PIL import Image

from slidepipe.errors import SettingsError
from slidepipe.interfaces import Fit, UInt8Array

ORIENTATION_COUNTS = (1, 8)


def border_colour(crop: UInt8Array) -> tuple[int, int, int]:
    """Return the median colour of the outermost pixels of a crop, an estimate of the colour behind the object.

    Args:
        crop: uint8 (H, W, 3) sRGB.

    Returns:
        Red, green and blue, 0 to 255.
    """
    edge = np.concatenate([crop[0], crop[-1], crop[1:-1, 0], crop[1:-1, -1]])
    red, green, blue = np.rint(np.median(edge, axis=0)).astype(int).tolist()
    return red, green, blue


def to_squares(crops: Sequence[UInt8Array], side_px: int, fit: Fit) -> UInt8Array:
    """Resize crops of any size to squares of one size.

    Args:
        crops: N arrays, uint8 (H, W, 3) sRGB, each of its own size.
        side_px: side of the squares in pixels.
        fit: `"squeeze"` scales both sides to `side_px`, so the aspect ratio is lost. It is Pillow's antialiased bicubic
            resampling, identical to torchvision's `Resize((side, side), interpolation=3)` on a PIL image. `"pad"` keeps the
            aspect ratio: the long side becomes `side_px`, and the rest is filled with the crop's `border_colour`.

    Returns:
        uint8 (N, side_px, side_px, 3); N may be 0.

    Raises:
        SettingsError: `fit` is neither of the two, or `side_px` is below 1.
        ValueError: a crop is not uint8 (H, W, 3) with at least one pixel.
    """
    if fit not in ("squeeze", "pad"):
        raise SettingsError(f"fit: {fit!r} is unknown; use 'squeeze' or 'pad'")
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


def orient_squares(squares: UInt8Array, count: int, mirrored: UInt8Array | None = None) -> Iterator[UInt8Array]:
    """Yield square crops in 1 or 8 orientations.

    A microfossil may lie on its slide at any angle and with either side up, so all eight orientations (four quarter turns,
    each also mirrored: the dihedral group of the square) are equally valid images of it. The mean embedding over them does
    not depend on how the object lay.

    Args:
        squares: uint8 (N, S, S, 3).
        count: 1 yields the squares unchanged; 8 yields all orientations.
        mirrored: uint8 (N, S, S, 3), the images from which the four mirrored orientations are made. Default: `squares`.

    Yields:
        uint8 (N, S, S, 3), contiguous. The first one is `squares` unchanged.

    Raises:
        SettingsError: `count` is neither 1 nor 8.
        ValueError: the images are not square and `count` is 8.
    """
    if count not in ORIENTATION_COUNTS:
        raise SettingsError(
            f"orientations: {count} is not supported; use 1 (as it lies) or 8 (all flips and quarter turns)"
        )
    if count == 8 and squares.shape[1] != squares.shape[2]:
        raise ValueError(f"only square crops can be oriented in 8 ways, got {squares.shape}")
    # A separate generator, so that wrong arguments raise at the call and not at the first iteration.
    return _orientations(squares, count, squares if mirrored is None else mirrored)


def _orientations(squares: UInt8Array, count: int, mirrored: UInt8Array) -> Iterator[UInt8Array]:
    for number in range(count):
        rotated = np.rot90(squares if number < 4 else mirrored, k=number % 4, axes=(1, 2))
        if number >= 4:
            rotated = rotated[:, :, ::-1]
        yield cast(UInt8Array, np.ascontiguousarray(rotated))


def _resized(image: Image.Image, width_px: int, height_px: int) -> UInt8Array:
    return np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC), dtype=np.uint8)
