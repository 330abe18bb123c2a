"""Tests of optical density: its values, its reach, and that it does not depend on where the window starts."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.detectors.density.optical_density import (
    BACKGROUND_REACH_PX,
    CELL_PX,
    UNKNOWN,
    background_of,
    density,
    grey_of,
)

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def density_of(grey: Grey, scanned: Mask) -> npt.NDArray[np.int16]:
    return density(grey, scanned, background_of(grey, scanned))


def noisy_scan(seed: int, side: int = 384) -> tuple[Grey, Mask]:
    rng = np.random.default_rng(seed)
    grey = rng.normal(210, 4, (side, side))
    scanned = np.ones((side, side), np.bool_)
    for _ in range(12):
        y, x = rng.integers(0, side, 2)
        size = rng.integers(4, side // 3)
        grey[y : y + size, x : x + size] *= rng.uniform(0.05, 0.95)
    y, x = rng.integers(0, side, 2)
    scanned[y : y + 70, x : x + 40] = False
    return grey.clip(0, 255).astype(np.uint8), scanned


def test_lambert_beer() -> None:
    grey = np.full((256, 256), 220, np.uint8)
    grey[110:150, 110:150] = round(220 * 10**-0.4)
    grey[10:14, 200:204] = 0
    found = density_of(grey, np.ones(grey.shape, np.bool_))
    assert abs(found[130, 130] - 400) <= 4
    assert found[60, 60] == 0
    assert abs(found[12, 202] - 1000 * np.log10(220 / 0.5)) <= 1


def test_drift_of_light() -> None:
    """A slow change of the light gives no density."""
    slope = np.linspace(200, 240, 512)[None, :].repeat(512, axis=0)
    found = density_of(slope.round().astype(np.uint8), np.ones((512, 512), np.bool_))
    assert np.abs(found).max() <= 12  # 0.012: half of the density of an object


def test_background_under_an_object() -> None:
    """An object does not lower its own background."""
    grey = np.full((512, 512), 220, np.uint8)
    grey[220:300, 220:300] = 200
    found = density_of(grey, np.ones(grey.shape, np.bool_))
    assert np.abs(found[220:300, 220:300] - 1000 * np.log10(220 / 200)).max() <= 1


def test_unscanned_pixels() -> None:
    """Unscanned pixels have no density and do not change the background."""
    grey = np.full((320, 320), 200, np.uint8)
    scanned = np.ones((320, 320), np.bool_)
    scanned[100:200, 100:240] = False
    grey[~scanned] = 255
    assert (density_of(grey, scanned) == 0).all()


def test_unknown_background() -> None:
    """The background is unknown where nothing near was scanned."""
    grey = np.full((320, 320), 200, np.uint8)
    scanned = np.zeros((320, 320), np.bool_)
    scanned[:32, :32] = True
    scanned[304, 304] = True  # a single pixel has no background
    grey[304, 304] = 20
    background = background_of(grey, scanned)
    assert background[0, 0] == round(-1000 * np.log10(200 / 255))
    assert background[-1, -1] == UNKNOWN
    assert density(grey, scanned, background)[304, 304] == 0


def test_darker_of_green_and_blue() -> None:
    yellow, red = (230, 220, 90), (20, 200, 190)
    assert grey_of(np.array([[yellow, red]], np.uint8)).tolist() == [[90, 190]]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    top=st.integers(0, 8),
    left=st.integers(0, 8),
)
def test_window_gives_the_same_density(seed: int, top: int, left: int) -> None:
    """Inside the reach from its edges, a window gives the same densities as the whole scan."""
    grey, scanned = noisy_scan(seed)
    whole = density_of(grey, scanned)
    y, x = top * CELL_PX, left * CELL_PX
    part = density_of(grey[y:, x:], scanned[y:, x:])
    inner = BACKGROUND_REACH_PX
    assert (
        part[inner if y else 0 :, inner if x else 0 :] == whole[y + (inner if y else 0) :, x + (inner if x else 0) :]
    ).all()
