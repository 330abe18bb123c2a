"""What the conformance checks of backbones and heads do; :mod:`slidepipe.testing` is how they are called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.interfaces import Backbone, Decisions, Head

if TYPE_CHECKING:
    from slidepipe.interfaces import Float32Array, StrArray, UInt8Array

Checks = dict[str, Callable[[], None]]

CPU_TOLERANCE = 1e-4
GPU_TOLERANCE = 2e-2
"""How far embeddings may differ between batches, as a share of the largest value: rounding, of float32 and of bfloat16."""


class CheckFailure(AssertionError):  # noqa: N818 (a failed check is no error of the plugin's user)
    """A plugin does not keep its contract; the message says in one line how."""


def require(holds: bool, message: str) -> None:
    """Raise :class:`CheckFailure` with the message unless it holds."""
    if not holds:
        raise CheckFailure(message)


def require_attributes(plugin: Any, wanted: dict[str, type | tuple[type, ...]]) -> None:
    """Raise :class:`CheckFailure` unless the plugin has these attributes, of these types and not empty."""
    for name, kind in wanted.items():
        require(hasattr(plugin, name), f"attribute {name} is missing")
        value = getattr(plugin, name)
        require(isinstance(value, kind) and not isinstance(value, bool), f"attribute {name} is {value!r}")
        require(value != "", f"attribute {name} is empty")


# Backbones


def backbone_checks(make: Callable[[], Backbone], device: str) -> Checks:
    """The checks of a backbone; the backbone is made and loaded once, and once more for determinism."""

    @functools.cache
    def loaded() -> Backbone:
        backbone = make()
        result = backbone.load(device)
        require(result is backbone, f"load returned {type(result).__name__}: it must return self")
        return backbone

    @functools.cache
    def crops() -> UInt8Array:
        made = _crops(loaded().input_px)
        made.setflags(write=False)
        return made

    @functools.cache
    def embedding() -> Float32Array:
        got = loaded().embed(crops())
        require(isinstance(got, np.ndarray) and got.ndim == 2, f"embed gave {type(got).__name__} {np.shape(got)}")
        return np.array(got)

    tolerance = CPU_TOLERANCE if device == "cpu" else GPU_TOLERANCE

    def same(left: Float32Array, right: Float32Array, message: str) -> None:
        require(left.shape == right.shape, f"{message}: shapes {left.shape} and {right.shape}")
        scale = max(float(np.abs(right).max(initial=0)), 1e-12)
        worst = float(np.abs(left - right).max(initial=0)) / scale
        require(worst <= tolerance, f"{message}: values differ by {worst:.2g} of the largest")

    def works() -> None:
        require(len(embedding()) == len(crops()), f"{len(crops())} crops gave {len(embedding())} embeddings")

    def attributes() -> None:
        backbone = loaded()
        require_attributes(backbone, {"name": str, "license": str, "source": str, "dim": int, "input_px": int})
        require(backbone.dim > 0, f"dim is {backbone.dim}")
        require(backbone.input_px > 0, f"input_px is {backbone.input_px}")
        require(getattr(backbone, "fit", "squeeze") in ("squeeze", "pad"), "fit must be squeeze or pad")

    def shape() -> None:
        for count in (1, len(crops())):
            got, wanted = np.shape(loaded().embed(crops()[:count])), (count, loaded().dim)
            require(got == wanted, f"{count} crops gave shape {got}, the contract says {wanted}")

    def dtype() -> None:
        got = getattr(loaded().embed(crops()[:1]), "dtype", None)
        require(got == np.float32, f"embed gave {got}, the contract says a float32 array")

    def finite() -> None:
        side = loaded().input_px
        extremes = np.stack([np.full((side, side, 3), level, np.uint8) for level in (0, 255)])
        for what, values in (("made-up", embedding()), ("black and white", loaded().embed(extremes))):
            require(bool(np.isfinite(values).all()), f"the embedding of {what} crops is not finite")

    def empty_batch() -> None:
        got = loaded().embed(crops()[:0])
        require(
            np.shape(got) == (0, loaded().dim) and got.dtype == np.float32,
            f"no crops gave {getattr(got, 'dtype', type(got).__name__)} {np.shape(got)}, "
            f"the contract says float32 (0, {loaded().dim})",
        )

    def batch_invariance() -> None:
        single = np.concatenate([loaded().embed(crop[None]) for crop in crops()])
        same(single, embedding(), "an embedding depends on the crops beside it")

    def order() -> None:
        reversed_crops = np.ascontiguousarray(crops()[::-1])
        same(loaded().embed(reversed_crops)[::-1], embedding(), "embeddings are not in the order of the crops")

    def determinism() -> None:
        same(loaded().embed(crops()), embedding(), "the same crops twice give two embeddings")
        again = make().load(device).embed(crops())
        same(again, embedding(), "loaded anew, the same crops give another embedding (random weights?)")

    def crops_untouched() -> None:
        given = _crops(loaded().input_px)
        loaded().embed(given)
        require(bool(np.array_equal(given, crops())), "embed changes the crops it is given")

    def tells_apart() -> None:
        spread = float(np.abs(embedding() - embedding()[0]).max())
        require(spread > 0, "different crops give one and the same embedding")

    return {
        "CPU works" if device == "cpu" else f"{device} works": works,
        "attributes": attributes,
        "shape": shape,
        "dtype": dtype,
        "finite": finite,
        "empty batch": empty_batch,
        "batch invariance": batch_invariance,
        "order": order,
        "determinism": determinism,
        "crops untouched": crops_untouched,
        "tells crops apart": tells_apart,
    }


def _crops(side_px: int) -> UInt8Array:
    """Three crops that differ in tone, texture and shape: a dark disc, a striped one, noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:side_px, :side_px] / side_px - 0.5
    disc = np.hypot(x, y) < 0.3
    tone = np.array([250.0, 244.0, 238.0])
    plain = np.where(disc[..., None], tone * 0.4, tone)
    striped = np.where((disc & (np.sin(40 * x) > 0))[..., None], tone * 0.5, tone)
    noise = rng.uniform(0, 255, (side_px, side_px, 3))
    return np.stack([plain, striped, noise]).round().astype(np.uint8)


