"""The descriptor of one crop.

1. The crop is converted to optical density, which removes the brightness of the lamp and of the mounting medium.
2. Gaussian derivatives at four scales give responses that do not change when the crop is rotated.
3. The responses in windows around the centre are summarised by the logarithm of their covariance: which edges, ridges and
   tones occur together, and how strongly (log-Euclidean region covariance: Tuzel et al. 2006; Arsigny et al. 2007).
4. A joint histogram of density and colour is appended.

The scales are fractions of the side of the crop, so the resolution of the scan has no effect. The finest scale is well above
one pixel.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from slidepipe.embedding.square import to_squares
from slidepipe.interfaces import Float32Array, FloatArray, UInt8Array

SIDE_PX = 128
"""Side of the crop for all computations, in pixels. Finer detail depends on the focus and compression of the scanner."""

_GRID_PX = 64
"""Side of the grid on which derivatives are sampled. A finer grid does not change the statistics."""

_SIGMAS_PX = (0.7, 1.4, 2.8, 5.6)
_DENSITY_CEILING = 4.0
_DENSITY_FLOOR = -0.3
_BACKGROUND_PERCENTILE = 80
_COVARIANCE_FLOOR = 1e-4
"""Added to the variances of square-rooted densities. It is the variance caused by the noise of 8-bit pixels."""

_TONE_BINS, _CHROMA_BINS = 10, 8
_TONES, _RIDGES, _RADIALS = 3, 3, 3

# Gaussian windows over the distance from the centre, as fractions of half the side: (radius, spread).
_WINDOWS = {"object": (0.0, 0.50), "core": (0.0, 0.25), "rim": (0.55, 0.15)}
# Responses, window, weight. With these weights, the squared distances of the two blocks are about equal on average, and those of
# the histogram are half as large.
_COVARIANCES = (("ridges", "object", 7.8), ("all", "core", 7.5))
_HISTOGRAM_WINDOW, _HISTOGRAM_WEIGHT = "rim", 1.1


def _channels() -> dict[str, list[int]]:
    """Return the columns of the response stack (3 tones, then 3 ridge and 3 radial responses per scale) of each block."""
    per_scale = _RIDGES + _RADIALS
    starts = [_TONES + scale * per_scale for scale in range(len(_SIGMAS_PX))]
    ridges = list(range(_TONES)) + [start + offset for start in starts for offset in range(_RIDGES)]
    return {"ridges": ridges, "all": list(range(_TONES + per_scale * len(_SIGMAS_PX)))}


_CHANNELS = _channels()
DIM = (
    sum(len(_CHANNELS[name]) * (len(_CHANNELS[name]) + 1) // 2 for name, _, _ in _COVARIANCES)
    + _TONE_BINS * _CHROMA_BINS
)
"""Length of a descriptor."""


def describe(crop: UInt8Array) -> Float32Array:
    """Return the descriptor of a crop.

    Args:
        crop: uint8 (H, W, 3), sRGB.

    Returns:
        float32 (DIM,), finite for any crop.
    """
    if crop.shape[:2] != (SIDE_PX, SIDE_PX):
        crop = to_squares([crop], SIDE_PX, "squeeze")[0]
    density = optical_density(crop)
    responses = _responses(density)
    blocks = []
    for name, window, weight in _COVARIANCES:
        columns = _CHANNELS[name]
        blocks.append(weight * _unit(log_covariance(responses[:, columns], _window(window))))
    histogram = _tone_chroma_histogram(density, _window(_HISTOGRAM_WINDOW))
    blocks.append(_HISTOGRAM_WEIGHT * np.sqrt(histogram))
    return np.concatenate(blocks).astype(np.float32)


def optical_density(crop: UInt8Array) -> FloatArray:
    """Return the optical density of a crop, log(background / pixel) (Beer-Lambert law).

    Args:
        crop: uint8 (H, W, 3), sRGB.

    Returns:
        float64 (H, W, 3). The background of each channel is the median over the brightest fifth of the crop.
    """
    light = crop.astype(np.float64) + 1.0
    brightness = light.mean(axis=2)
    bright = brightness >= np.percentile(brightness, _BACKGROUND_PERCENTILE)
    background = np.median(light[bright], axis=0)
    density: FloatArray = np.clip(np.log(background / light), _DENSITY_FLOOR, _DENSITY_CEILING)
    return density


def log_covariance(responses: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the matrix logarithm of a weighted covariance as a vector.

    Euclidean distances between such vectors equal the Frobenius distances between the matrices.

    Args:
        responses: float64 (P, C), one row per grid point.
        weights: float64 (P,), with sum 1.

    Returns:
        float64 (C (C + 1) / 2,).
    """
    centred = responses - weights @ responses
    covariance = (centred * weights[:, None]).T @ centred
    covariance[np.diag_indices_from(covariance)] += _COVARIANCE_FLOOR
    values, vectors = np.linalg.eigh(covariance)
    logarithm = (vectors * np.log(np.maximum(values, _COVARIANCE_FLOOR))) @ vectors.T
    rows, columns = np.triu_indices(len(covariance))
    vector: FloatArray = logarithm[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))
    return vector


def _unit(vector: FloatArray) -> FloatArray:
    scaled: FloatArray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled


