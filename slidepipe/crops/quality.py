"""Measure on a crop what may make its object unusable: how black it is, and how blurred its edges are.

The measurements are stored with every object, so that another limit (`counting.max_...`) needs no new look at the slide.
`slidepipe.classification.usable` compares them with the limits.
"""

import numpy as np
from scipy import ndimage

from slidepipe.crops.isolate import BACKGROUND_PERCENT
from slidepipe.interfaces import FloatArray, IntArray, UInt8Array

_PART_OF_OBJECT = 0.05
"""Smallest optical density over the background at which a pixel belongs to the object."""

_BLACK_LIGHT = 40
"""Mean of a pixel's channels, of 255, below which no inner structure is visible."""

_SLOPE_SIGMA_UM = 0.5
"""Slopes are measured after smoothing with this sigma (at least one pixel), so that noise is not measured as an edge."""

_EDGE_PERCENT, _DENSEST_PERCENT = 99, 98


def measure_crop(rgb: UInt8Array, um_per_px: float) -> tuple[float, float]:
    """Measure the black share and the edge width of one crop.

    A defocused lens blurs an edge with a Gaussian; at a sigma of s micrometres the edge width by this measure is
    sqrt(2 pi) s. The object's own density cancels, so a pale object in focus is as sharp as a dark one. Noise can only make
    an object appear sharper.

    Args:
        rgb: uint8 (h, w, 3) sRGB.
        um_per_px: micrometres per pixel of the crop.

    Returns:
        The share of the object's pixels that are black (0 to 1), and the width of its sharpest edges in micrometres (its
        density divided by the steepest slope of density). NaN as the width where nothing differs from the background.
    """
    light = rgb.mean(axis=2, dtype=np.float32)
    background = max(1.0, float(np.percentile(light, BACKGROUND_PERCENT)))
    density = np.log10(background / np.maximum(light, 1.0))
    inside = density > _PART_OF_OBJECT
    if not inside.any():
        # In a crop of one colour, object and background cannot be separated. It may still be black.
        return float((light < _BLACK_LIGHT).mean()), float("nan")
    black_share = float((light[inside] < _BLACK_LIGHT).mean())
    sigma_px = max(1.0, _SLOPE_SIGMA_UM / um_per_px)
    slope = ndimage.gaussian_gradient_magnitude(density, sigma_px, mode="nearest") / um_per_px
    steepest = float(np.percentile(slope[inside], _EDGE_PERCENT))
    densest = float(np.percentile(density[inside], _DENSEST_PERCENT))
    return black_share, densest / steepest if steepest > 0 else float("nan")


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
