"""Distances between embeddings, and a metric learned from the reference set (shrinkage LDA).

Every function works in float64 and depends on nothing but its arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidepipe.embedding.normalise import unit_rows
from slidepipe.interfaces import Float32Array, FloatArray, IntArray

_RIDGE = 0.1
"""Regularisation of `kernel_ridge`: the larger, the less a single reference counts."""

_CHUNK_CELLS = 4_000_000
"""Largest number of distances, or of values of embeddings, held in memory at a time: about 100 MB for a prediction."""


def distances(queries: FloatArray, references: FloatArray) -> FloatArray:
    """Return the Euclidean distances between the rows of (N, D) and (M, D): float64 (N, M)."""
    squared = (queries**2).sum(1)[:, None] + (references**2).sum(1)[None, :] - 2.0 * (queries @ references.T)
    lengths: FloatArray = np.sqrt(np.maximum(squared, 0.0))
    return lengths


def row_chunks(embeddings: Float32Array, references: int) -> Iterator[slice]:
    """Yield slices of the rows of (N, D), so that the distances of a slice to all references fit into memory.

    Args:
        embeddings: float32 (N, D).
        references: number of references.
    """
    rows, columns = len(embeddings), max(references, embeddings.shape[1])
    step = max(1, _CHUNK_CELLS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def nearest_references(to_references: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Return the `k` nearest references of each object, nearest first; equal distances in the order of the references.

    Args:
        to_references: float64 (N, M), distances to every reference.
        k: number of neighbours, at most M.

    Returns:
        Rows of the reference set, int64 (N, k), and their distances, float64 (N, k).
    """
    if k < to_references.shape[1]:
        columns = np.sort(np.argpartition(to_references, k - 1, axis=1)[:, :k], axis=1)
    else:
        columns = np.broadcast_to(np.arange(to_references.shape[1]), to_references.shape).copy()
    found = np.take_along_axis(to_references, columns, axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64), np.take_along_axis(found, order, axis=1)


def class_distances(to_references: FloatArray, labels: IntArray, classes: int, nearest: int) -> FloatArray:
    """Return the mean distance of each object to the `nearest` closest references of each class.

    Args:
        to_references: float64 (N, M), distances to every reference.
        labels: int64 (M,), class of each reference, 0 to `classes` - 1.
        classes: number of classes; the distance to a class without references is infinite.
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
    """A linear map into the space in which the genera are separated best (`shrinkage_lda`).

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
    """A regression from the similarity to the references onto the classes (`kernel_ridge`).

    Attributes:
        width: squared distance at which the similarity has fallen to 1/e.
        weights: float64 (M, C).
    """

    width: float
    weights: FloatArray

    def __call__(self, to_references: FloatArray) -> FloatArray:
        """Map distances to the references, float64 (N, M), to float64 (N, C): about 1 inside a class, about 0 far from it."""
        belongs: FloatArray = np.exp(-(to_references**2) / self.width) @ self.weights
        return belongs


def kernel_ridge(rows: FloatArray, labels: IntArray, classes: int) -> Membership:
    """Learn a `Membership` by kernel ridge regression onto the class indicators.

    weights = (K + 0.1 B)^-1 Y with K = exp(-d^2 / median d^2), Y the indicators, and B diagonal: the size of a row's class
    relative to the mean size, so that all classes have the same weight (Hastie, Tibshirani, Friedman 2009, The Elements of
    Statistical Learning, sections 5.8 and 12.3). The time grows with the cube of M.

    Args:
        rows: float64 (M, D).
        labels: int64 (M,), 0 to `classes` - 1; a class may be absent.
        classes: number of classes C.
    """
    squared = distances(rows, rows) ** 2
    width = float(np.median(squared)) or 1.0
    sizes = np.bincount(labels, minlength=classes)[labels].astype(np.float64)
    balance = _RIDGE * sizes * np.mean(1.0 / sizes)
    kernel = np.exp(-squared / width) + np.diag(balance)
    indicators = (labels[:, None] == np.arange(classes)).astype(np.float64)
    return Membership(width, np.linalg.solve(kernel, indicators))


def shrinkage_lda(rows: FloatArray, labels: IntArray, shrinkage: float) -> Projection:
    """Learn a `Projection` by linear discriminant analysis with a shrunk within-class scatter.

    The scatter S = (1 - shrinkage) W + shrinkage (trace W / D) I is whitened, and the axes along which the class means then
    differ are kept (Friedman 1989, Regularized discriminant analysis). The eigenvectors of the scatter are computed in the
    smaller of D and M dimensions.

    Args:
        rows: float64 (M, D).
        labels: int64 (M,), at least two distinct values.
        shrinkage: above 0, at most 1.

    Raises:
        ValueError: fewer than two classes.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a discriminant needs at least two classes")
    count, dim = rows.shape
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(len(classes))])
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
    kept[len(classes) - 1 :] = False
    return Projection(origin, whiten(axes[kept]).T)


def _scatter_axes(residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalues (R,) and eigenvectors (D, R) of residuals.T @ residuals, without its null space."""
    count, dim = residuals.shape
    small: npt.NDArray[np.float64] = residuals @ residuals.T if count < dim else residuals.T @ residuals
    values, vectors = np.linalg.eigh(small)
    kept = values > max(float(values[-1]), 0.0) * 1e-10
    values, vectors = values[kept], vectors[:, kept]
    if count < dim:
        vectors = residuals.T @ vectors / np.sqrt(values)
    return values, vectors
