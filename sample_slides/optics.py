"""Model of the microscope: absorbing matter on a lit field, seen through a lens.

All drawings are optical densities, float32 (H, W, 3) at `MPP` micrometres per pixel. The transmitted light is
field * 10 ** -density (Beer-Lambert law). Thick amber matter therefore looks brown, as on a real slide.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

MPP = 0.25
FloatArray = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

VISIBLE_DENSITY = 0.045
"""A pixel belongs to an object if its blue or green density is above this value (10 % darker than the field)."""


@dataclass(frozen=True)
class Specimen:
    """One object as the lens shows it, cut out with its box.

    Attributes:
        density: float32 (H, W, 3), optical density, margin included.
        box: x0, y0, x1, y1, half-open pixels of `density`: the visible object, without the margin.
    """

    density: FloatArray
    box: tuple[int, int, int, int]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def grain(shape: tuple[int, int], sigma_um: float, rng: np.random.Generator) -> FloatArray:
    """Smooth noise, float32 of `shape`, mean 0 and standard deviation 1, with detail of about `sigma_um`."""
    sigma_px = sigma_um / MPP
    step = max(1, int(sigma_px / 2))  # coarse noise is drawn small and enlarged, which is much faster
    small = (shape[0] // step + 4, shape[1] // step + 4)
    noise = ndimage.gaussian_filter(rng.standard_normal(small).astype(np.float32), sigma_px / step, mode="wrap")
    if step > 1:
        noise = ndimage.zoom(noise, step, order=1)
    noise = noise[: shape[0], : shape[1]]
    result: FloatArray = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return result


def specimen(thickness: FloatArray, pigment: tuple[float, float, float], rng: np.random.Generator) -> Specimen:
    """Return drawn matter as the lens shows it.

    Args:
        thickness: float32 (H, W), density in the channel whose pigment is 1; wide empty margin all round.
        pigment: density in red, green and blue for a thickness of 1.
        rng: draws the focus.
    """
    colour = np.asarray(pigment, np.float32)
    sharp = ndimage.gaussian_filter(thickness, rng.uniform(0.9, 1.5))
    # A steep edge bends light from its inside to just outside: this is the bright rim of real specimens.
    rim = 0.22 * (sharp - ndimage.gaussian_filter(sharp, 1.6 / MPP))
    density = sharp[..., None] * colour + np.clip(rim, -0.035, 0.12)[..., None] * np.array([0.8, 0.9, 1.0], np.float32)
    visible = density[..., 1:].max(axis=-1) > VISIBLE_DENSITY
    box = visible_box(visible)
    margin_px = 12
    x0, y0 = max(box[0] - margin_px, 0), max(box[1] - margin_px, 0)
    x1, y1 = min(box[2] + margin_px, density.shape[1]), min(box[3] + margin_px, density.shape[0])
    return Specimen(density[y0:y1, x0:x1], (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0))


def visible_box(visible: BoolArray) -> tuple[int, int, int, int]:
    """Return the box x0, y0, x1, y1 (half-open) of the True pixels of bool (H, W), without pieces below 12 pixels."""
    labels, _ = ndimage.label(visible, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    rows, columns = np.nonzero(sizes[labels] >= 12)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@dataclass(frozen=True)
class Light:
    """The light of one scan.

    Attributes:
        colour: field colour, sRGB 0 to 255.
        slope: relative change of brightness from the middle to an edge, x and y.
        vignette: relative loss of light at the corners.
        noise: standard deviation of a pixel, grey levels.
    """

    colour: tuple[float, float, float]
    slope: tuple[float, float]
    vignette: float
    noise: float


def draw_light(rng: np.random.Generator, spread: float = 1.0) -> Light:
    """Return random light for one scan. `spread` scales the differences between scans."""
    grey, red, green, blue, slope_x, slope_y = spread * rng.uniform(-1, 1, 6)
    colour = (226 + 4 * grey + 1.5 + 1.5 * red, 226 + 4 * grey - 3 + 2 * green, 226 + 4 * grey - 7 + 3 * blue)
    return Light(colour, (0.015 * slope_x, 0.015 * slope_y), rng.uniform(0.005, 0.02), 1.1)


def expose(
    density: FloatArray, light: Light, rng: np.random.Generator, window: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> UInt8Array:
    """Return the photograph of a density: uint8 (H, W, 3) sRGB.

    Args:
        density: float32 (H, W, 3).
        light: how the scan is lit.
        rng: draws the noise.
        window: left, top and side of this picture as shares of the scan that `light` describes.
    """
    height, width = density.shape[:2]
    x = (2 * (window[0] + window[2] * np.linspace(0, 1, width, dtype=np.float32)) - 1)[None, :]
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 512):  # in bands, because a whole scan as float would take a gigabyte
        rows = slice(top, min(top + 512, height))
        y = (2 * (window[1] + window[2] * np.arange(rows.start, rows.stop, dtype=np.float32) / height) - 1)[:, None]
        level = 1 + light.slope[0] * x + light.slope[1] * y - light.vignette * (x * x + y * y) / 2
        band = level[..., None] * np.array(light.colour, np.float32) * np.power(np.float32(10), -density[rows])
        band += light.noise * rng.standard_normal((*band.shape[:2], 1), dtype=np.float32)
        band += 0.4 * light.noise * rng.standard_normal(band.shape, dtype=np.float32)
        picture[rows] = np.clip(np.rint(band), 0, 255).astype(np.uint8)
    return picture
