"""What is measured on a crop: black share and edge width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidepipe.crops.quality import long_sides_um, measure_crop

UM_PER_PX = 0.25


def disc(light: float, background: float = 225.0, sigma_um: float = 0.4, side_px: int = 160) -> np.ndarray:
    """Draw a disc of 20 um on an even field, blurred as by a lens; `light` is its transmission."""
    y, x = np.mgrid[:side_px, :side_px] - side_px / 2
    inside = (np.hypot(x, y) < 40).astype(float)
    blurred = ndimage.gaussian_filter(inside, sigma_um / UM_PER_PX)
    grey = background * (1 - blurred * (1 - light))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def test_black_share_of_black_and_brown_disc():
    """A black disc is black except for its blurred rim; a brown one is not black."""
    assert measure_crop(disc(0.06), UM_PER_PX)["black_share"] > 0.75
    assert measure_crop(disc(0.4), UM_PER_PX)["black_share"] == 0


def test_edge_width_grows_with_blur():
    """More blur gives a wider edge."""
    edges = [measure_crop(disc(0.5, sigma_um=sigma), UM_PER_PX)["edge_um"] for sigma in (0.4, 1, 2, 3, 4)]
    assert np.all(np.diff(edges) > 0)
    assert edges[0] < 3
    assert edges[-1] > 6


@pytest.mark.parametrize("sigma_um", [2.0, 3.0])
def test_edge_width_agrees_with_formula(sigma_um):
    """The edge width of a pale disc is sqrt(2 pi) sigma."""
    # The formula holds for pale objects, whose light is linear in density. The sigma of the slope filter is added in squares.
    seen = measure_crop(disc(0.8, sigma_um=sigma_um), UM_PER_PX)["edge_um"]
    assert seen == pytest.approx(np.sqrt(2 * np.pi) * np.hypot(sigma_um, 0.5), rel=0.15)


@settings(max_examples=20, deadline=None)
@given(light=st.floats(0.3, 0.8), background=st.integers(150, 250))
def test_edge_width_ignores_density_and_lamp(light, background):
    """Sharp and blurred discs are separated at any density and background."""
    sharp, blurred = (measure_crop(disc(light, background, sigma), UM_PER_PX)["edge_um"] for sigma in (0.4, 4.0))
    assert sharp < 4 < 6 < blurred


def test_noise_does_not_blur_sharp_object():
    """Noise does not make a sharp object appear blurred."""
    rng = np.random.default_rng(1)
    noisy = np.clip(disc(0.5) + rng.normal(0, 4, (160, 160, 3)), 0, 255).astype(np.uint8)
    assert measure_crop(noisy, UM_PER_PX)["edge_um"] < 3


def test_measure_crop_of_one_colour():
    """A black crop is black, a white one is not, and neither has an edge."""
    black_share, edge_um = measure_crop(np.full((30, 20, 3), 5, np.uint8), UM_PER_PX).values()
    assert black_share == 1
    assert np.isnan(edge_um)
    assert measure_crop(np.full((30, 20, 3), 230, np.uint8), UM_PER_PX)["black_share"] == 0


def test_edge_width_is_in_micrometres():
    """A crop at half the resolution gives the same width in micrometres."""
    whole, halved = disc(0.5, sigma_um=2), disc(0.5, sigma_um=2)[::2, ::2]
    assert measure_crop(halved, 2 * UM_PER_PX)["edge_um"] == pytest.approx(
        measure_crop(whole, UM_PER_PX)["edge_um"], rel=0.1
    )
    assert long_sides_um(np.array([[0, 0, 10, 30], [5, 5, 25, 6]]), 0.5, 0.25).tolist() == [7.5, 10.0]
