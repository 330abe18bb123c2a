"""Embeddings of crops."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.crops.isolate import align_to_long_axis, isolate, rotate_object
from slidepipe.embedding.embed import embed_crops, join_embeddings
from slidepipe.embedding.square import orient_squares, to_squares
from slidepipe.errors import PluginError
from slidepipe.interfaces import Float32Array, UInt8Array
from tests.plugins_for_tests import MeanColour


def crops_of(count: int) -> list[UInt8Array]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8) for index in range(count)]


def names(count: int) -> list[str]:
    return [f"s:{index}" for index in range(count)]


@given(st.integers(1, 9), st.permutations(range(7)))
def test_batch_and_order_do_not_change_embedding(batch: int, order: list[int]) -> None:
    """Embeddings do not depend on the batch size or the order of the crops."""
    crops = crops_of(7)
    expected = embed_crops(MeanColour(), crops, names(7), 8, 3)
    mixed = embed_crops(MeanColour(), [crops[index] for index in order], names(7), 8, batch)
    np.testing.assert_allclose(mixed, expected[order], rtol=1e-5)


class Corners(MeanColour):
    """A backbone whose embedding depends on the orientation of the crop."""

    def embed(self, crops: UInt8Array) -> Float32Array:
        return crops[:, 0, :2].reshape(len(crops), 6).astype(np.float32)


def test_eight_orientations_are_rotation_invariant() -> None:
    """Averaged over eight orientations, quarter turns of a crop embed alike."""
    crop = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    quarters = [np.ascontiguousarray(np.rot90(crop, k)) for k in range(4)]
    one = embed_crops(Corners(), quarters, names(4), 1, 4)
    eight = embed_crops(Corners(), quarters, names(4), 8, 4)
    assert np.abs(one - one[0]).max() > 1
    np.testing.assert_allclose(eight, np.broadcast_to(eight[0], eight.shape), rtol=1e-6)


class Invariant(Corners):
    """The same, but declared invariant to flips and quarter turns (the test does not need it to be true)."""

    orientation_invariant = True


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9), st.permutations(range(7)))
def test_isolated_objects_are_aligned(batch: int, order: list[int]) -> None:
    """Isolated objects are aligned to their long axis, and rotated by 45 degrees in the mirrored orientations."""
    crops = [*crops_of(4), *(crop[:12] for crop in crops_of(3))]
    posed = []
    for number, crop in enumerate(map(isolate, crops)):
        along, across = align_to_long_axis(crop)
        assert (along is crop) == (number < 4), "the last three are elongated"
        four_poses = crop, along, rotate_object(crop, 45), across
        posed.append([to_squares([pose], Corners.input_px, "squeeze") for pose in four_poses])
    eight = [
        np.mean(
            [
                Corners().embed(view)[0]
                for view in [*list(orient_squares(along, 8))[:4], *list(orient_squares(across, 8))[4:]]
            ],
            axis=0,
        )
        for _, along, _, across in posed
    ]
    mixed = [crops[index] for index in order]
    found = embed_crops(Corners(), mixed, names(7), 8, batch, isolated=True)
    np.testing.assert_allclose(found, np.array(eight)[order], rtol=1e-5)
    one = embed_crops(Corners(), mixed, names(7), 1, batch, isolated=True)
    np.testing.assert_array_equal(one, embed_crops(Corners(), list(map(isolate, mixed)), names(7), 1, batch))
    four = [np.mean([Corners().embed(square)[0] for square in squares], axis=0) for squares in posed]
    found = embed_crops(Invariant(), mixed, names(7), 1, batch, isolated=True)
    np.testing.assert_allclose(found, np.array(four)[order], rtol=1e-5)
    as_it_lies = embed_crops(Invariant(), mixed, names(7), 1, batch)
    np.testing.assert_array_equal(as_it_lies, embed_crops(Corners(), mixed, names(7), 1, batch))


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_join_embeddings_scales_parts(count: int, seed: int) -> None:
    """The parts have lengths 1 and 2.25, row by row; non-negative rows are square-rooted."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(count, 5)).astype(np.float32)
    own[::2], own[1::2, 0] = np.abs(own[::2]), -1
    companion = rng.normal(size=(count, 3)).astype(np.float32)
    companion[0] = np.nan
    joined = join_embeddings(own, companion)
    assert joined.dtype == np.float32
    assert joined.shape == (count, 8)
    assert np.isnan(joined[0, 5:]).all()
    np.testing.assert_allclose(np.linalg.norm(joined[1:, :5], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(joined[1:, 5:], axis=1), 2.25, rtol=1e-5)
    for row in range(count):
        np.testing.assert_array_equal(join_embeddings(own[row : row + 1], companion[row : row + 1])[0], joined[row])
    # The values of a row without negative values are replaced by their square roots, so their squares are shares of the sum.
    np.testing.assert_allclose(joined[0, :5] ** 2, own[0] / own[0].sum(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        joined[1::2, :5], own[1::2] / np.linalg.norm(own[1::2], axis=1, keepdims=True), rtol=1e-4
    )


def test_embed_without_crops() -> None:
    """N may be 0."""
    assert embed_crops(MeanColour(), [], [], 8, 4).shape == (0, 6)


class OutOfMemoryError(RuntimeError):
    """An error of the same name as that of torch."""


def test_out_of_memory_halves_batch(caplog: pytest.LogCaptureFixture) -> None:
    """The batch is halved until it fits, with a warning each time."""
    sizes: list[int] = []

    class Small(MeanColour):
        def embed(self, crops: UInt8Array) -> Float32Array:
            sizes.append(len(crops))
            if len(crops) > 2:
                raise OutOfMemoryError
            return super().embed(crops)

    with caplog.at_level(logging.WARNING):
        embeddings = embed_crops(Small(), crops_of(6), names(6), 1, 8)
    np.testing.assert_array_equal(embeddings, embed_crops(MeanColour(), crops_of(6), names(6), 1, 8))
    assert sizes == [6, 4, 2, 2, 2]
    assert "batches of 4" in caplog.text
    assert "batches of 2" in caplog.text


def test_out_of_memory_with_one_crop_is_an_error() -> None:
    """A batch of one cannot be halved."""

    class Tiny(MeanColour):
        def embed(self, crops: UInt8Array) -> Float32Array:
            raise OutOfMemoryError

    with pytest.raises(OutOfMemoryError):
        embed_crops(Tiny(), crops_of(2), names(2), 1, 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda good: np.where(np.arange(len(good))[:, None] == 1, np.float32("nan"), good),
            "embedding of s:1 is not finite",
        ),
        (lambda good: good.astype(np.float64), "float64"),
        (lambda good: good[:-1], "contract"),
        (lambda good: good[:, :3], "contract"),
        (lambda good: good.tolist(), "list"),
    ],
)
def test_broken_backbone_is_named(bad: Any, message: str) -> None:
    """Wrong shapes, dtypes and values are errors that name the backbone."""

    class Bad(MeanColour):
        name = "bad-one"

        def embed(self, crops: UInt8Array) -> Any:
            return bad(super().embed(crops))

    with pytest.raises(PluginError, match=message) as caught:
        embed_crops(Bad(), crops_of(3), names(3), 1, 4)
    assert "bad-one" in str(caught.value)
