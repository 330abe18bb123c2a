"""The quality rules: what is measured on a crop, and the limits above which its object is unusable.

The measurements are stored with every object, so that another limit (`counting.max_...`) needs no new look at the slide.
`slidepipe.classification.usable` compares them with the limits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from slidepipe.config import CountingConfig
from slidepipe.crops.isolate import BACKGROUND_PERCENT
from slidepipe.interfaces import BoolArray, Float32Array, FloatArray, IntArray, UInt8Array

_PART_OF_OBJECT = 0.05
"""Smallest optical density over the background at which a pixel belongs to the object."""

_BLACK_LIGHT = 40
"""Mean of a pixel's channels, of 255, below which no inner structure is visible."""

_SLOPE_SIGMA_UM = 0.5
"""Slopes are measured after smoothing with this sigma (at least one pixel), so that noise is not measured as an edge."""

_EDGE_PERCENT, _DENSEST_PERCENT = 99, 98


@dataclass(frozen=True)
class CropPixels:
    """One crop, as the rules measure it.

    Attributes:
        light: float32 (h, w), mean of the channels, 0 to 255.
        density: float32 (h, w), optical density over the background.
        inside: bool (h, w), the pixels of the object.
        um_per_px: micrometres per pixel.
    """

    light: Float32Array
    density: Float32Array
    inside: BoolArray
    um_per_px: float


@dataclass(frozen=True)
class QualityRule:
    """A property of a crop, and the limit above which the object is unusable.

    Attributes:
        column: name of the property, in the slide's store and in `objects.parquet`.
        measure: returns the property of a crop; NaN where it cannot be measured.
        limit: returns the limit from the settings.
        reason: text of the column `reason`, with a placeholder for the limit.
    """

    column: str
    measure: Callable[[CropPixels], float]
    limit: Callable[[CountingConfig], float]
    reason: str


def measure_crop(rgb: UInt8Array, um_per_px: float) -> dict[str, float]:
    """Measure the properties of one crop.

    Args:
        rgb: uint8 (h, w, 3) sRGB.
        um_per_px: micrometres per pixel of the crop.

    Returns:
        The value of each of `RULES`, by column.
    """
    light = rgb.mean(axis=2, dtype=np.float32)
    background = max(1.0, float(np.percentile(light, BACKGROUND_PERCENT)))
    density = np.log10(background / np.maximum(light, 1.0))
    crop = CropPixels(light, density, density > _PART_OF_OBJECT, um_per_px)
    return {rule.column: rule.measure(crop) for rule in RULES}


def _black_share(crop: CropPixels) -> float:
    """Return the share of the object's pixels that are black, 0 to 1."""
    # In a crop of one colour, object and background cannot be separated. It may still be black.
    pixels = crop.light[crop.inside] if crop.inside.any() else crop.light
    return float((pixels < _BLACK_LIGHT).mean())


def _edge_um(crop: CropPixels) -> float:
    """Return the width of the object's sharpest edges in micrometres: its density divided by the steepest slope of density.

    A defocused lens blurs an edge with a Gaussian; at a sigma of s micrometres the edge width by this measure is
    sqrt(2 pi) s. The object's own density cancels, so a pale object in focus is as sharp as a dark one. Noise can only make
    an object appear sharper. NaN where nothing differs from the background.
    """
    if not crop.inside.any():
        return float("nan")
    sigma_px = max(1.0, _SLOPE_SIGMA_UM / crop.um_per_px)
    slope = ndimage.gaussian_gradient_magnitude(crop.density, sigma_px, mode="nearest") / crop.um_per_px
    steepest = float(np.percentile(slope[crop.inside], _EDGE_PERCENT))
    densest = float(np.percentile(crop.density[crop.inside], _DENSEST_PERCENT))
    return densest / steepest if steepest > 0 else float("nan")


#: The quality rules, in the order in which their reasons are reported. To add one, add it here, raise `VERSION`, and add its
#: limit to `slidepipe.config.CountingConfig`. The store, `objects.parquet` and the column `reason` follow.
RULES = (
    QualityRule("black_share", _black_share, lambda limits: limits.max_black_share, "black (over {:.0%} of it)"),
    QualityRule("edge_um", _edge_um, lambda limits: limits.max_edge_um, "out of focus (no edge under {:g} um)"),
)

#: Version of the stage "crop", which stores the measurements. Raise it when a rule is added or measures differently: crops are
#: then made again.
VERSION = 2


def long_sides_um(boxes: IntArray, mpp_x: float, mpp_y: float) -> FloatArray:
    """Return the long side of each box in micrometres.

    Args:
        boxes: int64 (N, 4), x0, y0, x1, y1 in level-0 pixels.
        mpp_x: micrometres per level-0 pixel, horizontally.
        mpp_y: micrometres per level-0 pixel, vertically.

    Returns:
        float64 (N,).
    """
    return np.asarray(np.maximum((boxes[:, 2] - boxes[:, 0]) * mpp_x, (boxes[:, 3] - boxes[:, 1]) * mpp_y), float)
