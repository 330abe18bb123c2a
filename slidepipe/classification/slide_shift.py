"""Estimate and subtract the shift that a slide (its scanner, stain, focus) gives to the embeddings of all its objects.

The objects of a slide differ from the references of their genera by a common shift. It is estimated from the objects that the
head accepts, subtracted from every object of the slide, and the head decides again (`design/heads.md` lists what this gained).
"""

import numpy as np

from slidepipe.embedding.normalise import has_negative
from slidepipe.interfaces import Decisions, Float32Array, FloatArray, Head, StrArray

_HALF_TRUSTED = 3
"""Number of accepted objects at which a genus gets half of its full weight. It limits the influence of a common genus."""

_NO_SHIFT_WEIGHT = 1.0
"""Weight of "no shift", relative to a genus with many objects: a single genus moves its slide by half of its difference."""


def decide_slide(head: Head, embeddings: Float32Array, references: Float32Array, genera: StrArray) -> Decisions:
    """Return the head's decisions on the objects of one slide, after subtracting the slide's shift.

    Args:
        head: fitted to `references`.
        embeddings: float32 (N, D), all objects of the slide; N may be 0.
        references: float32 (M, D), crop-like embeddings of the references.
        genera: str (M,), genus of each reference.
    """
    first = head.predict(embeddings)
    shift = slide_shift(embeddings, first, references, genera)
    if not shift.any():
        return first
    moved = embeddings - shift
    if not has_negative(references):
        moved = np.maximum(moved, 0.0)  # Heads take square roots of embeddings that are never negative.
    return head.predict(moved.astype(np.float32))


def slide_shift(embeddings: Float32Array, decided: Decisions, references: Float32Array, genera: StrArray) -> FloatArray:
    """Estimate how far the accepted objects lie from the mean references of their genera.

    The shift is sum over g of w(g) d(g) / (1 + sum over g of w(g)), where d(g) is the mean difference of the n(g) accepted
    objects of a genus from its mean reference, and w(g) = n(g) / (n(g) + 3). All common genera have about the same weight, and
    a few accepted objects move a slide only little.

    Args:
        embeddings: float32 (N, D), all objects of the slide.
        decided: the head's decisions on them.
        references: float32 (M, D).
        genera: str (M,), genus of each reference.

    Returns:
        float64 (D,); zeros where no object is accepted.
    """
    total, weights = np.zeros(embeddings.shape[1]), _NO_SHIFT_WEIGHT
    for genus in np.unique(decided.genus[decided.accepted]):
        own = embeddings[decided.accepted & (decided.genus == genus)].astype(np.float64)
        weight = len(own) / (len(own) + _HALF_TRUSTED)
        total += weight * (own.mean(axis=0) - references[genera == genus].astype(np.float64).mean(axis=0))
        weights += weight
    shift: FloatArray = total / weights
    return shift
