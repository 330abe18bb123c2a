"""Negative controls: what shuffled labels, raw pixels and random weights score. A useful backbone must score more."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slidepipe.benchmark.scores import Split, knn_scores, retrieval_scores
from slidepipe.interfaces import Float32Array, IntArray, UInt8Array

SHUFFLES = 5
_CELLS = 16


def shuffled_labels_control(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> dict[str, Any]:
    """Return nn f1 and p@n_k with shuffled labels: the chance level, and how much it varies.

    Args:
        embeddings: float32 (N, D).
        labels: int64 (N,), 0 to C - 1.
        splits: the splits of the evaluation.

    Returns:
        Mean and standard deviation over `SHUFFLES` shuffles.
    """
    rng = np.random.default_rng(0)
    f1s, at_nks = [], []
    for _ in range(SHUFFLES):
        shuffled = rng.permutation(labels)
        knn, _predictions = knn_scores(embeddings, shuffled, splits, int(labels.max()) + 1, counts=(1,))
        f1s.append(knn["1"]["f1_score"]["mean"])
        at_nks.append(retrieval_scores(embeddings, shuffled)[0]["precision"]["k"])
    return {
        "nn_f1": float(np.mean(f1s)),
        "p_at_nr": float(np.mean(at_nks)),
        "nn_f1_spread": float(np.std(f1s, ddof=1)),
        "p_at_nr_spread": float(np.std(at_nks, ddof=1)),
        "shuffles": SHUFFLES,
    }


def plain_control(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> dict[str, Any]:
    """Return nn f1 and p@n_k of embeddings that a backbone must beat: raw pixels, or its network with random weights.

    Args:
        embeddings: float32 (N, D).
        labels: int64 (N,), 0 to C - 1.
        splits: the splits of the evaluation.
    """
    knn, _ = knn_scores(embeddings, labels, splits, int(labels.max()) + 1, counts=(1,))
    return {
        "nn_f1": knn["1"]["f1_score"]["mean"],
        "p_at_nr": retrieval_scores(embeddings, labels)[0]["precision"]["k"],
    }


def raw_pixels(thumbnails: UInt8Array) -> Float32Array:
    """Return each image as 16 x 16 RGB pixels.

    Args:
        thumbnails: uint8 (N, S, S, 3); S is a multiple of 16.

    Returns:
        float32 (N, 768), the mean of each cell, 0 to 255.
    """
    count, side = len(thumbnails), thumbnails.shape[1] // _CELLS
    cells = thumbnails.reshape(count, _CELLS, side, _CELLS, side, 3)
    return np.asarray(cells.mean(axis=(2, 4)).reshape(count, -1), np.float32)


def at_chance(nn_f1: float, control: dict[str, Any]) -> bool:
    """Return whether nn f1 is at chance level: within three standard deviations of it, and at least within 0.03.

    Args:
        nn_f1: the score of a backbone.
        control: from `shuffled_labels_control`.
    """
    return nn_f1 <= float(control["nn_f1"]) + max(0.03, 3 * float(control["nn_f1_spread"]))
