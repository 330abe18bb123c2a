"""Beyond the published scores: intervals, what the abstaining head does with genera it never saw, and negative controls."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slidepipe import plugins
from slidepipe.benchmark.scores import (
    Scores,
    Split,
    confusion_matrix,
    knn_scores,
    macro_f1,
    retrieval_scores,
)
from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.errors import SlidepipeError
from slidepipe.interfaces import BoolArray, Decisions, Float32Array, FloatArray, Head, IntArray, UInt8Array
from slidepipe.pipeline.specs import PluginSpec

REPLICATES = 2000
SHUFFLES = 5
#: Alphas at which coverage, precision and the share of missed fossils are told.
ALPHAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_THUMBNAIL_SIDE = 16


def bootstrap_intervals(labels: IntArray, scores: Scores, seed: int = 0) -> dict[str, list[float]]:
    """95 % bootstrap intervals of nn f1 and p@n_k over images.

    Images are drawn with replacement. A draw weighs the images that are asked about (test rows,
    queries); the training rows and the retrieved images stay as they are, since a copy of an image among its own neighbours
    would count as found. So this is the spread over other images of the same well and labels, not over other wells.

    The percentiles are laid around the score by their distance from the mean of the draws: macro F1 of the few images of a
    genus that one split tests falls whenever some of them are drawn twice and others not, so the draws lie below the score.
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


def head_scores(
    images: ReferenceSet,
    labels: IntArray,
    names: Sequence[str],
    splits: Sequence[Split],
    head: PluginSpec,
    alpha: float,
) -> dict[str, Any]:
    """What the head does with images held out of its reference set, and with genera held out of it.

    What is held out is asked about as it is; references are known as crops, too.

    Returns:
        ``held_out``: coverage (accepted share), precision of what is accepted, accuracy and macro F1 where it must answer, macro
        F1 where it may abstain, each over all test rows of the splits. ``leave_one_genus_out``: for each genus, the share
        absorbed when the reference set lacks it, and by which genera. ``curve``: at each alpha, coverage and precision of
        known genera, share of hidden genera absorbed, precision with the hidden genera among them. ``reliability``: at each
        alpha the share of known fossils with a p-value of at most alpha, which should not be above alpha.
    """
    embeddings = images.embeddings
    known: list[tuple[IntArray, Decisions]] = []
    for split in splits:
        fitted = _fit(head, images.rows(split.train), alpha)
        known.append((split.test, fitted.predict(embeddings[split.test])))
    hidden: list[tuple[str, Decisions]] = []
    if len(names) > 2:  # with one genus left there is nothing to decide
        for index, name in enumerate(names):
            without = labels != index
            fitted = _fit(head, images.rows(without), alpha)
            hidden.append((name, fitted.predict(embeddings[~without])))
    true = np.concatenate([labels[rows] for rows, _ in known])
    said = np.concatenate([_index(decisions.genus, names) for _, decisions in known])
    accepted = np.concatenate([decisions.accepted for _, decisions in known])
    p_value = np.concatenate([decisions.p_value for _, decisions in known])
    absorbed = np.concatenate([decisions.accepted for _, decisions in hidden]) if hidden else np.zeros(0, bool)
    hidden_p = np.concatenate([decisions.p_value for _, decisions in hidden]) if hidden else np.zeros(0)
    classes = len(names)
    # An unknown is a class of its own that is nobody's: it lowers the recall of its genus and no precision.
    abstaining = confusion_matrix(true, np.where(accepted, said, classes), classes + 1)
    return {
        "alpha": alpha,
        "held_out": {
            "coverage": float(accepted.mean()),
            "precision": _share(said == true, accepted),
            "accuracy_forced": float((said == true).mean()),
            "macro_f1_forced": macro_f1(confusion_matrix(true, said, classes)),
            "macro_f1_abstaining": float(np.mean(_f1_of_genera(abstaining, classes))),
        },
        "leave_one_genus_out": {
            "absorbed": float(absorbed.mean()) if len(absorbed) else None,
            "genera": {name: _absorbers(decisions) for name, decisions in hidden},
        },
        "curve": [_point(level, said == true, p_value, hidden_p) for level in ALPHAS],
        "reliability": [
            {"alpha": level, "share": float((p_value <= level).mean()), "count": len(p_value)} for level in ALPHAS
        ],
    }


