import subprocess
import sys

import numpy as np
import pytest

from slidepipe.embedding.square import orient_squares, to_squares
from slidepipe.interfaces import Backbone
from slidepipe_plugins.descriptors import DescriptorBackbone
from slidepipe_plugins.descriptors.features import log_covariance, optical_density

BACKGROUND = np.array([232.0, 226.0, 220.0])


def drawn(kind: str, seed: int, side: int = 160) -> np.ndarray:
    """Draw a light disc, a spiny dark disc or a plain brown polygon on a bright background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius, angle = np.hypot(x, y) / side, np.arctan2(y, x) + rng.uniform(0, 6.28)
    grain = rng.normal(0, 0.02, (side, side))
    if kind == "disc":
        density = 0.25 * (radius < 0.36) + 0.4 * (np.abs(radius - 0.36) < 0.02) + grain * (radius < 0.36)
    elif kind == "spiny":
        density = 1.0 * (radius < 0.22) + 0.5 * ((radius < 0.42) & (np.cos(14 * angle) > 0.6)) + grain * (radius < 0.22)
    else:
        corner = np.abs((angle * 3 / np.pi) % 2 - 1)
        density = 1.6 * (radius < 0.3 + 0.08 * corner)
    light = BACKGROUND * np.exp(-density[..., None] * np.array([0.6, 1.0, 1.7]))
    return np.clip(light + rng.normal(0, 1, (side, side, 1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def backbone() -> DescriptorBackbone:
    return DescriptorBackbone().load("cpu")


@pytest.fixture(scope="module")
def crops(backbone) -> np.ndarray:
    kinds = ["disc", "spiny", "polygon"] * 3
    return to_squares([drawn(kind, seed) for seed, kind in enumerate(kinds)], backbone.input_px, backbone.fit)


def test_attributes(backbone):
    assert isinstance(backbone, Backbone)


def test_shape_and_dtype(backbone, crops):
    embeddings = backbone.embed(crops)
    assert embeddings.shape == (9, backbone.dim)
    assert embeddings.dtype == np.float32
    assert backbone.embed(crops[:0]).shape == (0, backbone.dim)


def test_batch_and_order(backbone, crops):
    together = backbone.embed(crops)
    np.testing.assert_array_equal(backbone.embed(crops[::-1])[::-1], together)
    np.testing.assert_array_equal(np.concatenate([backbone.embed(crop[None]) for crop in crops]), together)


def test_nearest_neighbour(backbone, crops):
    embeddings = backbone.embed(crops)
    apart = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_array_equal(apart.argmin(axis=1) % 3, np.arange(9) % 3)


def test_orientation_invariance(backbone, crops):
    as_is = backbone.embed(crops)
    between_kinds = np.linalg.norm(as_is[0] - as_is[1])
    for view in orient_squares(crops, 8):
        moved = np.linalg.norm(backbone.embed(view) - as_is, axis=1)
        assert moved.max() < 1e-3 * between_kinds


def test_scan_resolution(backbone):
    squares = [to_squares([drawn("spiny", 4, side)], backbone.input_px, backbone.fit) for side in (256, 512)]
    fine, coarse = (backbone.embed(square)[0] for square in squares)
    other = backbone.embed(to_squares([drawn("disc", 5)], backbone.input_px, backbone.fit))[0]
    assert np.linalg.norm(fine - coarse) < 0.4 * np.linalg.norm(fine - other)


def test_brightness_of_lamp(backbone, crops):
    as_is = backbone.embed(crops)
    dimmed = backbone.embed((crops * np.array([0.85, 0.8, 0.75])).astype(np.uint8))
    nearest = np.linalg.norm(dimmed[:, None] - as_is[None], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.arange(9))


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_crop_is_finite(backbone, value):
    crop = np.full((1, backbone.input_px, backbone.input_px, 3), value, dtype=np.uint8)
    assert np.isfinite(backbone.embed(crop)).all()


def test_extreme_crops_are_finite(backbone):
    halves = np.zeros((1, 128, 128, 3), dtype=np.uint8)
    halves[:, :, 64:] = 255
    noise = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    assert np.isfinite(backbone.embed(np.concatenate([halves, noise]))).all()


def test_other_input_size(backbone, crops):
    large = crops.repeat(2, axis=1).repeat(2, axis=2)
    expected = backbone.embed(to_squares(list(large), backbone.input_px, "squeeze"))
    np.testing.assert_array_equal(backbone.embed(large), expected)


@pytest.mark.parametrize(
    "crops", [np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 4), np.uint8)]
)
def test_wrong_input(backbone, crops):
    with pytest.raises(ValueError, match="uint8"):
        backbone.embed(crops)


def test_optical_density():
    crop = np.full((32, 32, 3), 199, dtype=np.uint8)
    crop[8:16, 8:16] = 99
    density = optical_density(crop)
    np.testing.assert_allclose(density[8:16, 8:16], np.log(2.0))
    np.testing.assert_allclose(density[:8], 0.0)


def test_log_covariance():
    columns = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * np.array([2.0, 1.0])
    vector = log_covariance(columns, np.full(4, 0.25))
    np.testing.assert_allclose(vector, [np.log(4.0001), 0.0, np.log(1.0001)], atol=1e-12)


def test_import_without_torch():
    code = "import sys, slidepipe_plugins.descriptors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
