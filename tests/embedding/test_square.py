"""Squares and their orientations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidepipe.embedding.square import border_colour, orient_squares, to_squares
from slidepipe.errors import SettingsError


def crop_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_squeeze_is_pillow_bicubic():
    """`squeeze` is Pillow's antialiased bicubic resampling, bit by bit."""
    crop = crop_of(61, 173)
    expected = np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_squares([crop], 64, "squeeze")[0], expected)


def test_squeeze_agrees_with_torchvision():
    """`squeeze` is identical to torchvision's `Resize` on a PIL image."""
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    crop = crop_of(90, 300)
    resize = transforms.Resize((256, 256), interpolation=transforms.InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(to_squares([crop], 256, "squeeze")[0], np.asarray(resize(Image.fromarray(crop))))


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.sampled_from(["squeeze", "pad"]))
def test_to_squares_any_size(height, width, side, fit):
    """A crop of any size becomes a uint8 square of the requested side."""
    squares = to_squares([crop_of(height, width)], side, fit)
    assert squares.shape == (1, side, side, 3)
    assert squares.dtype == np.uint8


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_to_squares_keeps_right_size(fit):
    """A square of the requested side is returned unchanged."""
    crop = crop_of(32, 32)
    np.testing.assert_array_equal(to_squares([crop], 32, fit)[0], crop)


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_to_squares_treats_crops_separately(fit):
    """A crop gives the same square whatever other crops are in the list."""
    crops = [crop_of(20 + 7 * n, 50 - 5 * n, n) for n in range(4)]
    together = to_squares(crops, 24, fit)
    for crop, square in zip(crops, together, strict=True):
        np.testing.assert_array_equal(to_squares([crop], 24, fit)[0], square)


def test_pad_keeps_aspect_ratio():
    """`pad` keeps the aspect ratio and fills the rest with the border colour."""
    crop = np.full((40, 80, 3), (230, 220, 210), dtype=np.uint8)
    crop[10:30, 20:60] = 10
    square = to_squares([crop], 40, "pad")[0]
    assert (square[:10] == (230, 220, 210)).all()
    assert (square[30:] == (230, 220, 210)).all()
    dark = (square < 120).all(axis=2)
    assert dark.any(axis=0).sum() == 20
    assert dark.any(axis=1).sum() == 10


def test_border_colour_is_median():
    """Neither the object nor a neighbour at the edge changes the border colour."""
    crop = np.full((20, 30, 3), (200, 210, 220), dtype=np.uint8)
    crop[5:15, 5:25] = 0
    crop[:4, :4] = 0
    assert border_colour(crop) == (200, 210, 220)


@pytest.mark.parametrize("fit", ["squeeze", "pad"])
def test_to_squares_without_crops(fit):
    """N may be 0."""
    assert to_squares([], 16, fit).shape == (0, 16, 16, 3)


def test_unknown_fit_is_rejected():
    """The message names the two that exist."""
    with pytest.raises(SettingsError, match=r"'stretch'.*'squeeze' or 'pad'"):
        to_squares([], 16, "stretch")


def test_zero_side_is_rejected():
    """A side of 0 pixels is an error."""
    with pytest.raises(SettingsError, match="input_px: 0"):
        to_squares([], 0, "pad")


@pytest.mark.parametrize("crop", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_wrong_crop_is_rejected(crop):
    """Grey, float and empty arrays are errors."""
    with pytest.raises(ValueError, match="uint8"):
        to_squares([crop], 16, "pad")


def test_one_orientation_is_the_crop():
    """One orientation is the crop itself."""
    crops = crop_of(9, 9)[None]
    (only,) = orient_squares(crops, 1)
    np.testing.assert_array_equal(only, crops)


def test_eight_orientations_are_dihedral_group():
    """All eight differ, and a rotated or mirrored crop gives the same eight."""
    crops = crop_of(7, 7)[None]
    seen = {view.tobytes() for view in orient_squares(crops, 8)}
    assert len(seen) == 8
    for rotated in (np.rot90(crops, axes=(1, 2)), crops[:, ::-1], crops.transpose(0, 2, 1, 3)):
        assert {view.tobytes() for view in orient_squares(np.ascontiguousarray(rotated), 8)} == seen


def test_first_orientation_is_the_crop():
    """The first of the eight is the crop unchanged."""
    crops = crop_of(6, 6)[None]
    np.testing.assert_array_equal(next(iter(orient_squares(crops, 8))), crops)


def test_other_orientation_counts_are_rejected():
    """Only 1 and 8 are supported."""
    with pytest.raises(SettingsError, match="orientations: 4"):
        orient_squares(crop_of(6, 6)[None], 4)


def test_eight_orientations_need_squares():
    """Images that are not square are an error."""
    with pytest.raises(ValueError, match="square"):
        orient_squares(crop_of(6, 8)[None], 8)