def _responses(density: FloatArray) -> FloatArray:
    """Return signed square roots of tones and derivatives at the grid points, float64 (_GRID_PX ** 2, C)."""
    grey = density.mean(axis=2)
    coarse = density.reshape(_GRID_PX, SIDE_PX // _GRID_PX, _GRID_PX, SIDE_PX // _GRID_PX, 3).mean(axis=(1, 3))
    columns = [coarse.mean(axis=2), *_chroma(coarse)]
    outward_x, outward_y = _outward()
    for sigma in _SIGMAS_PX:
        smooth, first, second = _derivative_filters(sigma)
        along_x = [grey @ kernel.T for kernel in (smooth, first, second)]
        slope_x, slope_y = smooth @ along_x[1], first @ along_x[0]
        bend_xx, bend_yy, bend_xy = smooth @ along_x[2], second @ along_x[0], first @ along_x[1]
        mean_bend = (bend_xx + bend_yy) / 2
        split = np.hypot((bend_xx - bend_yy) / 2, bend_xy)
        xx, xy, yy = outward_x**2, outward_x * outward_y, outward_y**2
        columns += [np.hypot(slope_x, slope_y), mean_bend + split, mean_bend - split]
        columns += [
            bend_xx * xx + 2 * bend_xy * xy + bend_yy * yy,
            bend_xx * yy - 2 * bend_xy * xy + bend_yy * xx,
            np.abs((bend_yy - bend_xx) * xy + bend_xy * (xx - yy)),
        ]
    stack = np.stack([column.ravel() for column in columns], axis=1)
    rooted: FloatArray = np.sign(stack) * np.sqrt(np.abs(stack))
    return rooted


def _chroma(density: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the yellow-brown chroma (blue minus red density) and the green-magenta chroma, float64 (H, W) each."""
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    return blue - red, green - (red + blue) / 2


def _tone_chroma_histogram(density: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the joint histogram of density and yellow-brown chroma, float64 (_TONE_BINS * _CHROMA_BINS,), with sum 1."""
    coarse = density.reshape(_GRID_PX, SIDE_PX // _GRID_PX, _GRID_PX, SIDE_PX // _GRID_PX, 3).mean(axis=(1, 3))
    tone = np.sqrt(np.maximum(coarse.mean(axis=2).ravel(), 0.0))
    tone_low, tone_share = _soft_bin(tone, 0.0, 1.5, _TONE_BINS)
    chroma_low, chroma_share = _soft_bin(_chroma(coarse)[0].ravel(), -0.1, 1.3, _CHROMA_BINS)
    histogram = np.zeros(_TONE_BINS * _CHROMA_BINS)
    for tone_step, in_tone in ((0, 1 - tone_share), (1, tone_share)):
        for chroma_step, in_chroma in ((0, 1 - chroma_share), (1, chroma_share)):
            bins = (tone_low + tone_step) * _CHROMA_BINS + chroma_low + chroma_step
            histogram += np.bincount(bins, weights * in_tone * in_chroma, minlength=len(histogram))
    return histogram


def _soft_bin(values: FloatArray, low: float, high: float, bins: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the lower of the two bins that share each value, and the fraction for the upper one.

    Sharing a value between two bins avoids jumps at the edges of bins.
    """
    position = np.clip((values - low) / (high - low) * (bins - 1), 0.0, bins - 1.0)
    lower = np.minimum(position.astype(np.intp), bins - 2)
    return lower, position - lower


@cache
def _grid_offsets() -> tuple[FloatArray, FloatArray]:
    step = SIDE_PX // _GRID_PX
    places = np.arange(_GRID_PX) * step + (step - 1) / 2 - (SIDE_PX - 1) / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    return y, x


@cache
def _outward() -> tuple[FloatArray, FloatArray]:
    """Return the x and y of the unit vector from the centre of the crop to each grid point."""
    y, x = _grid_offsets()
    length = np.hypot(x, y)
    return x / length, y / length


@cache
def _window(name: str) -> FloatArray:
    radius, spread = _WINDOWS[name]
    y, x = _grid_offsets()
    distance = np.hypot(x, y).ravel() / (SIDE_PX / 2)
    weights = np.exp(-((distance - radius) ** 2) / (2 * spread**2))
    normalised: FloatArray = weights / weights.sum()
    return normalised


@cache
def _derivative_filters(sigma_px: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return matrices (_GRID_PX, SIDE_PX) that smooth and differentiate 0, 1 and 2 times along one axis and sample the grid.

    The Gaussian is sampled at the centres of pixels. Derivatives are scaled by sigma ** order, so that their size does not
    depend on the scale (Lindeberg 1998). The crop is extended by reflection.
    """
    step = SIDE_PX // _GRID_PX
    centres = np.arange(_GRID_PX) * step + (step - 1) / 2
    reach = int(np.ceil(4 * sigma_px)) + step
    places = np.arange(-reach, SIDE_PX + reach)
    away = (places[None, :] - centres[:, None]) / sigma_px
    gauss = np.exp(-(away**2) / 2)
    gauss /= gauss.sum(axis=1, keepdims=True)
    mirrored = np.abs(places + 0.5) - 0.5
    mirrored = np.where(mirrored >= SIDE_PX, 2 * SIDE_PX - 1 - mirrored, mirrored).astype(np.intp)
    fold = np.zeros((len(places), SIDE_PX))
    fold[np.arange(len(places)), mirrored] = 1.0
    second = (away**2 - 1) * gauss
    # The sum of a sampled kernel is not exactly zero. Without this correction, a constant image would have a curvature.
    second -= second.mean(axis=1, keepdims=True) * (gauss * len(places))
    return gauss @ fold, (away * gauss) @ fold, second @ fold
