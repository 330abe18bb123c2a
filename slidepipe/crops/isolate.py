"""Isolate the object of a crop: replace everything else by an even background of fixed brightness.

A crop also shows what lies around its object, in the light of its scanner. None of that belongs to the fossil, and the
embedding must not depend on it. Crops and reference images are treated alike, so a head compares objects only
(`design/heads.md` lists what this gained).
"""

import numpy as np
from PIL import Image, ImageChops
from scipy import ndimage

from slidepipe.crops.debris import black_dirt, most_central, without_cut_neighbours
from slidepipe.interfaces import BoolArray, Float32Array, UInt8Array
from slidepipe.masks import EIGHT, fill_holes, framed

BACKGROUND_PERCENT = 92
"""Percentile of a crop's pixel values that estimates its background light: an object rarely fills its whole box."""

_EVEN_LIGHT = 230
"""Value, of 255, that the background is scaled to in each channel."""

_EVEN = (_EVEN_LIGHT,) * 3

_MASK_PX = 128
"""Long side, in pixels, of the reduced crop on which the object is found. Its outline is blurred anyway."""

_PART_OF_OBJECT = 0.04, 0.02
"""Smallest optical density over the background of an object's pixels: the usual one, and one for very pale objects."""

_LEAST_SHARE = 0.12
"""An object that fills a smaller fraction of its crop is taken for dirt on a paler object, which is then looked for."""

_CLOSED_PX, _WIDENED_PX, _RIM_SIGMA_PX = 2, 2, 1.0
"""Size of the gaps in broken walls that are closed, width of the rim kept around the object, and sigma with which the rim
fades; in pixels of the mask."""

_STANDS_OUT = 6
"""Smallest difference, of 255, from the even background at which a pixel of an isolated object counts as part of it.
Fainter pixels are its faded rim."""

_PATCH_SIGMA_PX, _PATCH_FADE_PX = 4, 0.7
"""Dirt on top of the object is replaced by the mean of its surroundings (a Gaussian of the first sigma); the patch fades with
the second sigma; in pixels of the mask."""

_MIN_ELONGATION = 1.6
"""An object is aligned to its long axis if the root of the ratio of its second moments is larger than this."""


def isolate(crop: UInt8Array) -> UInt8Array:
    """Return the object of a crop on an even background.

    Where nothing differs from the background, the whole crop counts as the object.

    Args:
        crop: uint8 (h, w, 3) sRGB.

    Returns:
        uint8 (h, w, 3), of the crop's size; the background is 230 in each channel.
    """
    image = Image.fromarray(np.ascontiguousarray(crop))
    background = np.maximum(np.percentile(crop.reshape(-1, 3), BACKGROUND_PERCENT, axis=0), 1.0)
    brighter = np.clip(np.rint(np.arange(256)[None] * (_EVEN_LIGHT / background)[:, None]), 0, 255).astype(int)
    even = image.point(brighter.ravel().tolist())
    small = np.asarray(_reduced(even))
    mask, dirt = find_object(small)
    dirt_on_object = mask & dirt
    if dirt_on_object.any():
        patch = Image.fromarray(_fill_from(small, mask & ~ndimage.binary_dilation(dirt)))
        patch = patch.resize(image.size, Image.Resampling.BILINEAR)
        even.paste(patch, mask=_alpha(ndimage.binary_dilation(dirt_on_object), _PATCH_FADE_PX, image.size))
    rim = ndimage.binary_dilation(mask, iterations=_WIDENED_PX, mask=mask | ~dirt)
    isolated = Image.composite(even, Image.new("RGB", image.size, _EVEN), _alpha(rim, _RIM_SIGMA_PX, image.size))
    return np.asarray(isolated)


def rotate_object(isolated: UInt8Array, degrees: float) -> UInt8Array:
    """Rotate the object of an isolated crop, and cut the crop to the rotated object's own box.

    The result is what a detector would have cut, had the object lain at this angle. Where nothing differs from the
    background, the whole rotated image is returned.

    Args:
        isolated: uint8 (h, w, 3) sRGB, as `isolate` returns it.
        degrees: angle, anticlockwise; any value.

    Returns:
        uint8 (h', w', 3).
    """
    image = Image.fromarray(np.ascontiguousarray(isolated)).rotate(
        degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=_EVEN
    )
    differs = ImageChops.difference(image, Image.new("RGB", image.size, _EVEN)).convert("L")
    box = differs.point([0] * _STANDS_OUT + [255] * (256 - _STANDS_OUT)).getbbox()
    return np.asarray(image if box is None else image.crop(box))


