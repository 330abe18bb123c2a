"""The object of a crop alone: what else lies in the picture becomes background, and the light becomes one.

A crop shows what happens to lie around its object, in the light of its scanner: none of it is the fossil. Reference images
and objects go the same way, so what is left to compare is the objects (design/heads.md has what that gained).
"""

import numpy as np
from PIL import Image, ImageChops
from scipy import ndimage

from slidepipe.crops.debris import black_dirt, most_central, without_cut_neighbours
from slidepipe.interfaces import BoolArray, Float32Array, UInt8Array
from slidepipe.masks import EIGHT, fill_holes, framed

BACKGROUND_PERCENT = 92
"""The light of a crop's background: this percentile of its pixels, as an object seldom fills its whole box."""

_EVEN_LIGHT = 230
"""What the background becomes, of 255."""

_EVEN = (_EVEN_LIGHT,) * 3

_MASK_PX = 128
"""Long side at which the object is found: its outline is soft anyway."""

_PART_OF_OBJECT = 0.04, 0.02
"""Optical density over the background from which on a pixel may belong to the object: of most, and of the palest."""

_LEAST_SHARE = 0.12
"""An object that fills less of its crop is none, but dirt upon a paler one, which is then looked for."""

_CLOSED_PX, _WIDENED_PX, _SOFTENED_PX = 2, 2, 1.0
"""Gaps of broken walls that are closed, the rim that is kept around the object, and how softly it ends; pixels of the mask."""

_STANDS_OUT = 6
"""How far from the even light a pixel of a turned object is, of 255; what is fainter is its soft rim."""

_PATCHED_PX, _PATCH_SOFTENED_PX = 4, 0.7
"""Where dirt lies upon the object, it becomes what is around it, a Gaussian mean of this sigma, and ends so softly."""

_ELONGATED = 1.6
"""Root of the ratio of the second moments from which on an object has a long axis to be laid by."""


def isolate(crop: UInt8Array) -> UInt8Array:
    """The crop's object on an even background, uint8 (h, w, 3), of the crop's size.

    Where nothing stands out of the background, all of the crop is the object.

    Args:
        crop: uint8 (h, w, 3) sRGB.
    """
    image = Image.fromarray(np.ascontiguousarray(crop))
    background = np.maximum(np.percentile(crop.reshape(-1, 3), BACKGROUND_PERCENT, axis=0), 1.0)
    brighter = np.clip(np.rint(np.arange(256)[None] * (_EVEN_LIGHT / background)[:, None]), 0, 255).astype(int)
    even = image.point(brighter.ravel().tolist())
    small = np.asarray(_reduced(even))
    mask, dirt = find_object(small)
    upon = mask & dirt
    if upon.any():
        patch = Image.fromarray(_patched(small, mask & ~ndimage.binary_dilation(dirt)))
        patch = patch.resize(image.size, Image.Resampling.BILINEAR)
        even.paste(patch, mask=_soft(ndimage.binary_dilation(upon), _PATCH_SOFTENED_PX, image.size))
    rim = ndimage.binary_dilation(mask, iterations=_WIDENED_PX, mask=mask | ~dirt)
    alone = Image.composite(even, Image.new("RGB", image.size, _EVEN), _soft(rim, _SOFTENED_PX, image.size))
    return np.asarray(alone)


def turned(alone: UInt8Array, degrees: float) -> UInt8Array:
    """The object of a crop that is :func:`isolate`d, turned anticlockwise, uint8 (h, w, 3), its box drawn anew.

    As a detector would have cut it, had it lain so. Where nothing stands out of the background, all of it is kept.

    Args:
        alone: uint8 (h, w, 3) sRGB, on the background that :func:`isolate` gives.
        degrees: any.
    """
    image = Image.fromarray(np.ascontiguousarray(alone)).rotate(
        degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=_EVEN
    )
    differs = ImageChops.difference(image, Image.new("RGB", image.size, _EVEN)).convert("L")
    box = differs.point([0] * _STANDS_OUT + [255] * (256 - _STANDS_OUT)).getbbox()
    return np.asarray(image if box is None else image.crop(box))


