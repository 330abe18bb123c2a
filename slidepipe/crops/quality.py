"""What makes an object unusable, measured on its crop: black through and through, out of focus, too large.

The numbers are kept with the object whatever becomes of it; limits (settings ``counting.max_...``) say from where on it is
unusable, so that another limit needs no new look at the slide.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from slidepipe.config import CountingConfig
from slidepipe.crops.isolate import BACKGROUND_PERCENT
from slidepipe.interfaces import BoolArray, FloatArray, IntArray, UInt8Array
from slidepipe.store.arrays import read_array
from slidepipe.store.slide_store import SlideStore

_PART_OF_OBJECT = 0.05
"""Optical density over the background from which on a pixel belongs to the object."""

_BLACK_LIGHT = 40
"""Mean of a pixel's channels (of 255) below which no inner structure can be seen."""

_SMOOTHED_UM = 0.5
"""Slopes are taken at this sigma (at least a pixel), so that noise makes none."""

_EDGE_PERCENT, _DENSEST_PERCENT = 99, 98


@dataclass(frozen=True)
class CropProperties:
    """Measured properties of N crops.

    Attributes:
        black_share: float64 (N,), share of the object's pixels that are black.
        edge_um: float64 (N,), width of the object's sharpest edges: its density over the steepest slope of density. NaN where
            nothing stands out of the background, or where the crop is lost.
    """

    black_share: FloatArray
    edge_um: FloatArray


def measure_crop(rgb: UInt8Array, um_per_px: float) -> tuple[float, float]:
    """Black share and edge width (um) of one crop.

    An edge that a lens out of focus has widened to a sigma of s um is sqrt(2 pi) s wide by this measure; the object's own
    density cancels, so a pale object in focus is as sharp as a dark one. Noise only makes an object seem sharper.

    Args:
        rgb: uint8 (h, w, 3) sRGB.
        um_per_px: micrometres a pixel of the crop.
    """
    light = rgb.mean(axis=2, dtype=np.float32)
    background = max(1.0, float(np.percentile(light, BACKGROUND_PERCENT)))
    density = np.log10(background / np.maximum(light, 1.0))
    inside = density > _PART_OF_OBJECT
    if not inside.any():
        # A crop of one colour: its background cannot be told from it, but black is black.
        return float((light < _BLACK_LIGHT).mean()), float("nan")
    black_share = float((light[inside] < _BLACK_LIGHT).mean())
    sigma_px = max(1.0, _SMOOTHED_UM / um_per_px)
    slope = ndimage.gaussian_gradient_magnitude(density, sigma_px, mode="nearest") / um_per_px
    steepest = float(np.percentile(slope[inside], _EDGE_PERCENT))
    densest = float(np.percentile(density[inside], _DENSEST_PERCENT))
    return black_share, densest / steepest if steepest > 0 else float("nan")


def long_sides_um(boxes: IntArray, mpp_x: float, mpp_y: float) -> FloatArray:
    """float64 (N,): the long side of each of ``boxes`` (N, 4), in um."""
    return np.asarray(np.maximum((boxes[:, 2] - boxes[:, 0]) * mpp_x, (boxes[:, 3] - boxes[:, 1]) * mpp_y), float)


def slide_properties(store: SlideStore) -> CropProperties:
    """The properties of a slide's objects, as stored with its crops. ``store``: the slide's; its crops are published."""
    crops = store.read("crops")
    return CropProperties(read_array(crops, "black_share"), read_array(crops, "edge_um"))


def faults(
    measured: CropProperties, long_sides_um: FloatArray, cut: BoolArray, limits: CountingConfig
) -> list[str | None]:
    """Why each object is unusable, or None where it is not; what could not be measured is no fault."""
    checks = (
        (cut, "cut by the edge of what was scanned"),
        (long_sides_um > limits.max_size_um, f"too large (over {limits.max_size_um:g} um)"),
        (measured.black_share > limits.max_black_share, f"black (over {limits.max_black_share:.0%} of it)"),
        (measured.edge_um > limits.max_edge_um, f"out of focus (no edge under {limits.max_edge_um:g} um)"),
    )
    reasons: list[str | None] = [None] * len(cut)
    for found, reason in reversed(checks):  # of several, the first one stays
        for row in np.flatnonzero(found).tolist():
            reasons[row] = reason
    return reasons
