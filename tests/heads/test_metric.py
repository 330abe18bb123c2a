"""Distances and the learned metric."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.heads.metric import class_distances, distances, kernel_ridge, shrinkage_lda
from tests.heads.clouds import draw_clouds


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_distances_are_euclidean(seed):
    """The expanded formula agrees with the direct one."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))
    expected = np.sqrt(((left[:, None] - right[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(distances(left, right), expected, atol=1e-7)


def test_class_distances_average_nearest():
    """The nearest references of a class are averaged; a class without references is infinitely far."""
    table = class_distances(np.array([[4.0, 1.0, 2.0, 9.0]]), np.array([0, 0, 0, 2]), 3, 2)
    np.testing.assert_array_equal(table, [[1.5, np.inf, 9.0]])


@pytest.mark.parametrize("shape", [(30, 8), (30, 50)], ids=["tall", "wide"])
def test_lda_agrees_with_formula(shape):
    """The projection gives the same scalar products as the shrunk scatter, computed directly."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    rows = rng.normal(size=shape) + labels[:, None] * rng.normal(size=shape[1])
    projection = shrinkage_lda(rows, labels, 0.3)
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(3)])
    within = (rows - means[labels]).T @ (rows - means[labels]) / len(rows)
    shrunk = 0.7 * within + 0.3 * np.trace(within) / shape[1] * np.eye(shape[1])
    projected = (means - projection.origin) @ projection.axes
    expected = (means - means.mean(axis=0)) @ np.linalg.solve(shrunk, (means - means.mean(axis=0)).T)
    np.testing.assert_allclose(projected @ projected.T, expected, rtol=1e-6, atol=1e-8)


def test_lda_of_rows_that_do_not_vary():
    """Classes of identical rows give finite, separate projections."""
    rows = np.repeat(np.eye(3), 4, axis=0)
    projected = shrinkage_lda(rows, np.repeat(np.arange(3), 4), 0.3)(rows)
    assert np.isfinite(projected).all()
    assert distances(projected, projected)[0, 4] > 1


def test_lda_needs_two_classes():
    """A single class is an error."""
    with pytest.raises(ValueError, match="two classes"):
        shrinkage_lda(np.eye(3), np.zeros(3, dtype=np.int64), 0.3)


def test_kernel_ridge_membership_near_and_far():
    """Membership is about 1 for the own class, 0 far from all references, and 0 for a class without references."""
    embeddings, genera = draw_clouds(20, 0)
    labels = np.unique(genera, return_inverse=True)[1]
    membership = kernel_ridge(embeddings.astype(float), labels, 4)
    belongs = membership(distances(draw_clouds(30, 1)[0].astype(float), embeddings.astype(float)))
    assert belongs.shape == (90, 4)
    np.testing.assert_array_equal(belongs.argmax(axis=1), np.repeat([0, 1, 2], 30))
    np.testing.assert_allclose(belongs.max(axis=1), 1, atol=0.25)
    np.testing.assert_allclose(belongs[:, 3], 0, atol=1e-12)
    assert np.abs(membership(np.full((1, 60), 100.0))).max() < 1e-12


def test_kernel_ridge_agrees_with_formula():
    """The weights are those of the formula in the docstring."""
    rows = np.array([[0.0], [1.0], [3.0]])
    membership = kernel_ridge(rows, np.array([0, 0, 1]), 2)
    width = 1.0  # the median of the squared distances 0 0 0 1 1 4 4 9 9
    kernel = np.exp(-((rows - rows.T) ** 2) / width)
    size = np.array([2, 2, 1]) * np.mean([1 / 2, 1 / 2, 1])
    weights = np.linalg.inv(kernel + 0.1 * np.diag(size)) @ np.array([[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(membership(distances(np.array([[0.5]]), rows)), np.exp(-((rows.T - 0.5) ** 2)) @ weights)