def laid_by_axis(alone: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """The object of a crop that is :func:`isolate`d, laid by its long axis, and 45 degrees on from that: uint8 (h, w, 3) each.

    How it lay on its slide makes no difference to them, but for flips and quarter turns. What is not elongated has no axis to
    be laid by: the first is then ``alone`` itself.
    """
    degrees, elongation = long_axis(alone)
    if elongation <= _ELONGATED:
        return alone, turned(alone, 45.0)
    return turned(alone, -degrees), turned(alone, 45.0 - degrees)


def long_axis(alone: UInt8Array) -> tuple[float, float]:
    """Of an object that is alone: the angle of its long axis, degrees anticlockwise from level, and how elongated it is.

    Both by the second moments of its outline; the elongation is the root of their ratio, 1 for a disc and infinite for a line.
    """
    small = np.asarray(_reduced(Image.fromarray(np.ascontiguousarray(alone))), dtype=np.float32)
    y, x = np.nonzero(np.abs(small - _EVEN_LIGHT).mean(axis=2) > _STANDS_OUT)
    if len(x) < 2:
        return 0.0, 1.0
    (least, most), vectors = np.linalg.eigh(np.cov(np.stack([x, -y])))
    if most <= 0:
        return 0.0, 1.0
    return float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))), float(np.sqrt(most / max(least, 1e-6)))


def find_object(even: UInt8Array) -> tuple[BoolArray, BoolArray]:
    """Where the object is in a small crop of even light, uint8 (h, w, 3), and where black dirt is: bool (h, w) each.

    The object has no holes: it goes on under dirt that it surrounds.
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
    """Optical density over the even background, smoothed."""
    smooth: Float32Array = ndimage.gaussian_filter(np.log10(np.float32(_EVEN_LIGHT) / np.maximum(light, 1.0)), sigma_px)
    return smooth


def _object(density: Float32Array, among: BoolArray) -> BoolArray | None:
    found = None
    for least in _PART_OF_OBJECT:
        piece = _central_piece((density > least) & among)
        if piece is not None:
            found = piece
            if piece.mean() >= _LEAST_SHARE:
                break
    return found


def _central_piece(dark: BoolArray) -> BoolArray | None:
    margin = 2 * _CLOSED_PX  # closing must not grow things at the border
    closed = ndimage.binary_closing(framed(dark, margin), iterations=_CLOSED_PX)[margin:-margin, margin:-margin]
    return fill_holes(_heaviest_piece(closed)) if closed.any() else None


def _heaviest_piece(mask: BoolArray) -> BoolArray:
    pieces, count = ndimage.label(mask, EIGHT)
    piece: BoolArray = pieces == most_central(pieces, count)
    return piece


def _patched(small: UInt8Array, known: BoolArray) -> UInt8Array:
    """The small crop as seen from the ``known`` pixels alone: each pixel is their mean near by, or their median far from all."""
    if not known.any():
        return small
    weights = ndimage.gaussian_filter(known.astype(np.float32), _PATCHED_PX)
    sums = ndimage.gaussian_filter(small * known[..., None].astype(np.float32), (_PATCHED_PX, _PATCHED_PX, 0))
    near = weights[..., None] > 1e-3
    mean = np.where(near, sums / np.maximum(weights[..., None], 1e-3), np.median(small[known], axis=0))
    patched: UInt8Array = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
    return patched


def _soft(mask: BoolArray, sigma_px: float, size: tuple[int, int]) -> Image.Image:
    """The mask as an alpha channel of ``size``, its outline softened."""
    alpha = ndimage.gaussian_filter(mask.astype(np.float32), sigma_px)
    return Image.fromarray(np.rint(alpha * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def _reduced(image: Image.Image) -> Image.Image:
    shrink = max(image.size) / _MASK_PX
    if shrink <= 1:
        return image
    width, height = (max(1, round(side / shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
