"""Normalise embeddings: rows of unit length, if wanted of signed square roots.

Both the embedding stage and the heads need these functions. They work in float64 and depend on nothing but their arguments.
"""

import numpy as np

from slidepipe.interfaces import Float32Array, FloatArray

_SMALLEST_LENGTH = 1e-12


def unit_rows(rows: FloatArray) -> FloatArray:
    """Scale each row to Euclidean length 1. A row of zeros stays zero.

    Args:
        rows: float64 (N, D).

    Returns:
        float64 (N, D).
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = rows / np.maximum(lengths, _SMALLEST_LENGTH)
    return scaled


def has_negative(embeddings: Float32Array | FloatArray) -> bool:
    """Return whether any value is below 0.

    A network that ends in a ReLU gives no negative values; a transformer does.

    Args:
        embeddings: float32 or float64 (N, D).
    """
    return bool(np.any(np.less(embeddings, 0.0)))


def normalised(embeddings: Float32Array | FloatArray, root: bool) -> FloatArray:
    """Return rows of unit length, after a signed square root of each value if `root` is set.

    The square root keeps a few strong activations from dominating the distance (power normalisation, Perronnin et al. 2010).
    It helps embeddings that are never negative and harms embeddings that are centred already (`design/heads.md`).

    Args:
        embeddings: float32 or float64 (N, D).
        root: take the signed square root of each value first.

    Returns:
        float64 (N, D).
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    return unit_rows(np.sign(rows) * np.sqrt(np.abs(rows)) if root else rows)
