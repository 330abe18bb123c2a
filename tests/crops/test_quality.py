import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidepipe.config import CountingConfig
from slidepipe.crops.quality import CropProperties, faults, long_sides_um, measure_crop

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


def test_reasons_name_the_first_fault_and_nothing_measured_is_none():
    limits = CountingConfig()
    measured = CropProperties(
        black_share=np.array([0.0, 0.9, 0.9, 0.0, np.nan, 0.0]), edge_um=np.array([2.0, 9.0, 2.0, 9.0, np.nan, 2.0])
    )
    cut = np.array([False, False, True, False, False, False])
    reasons = faults(measured, np.array([30.0, 30.0, 30.0, 30.0, 30.0, 400.0]), cut, limits)
    assert reasons[0] is None
    assert reasons[4] is None
    assert reasons[1] == "black (over 70% of it)"
    assert reasons[2] == "cut by the edge of what was scanned"
    assert reasons[3] == "out of focus (no edge under 6 um)"
    assert reasons[5] == "too large (over 200 um)"


def test_limits_are_settings():
    measured = CropProperties(np.array([0.5, 0.5]), np.array([3.0, 5.0]))
    sides, cut = np.array([50.0, 50.0]), np.zeros(2, bool)
    assert faults(measured, sides, cut, CountingConfig()) == [None, None]
    strict = faults(measured, sides, cut, CountingConfig(max_edge_um=4))
    assert strict[0] is None
    assert strict[1] is not None
    assert None not in faults(measured, sides, cut, CountingConfig(max_black_share=0.4))
    assert None not in faults(measured, sides, cut, CountingConfig(max_size_um=40))
