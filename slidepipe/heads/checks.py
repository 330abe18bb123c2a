"""Check the arrays that a head receives."""

import numpy as np

from slidepipe.errors import ReferenceSetError
from slidepipe.heads.conformal import check_alpha
from slidepipe.interfaces import Float32Array, IntArray, StrArray


def check_embeddings(embeddings: Float32Array, dim: int | None = None) -> Float32Array:
    """Return the embeddings if they have the right shape and are finite.

    Args:
        embeddings: float32 (N, D).
        dim: the D that they must have; None accepts any.

    Raises:
        ReferenceSetError: the shape is another, or a value is NaN or infinite.
    """
    if embeddings.ndim != 2 or (dim is not None and embeddings.shape[1] != dim):
        wanted = "(N, D)" if dim is None else f"(N, {dim})"
        raise ReferenceSetError(
            f"embeddings: the shape is {embeddings.shape}, not {wanted}; use the backbone of the reference set"
        )
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ReferenceSetError(
            f"embeddings: {len(bad)} of {len(embeddings)} rows are not finite (first: row {bad[0]}); "
            "check the backbone and its weights"
        )
    return embeddings


def encode_genera(embeddings: Float32Array, genera: StrArray, alpha: float) -> tuple[StrArray, IntArray]:
    """Check a reference set, and number its classes.

    Args:
        embeddings: float32 (M, D).
        genera: str (M,).
        alpha: largest fraction of the fossils of each genus that may be left unknown.

    Returns:
        The class names in alphabetical order, str (C,), and the class of each row, int64 (M,).

    Raises:
        ReferenceSetError: embeddings are not finite, the lengths differ, or there are too few images.
        SettingsError: `alpha` is smaller than the smallest genus allows.
    """
    check_embeddings(embeddings)
    if len(embeddings) != len(genera):
        raise ReferenceSetError(f"reference set: {len(embeddings)} embeddings but {len(genera)} genera; embed it again")
    check_alpha(alpha, genera)
    names, labels = np.unique(genera, return_inverse=True)
    return names, labels.astype(np.int64)
