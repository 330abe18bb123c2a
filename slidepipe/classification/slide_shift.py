"""What a slide does to all its objects alike (its scanner, stain, focus), found and taken out of their embeddings.

The objects of a slide differ from the references of their genera all in one direction. Those that a head accepts show which:
the mean of their differences is subtracted from every object of the slide, and the head decides again (design/heads.md has what
that gained).
"""

import numpy as np

from slidepipe.heads.metric import has_negative
from slidepipe.interfaces import Decisions, Float32Array, FloatArray, Head, StrArray

_HALF_TRUSTED = 3
"""So many objects of a genus tell half of what the genus can tell: a common genus must not speak for all."""

_DOUBT = 1.0
"""The weight of "no shift" against one genus of many objects: a single genus moves its slide by half of its difference."""


def decide_slide(head: Head, embeddings: Float32Array, references: Float32Array, genera: StrArray) -> Decisions:
    """The head's decisions on the objects of one slide, once the slide's shift is taken out.

    Args:
        head: fitted to ``references``.
        embeddings: float32 (N, D), all objects of the slide; N may be 0.
        references: float32 (M, D).
        genera: str (M,).
    """
    first = head.predict(embeddings)
    shift = slide_shift(embeddings, first, references, genera)
    if not shift.any():
        return first
    moved = embeddings - shift
    if not has_negative(references):
        moved = np.maximum(moved, 0.0)  # as a ReLU's: heads take roots of such values
    return head.predict(moved.astype(np.float32))


def slide_shift(embeddings: Float32Array, decided: Decisions, references: Float32Array, genera: StrArray) -> FloatArray:
    """How far the accepted objects lie from the mean references of their genera, on average: float64 (D,), zeros for none.

    sum over g of w(g) d(g) / (1 + sum over g of w(g)), where d(g) is the mean difference of the n(g) accepted objects of a
    genus and w(g) = n(g) / (n(g) + 3): genera count alike, and few of them move a slide little.
    """
    total, weights = np.zeros(embeddings.shape[1]), _DOUBT
    for genus in np.unique(decided.genus[decided.accepted]):
        own = embeddings[decided.accepted & (decided.genus == genus)].astype(np.float64)
        weight = len(own) / (len(own) + _HALF_TRUSTED)
        total += weight * (own.mean(axis=0) - references[genera == genus].astype(np.float64).mean(axis=0))
        weights += weight
    shift: FloatArray = total / weights
    return shift
