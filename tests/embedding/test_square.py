import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidepipe.embedding.square import border_colour, orient_squares, to_squares
from slidepipe.errors import SettingsError


def crop_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_squeeze_is_pillows_antialiased_bicubic():
    crop = crop_of(61, 173)
    expected = np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_squares([crop], 64, "squeeze")[0], expected)


def test_squeeze_is_what_torchvision_does():
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    crop = crop_of(90, 300)
    resize = transforms.Resize((256, 256), interpolation=transforms.InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(to_squares([crop], 256, "squeeze")[0], np.asarray(resize(Image.fromarray(crop))))


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.sampled_from(["squeeze", "pad"]))
def test_any_size_becomes_the_square(height, width, side, fit):
    squares = to_squares([crop_of(height, width)], side, fit)
    assert squares.shape == (1, side, side, 3)
    assert squares.dtype == np.uint8


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_a_square_of_the_right_size_is_unchanged(fit):
    crop = crop_of(32, 32)
    np.testing.assert_array_equal(to_squares([crop], 32, fit)[0], crop)


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_a_crop_does_not_see_its_neighbours(fit):
    crops = [crop_of(20 + 7 * n, 50 - 5 * n, n) for n in range(4)]
    together = to_squares(crops, 24, fit)
    for crop, square in zip(crops, together, strict=True):
        np.testing.assert_array_equal(to_squares([crop], 24, fit)[0], square)


def test_pad_keeps_the_aspect_and_fills_with_the_border_colour():
    crop = np.full((40, 80, 3), (230, 220, 210), dtype=np.uint8)
    crop[10:30, 20:60] = 10
    square = to_squares([crop], 40, "pad")[0]
    assert (square[:10] == (230, 220, 210)).all()
    assert (square[30:] == (230, 220, 210)).all()
    dark = (square < 120).all(axis=2)
    assert dark.any(axis=0).sum() == 20
    assert dark.any(axis=1).sum() == 10


def test_border_colour_ignores_the_object_and_a_neighbour_at_the_edge():
    crop = np.full((20, 30, 3), (200, 210, 220), dtype=np.uint8)
    crop[5:15, 5:25] = 0
    crop[:4, :4] = 0
    assert border_colour(crop) == (200, 210, 220)


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_no_crops(fit):
    assert to_squares([], 16, fit).shape == (0, 16, 16, 3)


def test_unknown_fit_names_the_two():
    with pytest.raises(SettingsError, match=r"'stretch'.*'squeeze' or 'pad'"):
        to_squares([], 16, "stretch")


def test_a_side_of_nothing():
    with pytest.raises(SettingsError, match="input_px: 0"):
        to_squares([], 0, "pad")


@pytest.mark.parametrize("crop", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_not_a_crop(crop):
    with pytest.raises(ValueError, match="uint8"):
        to_squares([crop], 16, "pad")


def test_one_view_is_the_crop():
    crops = crop_of(9, 9)[None]
    (only,) = orient_squares(crops, 1)
    np.testing.assert_array_equal(only, crops)


def test_eight_views_are_the_dihedral_group():
    crops = crop_of(7, 7)[None]
    seen = {view.tobytes() for view in orient_squares(crops, 8)}
    assert len(seen) == 8
    for turned in (np.rot90(crops, axes=(1, 2)), crops[:, ::-1], crops.transpose(0, 2, 1, 3)):
        assert {view.tobytes() for view in orient_squares(np.ascontiguousarray(turned), 8)} == seen


def test_views_start_with_the_crop_itself():
    crops = crop_of(6, 6)[None]
    np.testing.assert_array_equal(next(iter(orient_squares(crops, 8))), crops)


def test_other_orientation_counts_are_rejected():
    with pytest.raises(SettingsError, match="orientations: 4"):
        orient_squares(crop_of(6, 6)[None], 4)


def test_only_squares_turn():
    with pytest.raises(ValueError, match="square"):
        orient_squares(crop_of(6, 8)[None], 8)