# Heads

ALPHA = 0.1
GENERA = ("Azolla", "Deflandrea", "Spiniferites", "Wetzeliella")


def head_checks(make: Callable[[], Head]) -> Checks:
    """The checks of a head: four made-up genera, 40 references each, far apart, and outliers far from all."""
    references, genera = _clusters(40, seed=1)
    queries, truth = _clusters(10, seed=2)
    outliers = np.random.default_rng(3).normal(0, 300, (20, references.shape[1])).astype(np.float32)
    crop_like = references + np.random.default_rng(4).normal(0, 0.1, references.shape).astype(np.float32)

    def fit(head: Head, alpha: float = ALPHA) -> Head:
        rows = ReferenceSet(references.copy(), crop_like.copy(), genera.copy(), genera.copy(), "made up", None)
        return fit_head(head, rows, alpha)

    @functools.cache
    def fitted() -> Head:
        head = make()
        result = fit(head)
        require(result is head, f"fit returned {type(result).__name__}: it must return self")
        return head

    @functools.cache
    def decided() -> Decisions:
        return fitted().predict(queries)

    def attributes() -> None:
        require_attributes(make(), {"name": str})
        fitted()

    def fields() -> None:
        for count in (len(queries), 1, 0):
            _decision_fields(fitted().predict(queries[:count]), count)

    def known_genera() -> None:
        strange = sorted(set(map(str, decided().genus)) - set(GENERA))
        require(not strange, f"genus {', '.join(strange)} is none of the reference set")

    def p_values() -> None:
        everything = [decided().p_value, fitted().predict(outliers).p_value]
        values = np.concatenate(everything)
        require(bool(((values >= 0) & (values <= 1)).all()), "a p_value is not between 0 and 1")

    def neighbours() -> None:
        decisions = decided()
        rows, distances = decisions.neighbours, decisions.neighbour_distances
        require(bool(((rows >= 0) & (rows < len(references))).all()), "a neighbour is no row of the reference set")
        require(bool((np.diff(distances, axis=1) >= 0).all()), "neighbours are not nearest first")

    def accepts() -> None:
        accepted = decided().accepted
        share = float(accepted.mean())
        require(share >= 0.5, f"of objects like the references only {share:.0%} are accepted at alpha {ALPHA}")
        right = float((decided().genus[accepted] == truth[accepted]).mean())
        require(right >= 0.9, f"of well separated genera only {right:.0%} are told right")

    def abstains() -> None:
        share = float(fitted().predict(outliers).accepted.mean())
        require(share <= 0.2, f"{share:.0%} of objects far from every reference are given a genus: a head must abstain")

    def alpha() -> None:
        strict = fit(make(), 0.3).predict(queries).accepted
        require(
            bool((decided().accepted | ~strict).all()), "a larger alpha accepts an object that a smaller one does not"
        )

    def order() -> None:
        single = [fitted().predict(query[None]) for query in queries]
        for name in ("genus", "accepted"):
            alone = np.concatenate([getattr(decisions, name) for decisions in single])
            require(bool((alone == getattr(decided(), name)).all()), f"{name} depends on the objects beside it")

    def determinism() -> None:
        again = fit(make()).predict(queries)
        for name in ("genus", "accepted", "p_value"):
            require(
                bool((getattr(again, name) == getattr(decided(), name)).all()), f"fitted anew, {name} comes out another"
            )

    return {
        "attributes": attributes,
        "fields": fields,
        "known genera": known_genera,
        "p-values": p_values,
        "neighbours": neighbours,
        "accepts": accepts,
        "abstains": abstains,
        "alpha": alpha,
        "order": order,
        "determinism": determinism,
    }


def _clusters(count: int, seed: int) -> tuple[Float32Array, StrArray]:
    centres = np.random.default_rng(0).normal(0, 10, (len(GENERA), 16))
    rng = np.random.default_rng(seed)
    points = centres[:, None] + rng.normal(0, 1, (len(GENERA), count, 16))
    return points.reshape(-1, 16).astype(np.float32), np.repeat(np.array(GENERA), count)


def _decision_fields(decisions: Decisions, count: int) -> None:
    for name, kinds, ndim in (
        ("genus", "U", 1),
        ("accepted", "b", 1),
        ("p_value", "f", 1),
        ("distance", "f", 1),
        ("neighbours", "i", 2),
        ("neighbour_distances", "f", 2),
    ):
        value = getattr(decisions, name, None)
        require(isinstance(value, np.ndarray), f"{name} is {type(value).__name__}, not an array")
        array: npt.NDArray[Any] = np.asarray(value)
        require(array.ndim == ndim and len(array) == count, f"{count} objects gave {name} of shape {array.shape}")
        require(array.dtype.kind in kinds, f"{name} has dtype {array.dtype}")
        if array.dtype.kind == "f":
            require(bool(np.isfinite(array).all()), f"{name} is not finite")
