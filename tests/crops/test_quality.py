import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidepipe.crops.quality import long_sides_um, measure_crop

UM_PER_PX = 0.25


def disc(light: float, background: float = 225.0, sigma_um: float = 0.4, side_px: int = 160) -> np.ndarray:
    """A disc of 20 um on an even field, its rim softened as a lens does; ``light`` is its transmission."""
    y, x = np.mgrid[:side_px, :side_px] - side_px / 2
    inside = (np.hypot(x, y) < 40).astype(float)
    soft = ndimage.gaussian_filter(inside, sigma_um / UM_PER_PX)
    grey = background * (1 - soft * (1 - light))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def test_a_black_disc_is_black_and_a_brown_one_is_not():
    assert measure_crop(disc(0.06), UM_PER_PX)[0] > 0.75  # its soft rim is not
    assert measure_crop(disc(0.4), UM_PER_PX)[0] == 0


def test_a_wider_blur_gives_a_wider_edge():
    edges = [measure_crop(disc(0.5, sigma_um=sigma), UM_PER_PX)[1] for sigma in (0.4, 1, 2, 3, 4)]
    assert np.all(np.diff(edges) > 0)
    assert edges[0] < 3
    assert edges[-1] > 6


@pytest.mark.parametrize("sigma_um", [2.0, 3.0])
def test_the_edge_of_a_pale_disc_is_that_of_the_lens(sigma_um):
    # Linear in density only where the object is pale: sqrt(2 pi) sigma, the sigma of the slope filter added in squares.
    seen = measure_crop(disc(0.8, sigma_um=sigma_um), UM_PER_PX)[1]
    assert seen == pytest.approx(np.sqrt(2 * np.pi) * np.hypot(sigma_um, 0.5), rel=0.15)


@settings(max_examples=20, deadline=None)
@given(light=st.floats(0.3, 0.8), background=st.integers(150, 250))
def test_focus_depends_neither_on_density_nor_on_the_lamp(light, background):
    sharp, blurred = (measure_crop(disc(light, background, sigma), UM_PER_PX)[1] for sigma in (0.4, 4.0))
    assert sharp < 4 < 6 < blurred


def test_noise_on_the_field_makes_no_sharp_object_blurred():
    rng = np.random.default_rng(1)
    noisy = np.clip(disc(0.5) + rng.normal(0, 4, (160, 160, 3)), 0, 255).astype(np.uint8)
    assert measure_crop(noisy, UM_PER_PX)[1] < 3


def test_a_crop_of_one_colour():
    black_share, edge_um = measure_crop(np.full((30, 20, 3), 5, np.uint8), UM_PER_PX)
    assert black_share == 1
    assert np.isnan(edge_um)
    assert measure_crop(np.full((30, 20, 3), 230, np.uint8), UM_PER_PX)[0] == 0


def test_crops_are_measured_at_the_size_they_span():
    whole, halved = disc(0.5, sigma_um=2), disc(0.5, sigma_um=2)[::2, ::2]
    assert measure_crop(halved, 2 * UM_PER_PX)[1] == pytest.approx(measure_crop(whole, UM_PER_PX)[1], rel=0.1)
    assert long_sides_um(np.array([[0, 0, 10, 30], [5, 5, 25, 6]]), 0.5, 0.25).tolist() == [7.5, 10.0]
