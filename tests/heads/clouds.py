"""Made-up embeddings: one cloud of points per genus, and debris."""

import numpy as np

GENERA = ("areoligera", "deflandrea", "spiniferites")


def draw_clouds(
    per_genus: int, seed: int, dim: int = 40, genera: tuple[str, ...] = GENERA
) -> tuple[np.ndarray, np.ndarray]:
    """Draw embeddings around one fixed centre per genus; never negative, like those of a network that ends in a ReLU.

    Returns:
        float32 (len(genera) * per_genus, dim), and the genus of each row.
    """
    centres = np.random.default_rng(99).uniform(0.5, 1.5, (8, dim))
    noise = np.random.default_rng(seed).normal(0, 0.15, (len(genera) * per_genus, dim))
    rows = np.repeat(centres[: len(genera)], per_genus, axis=0) + noise
    return np.maximum(rows, 0).astype(np.float32), np.repeat(np.array(genera), per_genus)


def draw_debris(count: int, seed: int, dim: int = 40) -> np.ndarray:
    """Draw embeddings that belong to no genus, float32 (count, dim)."""
    return (np.random.default_rng(seed).uniform(0, 1, (count, dim)) ** 6 * 3).astype(np.float32)
