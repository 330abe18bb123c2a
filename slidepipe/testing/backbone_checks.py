"""The checks of backbones."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from slidepipe.interfaces import Backbone
from slidepipe.testing.checks import CheckFunctions, require, require_attributes, require_members

if TYPE_CHECKING:
    from slidepipe.interfaces import Float32Array, UInt8Array

CPU_TOLERANCE = 1e-4
"""Largest difference between embeddings of the same crop, as a fraction of the largest value: rounding in float32."""

GPU_TOLERANCE = 2e-2
"""The same on a GPU: rounding in bfloat16."""

ORIENTATION_TOLERANCE = 2e-2
"""Largest difference between the orientations of a crop, for a backbone that declares itself invariant to them."""


class BackboneChecks:
    """The checks of a backbone. It is built and loaded once, and once more to check that loading is deterministic.

    Args:
        make: returns a new backbone that is not loaded.
        device: where to run it: `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(self, make: Callable[[], Backbone], device: str) -> None:
        self._make = make
        self._device = device
        self._tolerance = CPU_TOLERANCE if device == "cpu" else GPU_TOLERANCE

    def by_name(self) -> CheckFunctions:
        """Return the checks by name."""
        return {
            "CPU works" if self._device == "cpu" else f"{self._device} works": self.works,
            "attributes": self.attributes,
            "shape": self.shape,
            "dtype": self.dtype,
            "finite": self.finite,
            "empty batch": self.empty_batch,
            "batch invariance": self.batch_invariance,
            "order": self.order,
            "determinism": self.determinism,
            "crops untouched": self.crops_untouched,
            "tells crops apart": self.tells_crops_apart,
            "orientation invariance": self.orientation_invariance,
        }

    @cached_property
    def loaded(self) -> Backbone:
        """The backbone, loaded."""
        backbone = self._make()
        result = backbone.load(self._device)
        require(result is backbone, f"load returned {type(result).__name__}. It must return self")
        return backbone

    @cached_property
    def crops(self) -> UInt8Array:
        """Three crops, uint8 (3, input_px, input_px, 3), read-only."""
        crops = _draw_crops(self.loaded.input_px)
        crops.setflags(write=False)
        return crops

    @cached_property
    def embeddings(self) -> Float32Array:
        """The embeddings of the crops in one batch."""
        result = self.loaded.embed(self.crops)
        require(
            isinstance(result, np.ndarray) and result.ndim == 2,
            f"embed returned {type(result).__name__} {np.shape(result)}. It must return an array (N, dim)",
        )
        return np.array(result)

    def _require_equal(self, left: Float32Array, right: Float32Array, message: str, tolerance: float) -> None:
        require(left.shape == right.shape, f"{message}: shapes {left.shape} and {right.shape}")
        scale = max(float(np.abs(right).max(initial=0)), 1e-12)
        difference = float(np.abs(left - right).max(initial=0)) / scale
        require(difference <= tolerance, f"{message}: the values differ by up to {difference:.2g} of the largest one")

    def works(self) -> None:
        """Check that the crops can be embedded at all."""
        count = len(self.embeddings)
        require(count == len(self.crops), f"{len(self.crops)} crops have {count} embeddings")

    def attributes(self) -> None:
        """Check the type and meaning of the attributes, required and optional."""
        backbone = self.loaded
        require_attributes(backbone, {"name": str, "license": str, "source": str, "dim": int, "input_px": int})
        require(backbone.dim > 0, f"dim is {backbone.dim}. It must be positive")
        require(backbone.input_px > 0, f"input_px is {backbone.input_px}. It must be positive")
        require_members(
            backbone,
            {
                "fit": (lambda value: value in ("squeeze", "pad"), "'squeeze' or 'pad'"),
                "orientation_invariant": (lambda value: isinstance(value, bool), "True or False"),
                "weights_sha256": (
                    lambda value: value is None or re.fullmatch(r"[0-9a-f]{64}", str(value)) is not None,
                    "None or 64 hexadecimal digits",
                ),
            },
        )

    def shape(self) -> None:
        """Check the shape for one crop and for several."""
        for count in (1, len(self.crops)):
            shape, expected = np.shape(self.loaded.embed(self.crops[:count])), (count, self.loaded.dim)
            require(shape == expected, f"the embeddings of {count} crops have shape {shape}. It must be {expected}")

    def dtype(self) -> None:
        """Check that embeddings are float32."""
        dtype = getattr(self.loaded.embed(self.crops[:1]), "dtype", None)
        require(dtype == np.float32, f"embed returned dtype {dtype}. It must return a float32 array")

    def finite(self) -> None:
        """Check that embeddings are finite, also those of crops of one colour."""
        side = self.loaded.input_px
        extremes = np.stack([np.full((side, side, 3), level, np.uint8) for level in (0, 255)])
        for words, values in (("drawn", self.embeddings), ("black and white", self.loaded.embed(extremes))):
            require(bool(np.isfinite(values).all()), f"the embedding of {words} crops is not finite")

    def empty_batch(self) -> None:
        """Check the shape and the dtype for a batch without crops."""
        result = self.loaded.embed(self.crops[:0])
        require(
            np.shape(result) == (0, self.loaded.dim) and result.dtype == np.float32,
            f"no crops gave {getattr(result, 'dtype', type(result).__name__)} {np.shape(result)}. "
            f"It must be float32 (0, {self.loaded.dim})",
        )

    def batch_invariance(self) -> None:
        """Check that an embedding does not depend on the other crops of the batch."""
        single = np.concatenate([self.loaded.embed(crop[None]) for crop in self.crops])
        message = "an embedding depends on the other crops of the batch"
        self._require_equal(single, self.embeddings, message, self._tolerance)

    def order(self) -> None:
        """Check that embeddings are in the order of the crops."""
        reversed_crops = np.ascontiguousarray(self.crops[::-1])
        message = "the embeddings are not in the order of the crops"
        self._require_equal(self.loaded.embed(reversed_crops)[::-1], self.embeddings, message, self._tolerance)

    def determinism(self) -> None:
        """Check that embeddings do not change from call to call, nor when the backbone is loaded again."""
        message = "embedding the same crops twice gives different embeddings"
        self._require_equal(self.loaded.embed(self.crops), self.embeddings, message, self._tolerance)
        again = self._make().load(self._device).embed(self.crops)
        message = "after loading again, the same crops have different embeddings (random weights?)"
        self._require_equal(again, self.embeddings, message, self._tolerance)

    def crops_untouched(self) -> None:
        """Check that `embed` does not change its input."""
        given = _draw_crops(self.loaded.input_px)
        self.loaded.embed(given)
        require(bool(np.array_equal(given, self.crops)), "embed changes the crops that it receives")

    def tells_crops_apart(self) -> None:
        """Check that different crops have different embeddings."""
        spread = float(np.abs(self.embeddings - self.embeddings[0]).max())
        require(spread > 0, "different crops have the same embedding")

    def orientation_invariance(self) -> None:
        """Check, for a backbone with `orientation_invariant = True`, that flips and quarter turns change no embedding."""
        if not self.loaded.orientation_invariant:
            return
        message = "orientation_invariant is True, but an embedding depends on the orientation of its crop"
        for turns in range(4):
            rotated = np.rot90(self.crops, turns, axes=(1, 2))
            for crops in (rotated, rotated[:, :, ::-1]):
                embeddings = self.loaded.embed(np.ascontiguousarray(crops))
                self._require_equal(embeddings, self.embeddings, message, ORIENTATION_TOLERANCE)


def _draw_crops(side_px: int) -> UInt8Array:
    """Draw three crops that differ in tone, texture and shape: a dark disc, a striped disc, and noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:side_px, :side_px] / side_px - 0.5
    disc = np.hypot(x, y) < 0.3
    background = np.array([250.0, 244.0, 238.0])
    plain = np.where(disc[..., None], background * 0.4, background)
    striped = np.where((disc & (np.sin(40 * x) > 0))[..., None], background * 0.5, background)
    noise = rng.uniform(0, 255, (side_px, side_px, 3))
    return np.stack([plain, striped, noise]).round().astype(np.uint8)