def align_to_long_axis(isolated: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """Return an isolated object with its long axis horizontal, and the same rotated by another 45 degrees.

    Apart from flips and quarter turns, the result does not depend on how the object lay on its slide. An object that is not
    elongated has no clear long axis: it is returned as it lies (`isolated` itself, not a copy) and rotated by 45 degrees.

    Args:
        isolated: uint8 (h, w, 3) sRGB, as `isolate` returns it.

    Returns:
        Two images, uint8 (h', w', 3), each of its own size.
    """
    degrees, elongation = long_axis(isolated)
    if elongation <= _MIN_ELONGATION:
        return isolated, rotate_object(isolated, 45.0)
    return rotate_object(isolated, -degrees), rotate_object(isolated, 45.0 - degrees)


def long_axis(isolated: UInt8Array) -> tuple[float, float]:
    """Measure the direction and the elongation of an isolated object from the second moments of its outline.

    Args:
        isolated: uint8 (h, w, 3) sRGB, as `isolate` returns it.

    Returns:
        The angle of the long axis (degrees anticlockwise from horizontal), and the square root of the ratio of the second
        moments: 1 for a disc, very large for a line. An image without an object gives 0 degrees and 1.
    """
    small = np.asarray(_reduced(Image.fromarray(np.ascontiguousarray(isolated))), dtype=np.float32)
    y, x = np.nonzero(np.abs(small - _EVEN_LIGHT).mean(axis=2) > _STANDS_OUT)
    if len(x) < 2:
        return 0.0, 1.0
    (least, most), vectors = np.linalg.eigh(np.cov(np.stack([x, -y])))
    if most <= 0:
        return 0.0, 1.0
    return float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))), float(np.sqrt(most / max(least, 1e-6)))


def find_object(even: UInt8Array) -> tuple[BoolArray, BoolArray]:
    """Find the object, and black dirt, in a reduced crop whose background is even.

    The object has no holes: where it surrounds dirt, the pixels of the dirt belong to the object as well.

    Args:
        even: uint8 (h, w, 3), long side at most 128 px, background scaled to 230.

    Returns:
        Two masks, bool (h, w): the object, and the dirt. Where nothing differs from the background, the object is everything.
    """
    density = _density(even.mean(axis=2, dtype=np.float32), 1.0)
    found = _object(density, np.ones(density.shape, bool))
    if found is None:
        return np.ones(density.shape, bool), np.zeros(density.shape, bool)
    dirt = black_dirt(_density(even[..., 0].astype(np.float32), 0.7), found)
    if dirt.any():
        clean = _object(density, ~dirt)
        found = found if clean is None else clean
    return _heaviest_piece(without_cut_neighbours(found)), dirt


def _density(light: Float32Array, sigma_px: float) -> Float32Array:
    """Return the smoothed optical density over the even background, float32 (h, w)."""
    smooth: Float32Array = ndimage.gaussian_filter(np.log10(np.float32(_EVEN_LIGHT) / np.maximum(light, 1.0)), sigma_px)
    return smooth


def _object(density: Float32Array, among: BoolArray) -> BoolArray | None:
    """Return the mask of the object among the given pixels; None where nothing is dense enough."""
    found = None
    for least in _PART_OF_OBJECT:
        piece = _central_piece((density > least) & among)
        if piece is not None:
            found = piece
            if piece.mean() >= _LEAST_SHARE:
                break
    return found


def _central_piece(dark: BoolArray) -> BoolArray | None:
    margin = 2 * _CLOSED_PX  # Without a margin, closing would let pieces grow along the border of the crop.
    closed = ndimage.binary_closing(framed(dark, margin), iterations=_CLOSED_PX)[margin:-margin, margin:-margin]
    return fill_holes(_heaviest_piece(closed)) if closed.any() else None


def _heaviest_piece(mask: BoolArray) -> BoolArray:
    pieces, count = ndimage.label(mask, EIGHT)
    piece: BoolArray = pieces == most_central(pieces, count)
    return piece


def _fill_from(small: UInt8Array, known: BoolArray) -> UInt8Array:
    """Estimate every pixel of a reduced crop from its `known` pixels only.

    A pixel becomes the Gaussian mean of the known pixels near it, or the median of all known pixels if none is near.

    Args:
        small: uint8 (h, w, 3).
        known: bool (h, w).
    """
    if not known.any():
        return small
    weights = ndimage.gaussian_filter(known.astype(np.float32), _PATCH_SIGMA_PX)
    sums = ndimage.gaussian_filter(small * known[..., None].astype(np.float32), (_PATCH_SIGMA_PX, _PATCH_SIGMA_PX, 0))
    near = weights[..., None] > 1e-3
    mean = np.where(near, sums / np.maximum(weights[..., None], 1e-3), np.median(small[known], axis=0))
    filled: UInt8Array = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
    return filled


def _alpha(mask: BoolArray, sigma_px: float, size: tuple[int, int]) -> Image.Image:
    """Return the mask as an alpha channel of `size` (width, height), with a blurred outline."""
    alpha = ndimage.gaussian_filter(mask.astype(np.float32), sigma_px)
    return Image.fromarray(np.rint(alpha * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def _reduced(image: Image.Image) -> Image.Image:
    """Return the image with a long side of at most `_MASK_PX`."""
    shrink = max(image.size) / _MASK_PX
    if shrink <= 1:
        return image
    width, height = (max(1, round(side / shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
