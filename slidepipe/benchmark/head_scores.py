"""What the head does with fossils of known genera, and with genera that its reference set lacks."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slidepipe import plugins
from slidepipe.benchmark.scores import Split, confusion_matrix, macro_f1
from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.errors import SlidepipeError
from slidepipe.interfaces import BoolArray, Decisions, FloatArray, Head, IntArray
from slidepipe.pipeline.specs import PluginSpec

#: The values of alpha at which coverage, precision and the fraction of missed fossils are computed.
ALPHAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def head_scores(
    images: ReferenceSet,
    labels: IntArray,
    names: Sequence[str],
    splits: Sequence[Split],
    head: PluginSpec,
    alpha: float,
) -> dict[str, Any]:
    """Score a head on images that are not in its reference set, and on genera that are not in it.

    The result has these keys:

    - `held_out`: over all test rows of the splits, the coverage (accepted fraction), the precision of what is accepted,
      accuracy and macro F1 if the head must answer, and macro F1 if it may answer "unknown".
    - `leave_one_genus_out`: the fraction of images that is assigned to another genus ("absorbed") when the reference set
      lacks their own genus; in total, and for each genus with the genera that it is assigned to.
    - `curve`: for each alpha, coverage and precision for known genera, the absorbed fraction of hidden genera, and the
      precision if half of the images are of hidden genera.
    - `reliability`: for each alpha, the fraction of known fossils whose p-value is at most alpha. It should be at most
      alpha.

    Args:
        images: the embedded images, N rows.
        labels: int64 (N,), index into `names`.
        names: the genera.
        splits: the splits of the evaluation.
        head: the head.
        alpha: largest fraction of a genus's fossils that may be left unknown.

    Returns:
        The scores, as in `metrics.json`.

    Raises:
        SlidepipeError: the head cannot be fitted to a part of the images.
    """
    known, hidden = _predict_known(images, splits, head, alpha), _predict_hidden(images, labels, names, head, alpha)
    true = np.concatenate([labels[rows] for rows, _ in known])
    predicted = np.concatenate([_index(decisions.genus, names) for _, decisions in known])
    accepted = np.concatenate([decisions.accepted for _, decisions in known])
    p_value = np.concatenate([decisions.p_value for _, decisions in known])
    absorbed = np.concatenate([decisions.accepted for _, decisions in hidden]) if hidden else np.zeros(0, bool)
    hidden_p = np.concatenate([decisions.p_value for _, decisions in hidden]) if hidden else np.zeros(0)
    classes = len(names)
    # "Unknown" is one more class, which no image belongs to: it lowers the recall of a genus but no precision.
    abstaining = confusion_matrix(true, np.where(accepted, predicted, classes), classes + 1)
    right = predicted == true
    return {
        "alpha": alpha,
        "held_out": {
            "coverage": float(accepted.mean()),
            "precision": _fraction(right, accepted),
            "accuracy_forced": float(right.mean()),
            "macro_f1_forced": macro_f1(confusion_matrix(true, predicted, classes)),
            "macro_f1_abstaining": float(np.mean(_f1_of_genera(abstaining, classes))),
        },
        "leave_one_genus_out": {
            "absorbed": float(absorbed.mean()) if len(absorbed) else None,
            "genera": {name: _absorbers(decisions) for name, decisions in hidden},
        },
        "curve": [_curve_point(level, right, p_value, hidden_p) for level in ALPHAS],
        "reliability": [
            {"alpha": level, "share": float((p_value <= level).mean()), "count": len(p_value)} for level in ALPHAS
        ],
    }


def head_scores_or_error(
    images: ReferenceSet,
    labels: IntArray,
    names: Sequence[str],
    splits: Sequence[Split],
    head: PluginSpec,
    alpha: float,
) -> dict[str, Any]:
    """Return `head_scores`, or `{"error": message}` if the head cannot be fitted to a part of the images."""
    try:
        return head_scores(images, labels, names, splits, head, alpha)
    except SlidepipeError as error:
        return {"error": str(error)}


def _predict_known(
    images: ReferenceSet, splits: Sequence[Split], head: PluginSpec, alpha: float
) -> list[tuple[IntArray, Decisions]]:
    """Return, for each split, the test rows and the head's decisions on them. The head is fitted to the training rows."""
    known = []
    for split in splits:
        fitted = _fit(head, images.rows(split.train), alpha)
        known.append((split.test, fitted.predict(images.embeddings[split.test])))
    return known


def _predict_hidden(
    images: ReferenceSet, labels: IntArray, names: Sequence[str], head: PluginSpec, alpha: float
) -> list[tuple[str, Decisions]]:
    """Return, for each genus, the decisions of a head whose reference set lacks the genus."""
    if len(names) <= 2:  # with one genus left there is nothing to decide
        return []
    hidden = []
    for index, name in enumerate(names):
        others = labels != index
        fitted = _fit(head, images.rows(others), alpha)
        hidden.append((name, fitted.predict(images.embeddings[~others])))
    return hidden


def _fit(head: PluginSpec, reference: ReferenceSet, alpha: float) -> Head:
    return fit_head(plugins.create("head", head.name, json.loads(head.settings)), reference, alpha)


def _index(genera: npt.NDArray[np.str_], names: Sequence[str]) -> IntArray:
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[str(genus)] for genus in genera], np.int64)


def _absorbers(decisions: Decisions) -> dict[str, Any]:
    """Return the fraction of a hidden genus that is accepted, and the genera it is accepted as, the most frequent first."""
    into, counts = np.unique(decisions.genus[decisions.accepted], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        "images": len(decisions.accepted),
        "absorbed": float(decisions.accepted.mean()),
        "into": {str(into[place]): int(counts[place]) for place in order},
    }


def _curve_point(alpha: float, right: BoolArray, p_value: FloatArray, hidden_p: FloatArray) -> dict[str, Any]:
    kept, absorbed = p_value > alpha, hidden_p > alpha
    # A known fossil is tested in several splits, a hidden one only once. The weight makes both count equally.
    weight = len(hidden_p) / len(p_value)
    answers = kept.sum() * weight + absorbed.sum()
    return {
        "alpha": alpha,
        "coverage": float(kept.mean()),
        "precision": _fraction(right, kept),
        "absorbed": float(absorbed.mean()) if len(absorbed) else None,
        "precision_half_hidden": float((right & kept).sum() * weight / answers) if len(absorbed) and answers else None,
    }


def _f1_of_genera(matrix: IntArray, classes: int) -> FloatArray:
    """Return F1 of each genus that occurs; the last row and column of `matrix` are "unknown"."""
    hits = np.diag(matrix)[:classes].astype(np.float64)
    both = matrix[:classes].sum(axis=1) + matrix[:, :classes].sum(axis=0)[:classes]
    occurs = both > 0
    f1: FloatArray = 2 * hits[occurs] / both[occurs]
    return f1


def _fraction(right: BoolArray, among: BoolArray) -> float | None:
    return float(right[among].mean()) if among.any() else None