def shuffled_labels_control(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> dict[str, Any]:
    """nn f1 and p@n_k with the labels dealt out at random: what chance alone gives, and how far it varies."""
    rng = np.random.default_rng(0)
    f1s, at_nks = [], []
    for _ in range(SHUFFLES):
        dealt = rng.permutation(labels)
        knn, _predictions = knn_scores(embeddings, dealt, splits, int(labels.max()) + 1, counts=(1,))
        f1s.append(knn["1"]["f1_score"]["mean"])
        at_nks.append(retrieval_scores(embeddings, dealt)[0]["precision"]["k"])
    return {
        "nn_f1": float(np.mean(f1s)),
        "p_at_nr": float(np.mean(at_nks)),
        "nn_f1_spread": float(np.std(f1s, ddof=1)),
        "p_at_nr_spread": float(np.std(at_nks, ddof=1)),
        "shuffles": SHUFFLES,
    }


def plain_control(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> dict[str, Any]:
    """nn f1 and p@n_k of embeddings that a backbone must beat: raw pixels, or its own network with random weights."""
    knn, _ = knn_scores(embeddings, labels, splits, int(labels.max()) + 1, counts=(1,))
    return {
        "nn_f1": knn["1"]["f1_score"]["mean"],
        "p_at_nr": retrieval_scores(embeddings, labels)[0]["precision"]["k"],
    }


def raw_pixels(thumbnails: UInt8Array) -> Float32Array:
    """float32 (N, 768): each image as 16 x 16 coloured pixels, which no network has seen."""
    count, side = len(thumbnails), thumbnails.shape[1] // _THUMBNAIL_SIDE
    cells = thumbnails.reshape(count, _THUMBNAIL_SIDE, side, _THUMBNAIL_SIDE, side, 3)
    return np.asarray(cells.mean(axis=(2, 4)).reshape(count, -1), np.float32)


def at_chance(nn_f1: float, control: dict[str, Any]) -> bool:
    """Whether nn f1 is what shuffled labels give, within three of their standard deviations and 0.03 at least."""
    return nn_f1 <= float(control["nn_f1"]) + max(0.03, 3 * float(control["nn_f1_spread"]))


def head_scores_or_reason(*arguments: Any) -> dict[str, Any]:
    """:func:`head_scores`, or ``{"error": reason}`` where the head cannot be fitted to a part of these images."""
    try:
        return head_scores(*arguments)
    except SlidepipeError as error:
        return {"error": str(error)}


def _fit(head: PluginSpec, reference: ReferenceSet, alpha: float) -> Head:
    return fit_head(plugins.create("head", head.name, json.loads(head.settings)), reference, alpha)


def _index(genera: npt.NDArray[np.str_], names: Sequence[str]) -> IntArray:
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[str(genus)] for genus in genera], np.int64)


def _absorbers(decisions: Decisions) -> dict[str, Any]:
    into, counts = np.unique(decisions.genus[decisions.accepted], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        "images": len(decisions.accepted),
        "absorbed": float(decisions.accepted.mean()),
        "into": {str(into[place]): int(counts[place]) for place in order},
    }


def _point(alpha: float, right: BoolArray, p_value: FloatArray, hidden_p: FloatArray) -> dict[str, Any]:
    kept, strangers = p_value > alpha, hidden_p > alpha
    # Known fossils are asked about once a split; they weigh as much as the hidden ones do, which are asked about once.
    share = len(hidden_p) / len(p_value)
    answers = kept.sum() * share + strangers.sum()
    return {
        "alpha": alpha,
        "coverage": float(kept.mean()),
        "precision": _share(right, kept),
        "absorbed": float(strangers.mean()) if len(strangers) else None,
        "precision_half_hidden": float((right & kept).sum() * share / answers) if len(strangers) and answers else None,
    }


def _f1_of_genera(matrix: IntArray, classes: int) -> FloatArray:
    hits = np.diag(matrix)[:classes].astype(np.float64)
    both = matrix[:classes].sum(axis=1) + matrix[:, :classes].sum(axis=0)[:classes]
    there = both > 0
    f1: FloatArray = 2 * hits[there] / both[there]
    return f1


def _share(right: BoolArray, among: BoolArray) -> float | None:
    return float(right[among].mean()) if among.any() else None


def _interval(draws: FloatArray, score: float) -> list[float]:
    low, high = np.percentile(draws - draws.mean(), [2.5, 97.5]) + score
    return [max(0.0, float(low)), min(1.0, float(high))]
