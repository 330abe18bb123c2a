"""Distances between embeddings, and a metric learned from the reference set (shrinkage LDA).

Every function works in float64 and depends on nothing but its arguments.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import Float32Array, FloatArray, IntArray

_TINY = 1e-12

_RIDGE = 0.1
"""How little the regression of :func:`kernel_ridge` trusts a single reference."""


def unit_rows(rows: FloatArray) -> FloatArray:
    """Scale each row of float64 (N, D) to Euclidean length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = rows / np.maximum(lengths, _TINY)
    return scaled


def has_negative(embeddings: Float32Array | FloatArray) -> bool:
    """Whether any value is below 0: a network that ends in a ReLU gives none, a transformer does."""
    return bool(np.any(np.less(embeddings, 0.0)))


def normalised(embeddings: Float32Array | FloatArray, root: bool) -> FloatArray:
    """Rows of unit length, float64 (N, D), of signed square roots when ``root`` is set.

    The square root keeps a few strong activations from drowning the rest (Perronnin et al. 2010, power normalisation). It
    serves features that are never negative; features that are centred already lose by it (design/heads.md).
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    return unit_rows(np.sign(rows) * np.sqrt(np.abs(rows)) if root else rows)


def distances(queries: FloatArray, references: FloatArray) -> FloatArray:
    """Euclidean distances between the rows of (N, D) and (M, D): float64 (N, M)."""
    squared = (queries**2).sum(1)[:, None] + (references**2).sum(1)[None, :] - 2.0 * (queries @ references.T)
    lengths: FloatArray = np.sqrt(np.maximum(squared, 0.0))
    return lengths


def class_distances(to_references: FloatArray, labels: IntArray, classes: int, nearest: int) -> FloatArray:
    """Mean distance to the ``nearest`` closest references of each class.

    Args:
        to_references: float64 (N, M), distances to every reference.
        labels: int64 (M,), class of each reference, 0 to ``classes`` - 1.
        classes: number of classes; one without references is infinitely far.
        nearest: how many references are averaged (all of a class that has fewer).

    Returns:
        float64 (N, classes).
    """
    table = np.full((len(to_references), classes), np.inf)
    for label in range(classes):
        own = to_references[:, labels == label]
        count = min(nearest, own.shape[1])
        if count == 1:
            table[:, label] = own.min(axis=1)
        elif count > 1:
            table[:, label] = np.partition(own, count - 1, axis=1)[:, :count].mean(axis=1)
    return table


@dataclass(frozen=True)
class Projection:
    """A linear map into the space where the genera lie apart.

    Attributes:
        origin: float64 (D,), mean of the class means.
        axes: float64 (D, C - 1), maps a centred row to the learned space.
    """

    origin: FloatArray
    axes: FloatArray

    def __call__(self, rows: FloatArray) -> FloatArray:
        """Project float64 (N, D) and scale to unit length: float64 (N, C - 1)."""
        return unit_rows((rows - self.origin) @ self.axes)


@dataclass(frozen=True)
class Membership:
    """How much an object belongs to each class, by a regression on its likeness to the references (see :func:`kernel_ridge`).

    Attributes:
        width: squared distance at which likeness has fallen to 1/e.
        weights: float64 (M, C).
    """

    width: float
    weights: FloatArray

    def __call__(self, to_references: FloatArray) -> FloatArray:
        """From distances to the references, float64 (N, M), to float64 (N, C): near 1 well within a class, 0 far from it."""
        belongs: FloatArray = np.exp(-(to_references**2) / self.width) @ self.weights
        return belongs


def kernel_ridge(rows: FloatArray, labels: IntArray, classes: int) -> Membership:
    """Learn :class:`Membership` from labelled rows: kernel ridge regression onto the indicators of the classes.

    weights = (K + 0.1 B)^-1 Y with K = exp(-d^2 / median d^2), Y the indicators, and B diagonal: the size of a row's class
    over the mean size, so that classes weigh alike (Hastie, Tibshirani, Friedman 2009, The Elements of Statistical Learning,
    sections 5.8 and 12.3). Time grows with the cube of M.

    Args:
        rows: float64 (M, D).
        labels: int64 (M,), 0 to ``classes`` - 1; a class may be absent.
        classes: C.
    """
    squared = distances(rows, rows) ** 2
    width = float(np.median(squared)) or 1.0
    sizes = np.bincount(labels, minlength=classes)[labels].astype(np.float64)
    balance = _RIDGE * sizes * np.mean(1.0 / sizes)
    kernel = np.exp(-squared / width) + np.diag(balance)
    indicators = (labels[:, None] == np.arange(classes)).astype(np.float64)
    return Membership(width, np.linalg.solve(kernel, indicators))


def shrinkage_lda(rows: FloatArray, labels: IntArray, shrinkage: float) -> Projection:
    """Learn a projection from labelled rows: linear discriminant analysis with a shrunk within-class scatter.

    S = (1 - shrinkage) W + shrinkage (trace W / D) I is whitened, and the axes along which the class means then differ are
    kept (Friedman 1989, Regularized discriminant analysis). The scatter's eigenvectors are found in the smaller of D and M
    dimensions.

    Args:
        rows: float64 (M, D).
        labels: int64 (M,), at least two distinct values.
        shrinkage: above 0, at most 1.

    Raises:
        ValueError: fewer than two classes.
    """
    present, labels = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise ValueError("a discriminant needs at least two classes")
    count, dim = rows.shape
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(len(present))])
    origin = means.mean(axis=0)
    residuals = (rows - means[labels]) / np.sqrt(count)
    variances, basis = _scatter_axes(residuals)
    # Rows that do not vary within their class leave nothing to whiten; any positive floor then gives the same projection.
    floor = shrinkage * (variances.sum() / dim) or 1.0
    inside = 1.0 / np.sqrt((1.0 - shrinkage) * variances + floor)
    outside = 1.0 / np.sqrt(floor)

    def whiten(values: FloatArray) -> FloatArray:
        whitened: FloatArray = values * outside + ((values @ basis) * (inside - outside)) @ basis.T
        return whitened

    _, singular, axes = np.linalg.svd(whiten(means - origin), full_matrices=False)
    kept = singular > singular[0] * 1e-9 if singular[0] > 0 else np.zeros(len(singular), dtype=bool)
    kept[len(present) - 1 :] = False
    return Projection(origin, whiten(axes[kept]).T)


def _scatter_axes(residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues (R,) and eigenvectors (D, R) of residuals.T @ residuals, without its null space."""
    count, dim = residuals.shape
    small: npt.NDArray[np.float64] = residuals @ residuals.T if count < dim else residuals.T @ residuals
    values, vectors = np.linalg.eigh(small)
    kept = values > max(float(values[-1]), 0.0) * 1e-10
    values, vectors = values[kept], vectors[:, kept]
    if count < dim:
        vectors = residuals.T @ vectors / np.sqrt(values)
    return values, vectors
