"""Bootstrap intervals of the main scores."""

import numpy as np

from slidepipe.benchmark.scores import Scores
from slidepipe.interfaces import FloatArray, IntArray

REPLICATES = 2000


def bootstrap_intervals(labels: IntArray, scores: Scores, seed: int = 0) -> dict[str, list[float]]:
    """Return 95 % bootstrap intervals of nn f1 and p@n_k over images.

    Images are drawn with replacement. A draw changes the weights of the query images only (test rows and retrieval
    queries). Training rows and retrieved images stay as they are, because a copy of an image among its own neighbours
    would count as found. So an interval is the spread over other images of the same well and labels, not over other
    wells.

    The percentiles are taken relative to the mean of the draws and added to the score. The reason: a split tests only a
    few images of each genus, and drawing some of them twice and others not at all lowers macro F1, so the draws are
    below the score on average.

    Args:
        labels: int64 (N,), 0 to C - 1.
        scores: the scores.
        seed: seed of the draws.

    Returns:
        Low and high end, by `nn_f1` and `p_at_nr`.
    """
    count, classes = len(labels), int(labels.max()) + 1
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), REPLICATES).astype(np.float64)
    total = np.zeros(REPLICATES)
    for split, predicted in zip(scores.splits, scores.predictions, strict=True):
        true, of_test = labels[split.test], weights[:, split.test]
        hit = np.eye(classes)[true] * (true == predicted)[:, None]
        right = of_test @ hit
        both = of_test @ (np.eye(classes)[true] + np.eye(classes)[predicted])
        f1 = np.divide(2 * right, both, out=np.full(both.shape, np.nan), where=both > 0)
        total += np.nanmean(np.where(np.isnan(f1).all(axis=1)[:, None], 0.0, f1), axis=1)
    at_nk = weights @ scores.precision_at_nk / weights.sum(axis=1)
    return {
        "nn_f1": _interval(total / len(scores.splits), scores.summary["nn_f1"]),
        "p_at_nr": _interval(at_nk, scores.summary["p_at_nr"]),
    }


def _interval(draws: FloatArray, score: float) -> list[float]:
    low, high = np.percentile(draws - draws.mean(), [2.5, 97.5]) + score
    return [max(0.0, float(low)), min(1.0, float(high))]
