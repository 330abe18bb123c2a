"""The object of a crop alone: what else lies in the picture becomes background, and the light becomes one.

A crop shows what happens to lie around its object, in the light of its scanner: none of it is the fossil. Reference images
and objects go the same way, so what is left to compare is the objects (design/heads.md has what that gained).
"""

import numpy as np
from PIL import Image, ImageChops
from scipy import ndimage

from slidepipe.interfaces import BoolArray, UInt8Array
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

_CENTRE_SIGMA = 0.5
"""Of the Gaussian that weighs the pieces of a crop, in half sides: the object of a crop is large and in its middle."""


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
    mask = find_object(np.asarray(_reduced(even)))
    soft = ndimage.gaussian_filter(
        ndimage.binary_dilation(mask, iterations=_WIDENED_PX).astype(np.float32), _SOFTENED_PX
    )
    alpha = Image.fromarray(np.rint(soft * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    alone = Image.composite(even, Image.new("RGB", image.size, _EVEN), alpha)
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


def find_object(even: UInt8Array) -> BoolArray:
    """Where the object is in a small crop of even light, uint8 (h, w, 3): bool (h, w), without holes."""
    light = np.maximum(even.mean(axis=2, dtype=np.float32), 1.0)
    density = ndimage.gaussian_filter(np.log10(np.float32(_EVEN_LIGHT) / light), 1.0)
    found = np.ones(light.shape, bool)
    for least in _PART_OF_OBJECT:
        piece = _central_piece(density > least)
        if piece is not None:
            found = piece
            if piece.mean() >= _LEAST_SHARE:
                break
    return found


def _central_piece(dark: BoolArray) -> BoolArray | None:
    margin = 2 * _CLOSED_PX  # closing must not grow things at the border
    closed = ndimage.binary_closing(framed(dark, margin), iterations=_CLOSED_PX)[margin:-margin, margin:-margin]
    pieces, count = ndimage.label(closed, EIGHT)
    if not count:
        return None
    y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in dark.shape)
    weight = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * _CENTRE_SIGMA**2))
    heaviest = 1 + int(np.argmax(np.bincount(pieces.ravel(), weight.ravel())[1:]))
    return fill_holes(pieces == heaviest)


def _reduced(image: Image.Image) -> Image.Image:
    shrink = max(image.size) / _MASK_PX
    if shrink <= 1:
        return image
    width, height = (max(1, round(side / shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
