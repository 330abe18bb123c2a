"""The scores of the published evaluation, from embeddings and labels.

The protocol is that of the SCAMPI benchmark's authors (github.com/equinor/scampi-benchmark), to the digit: Euclidean distance
on embeddings as they are, ten stratified 80/20 splits, retrieval of every image against all others.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, log_loss, pairwise_distances
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from slidepipe.errors import ReferenceSetError
from slidepipe.interfaces import BoolArray, Float32Array, FloatArray, IntArray

SEEDS = range(10)
TEST_SHARE = 0.2
NEIGHBOUR_COUNTS = (1, 3, 5, 7, 9)
#: Retrieval depths beside each image's own n_k, the number of other images of its class.
DEPTHS = (1, *range(10, 200, 10), 500)
_FAR = 1e12  # what an image's distance to itself is raised by, so that it is retrieved last


@dataclass(frozen=True)
class Split:
    """One split into training and test rows; ``name`` is the seed, or the slide that is left out."""

    name: str
    train: IntArray
    test: IntArray


@dataclass(frozen=True)
class Scores:
    """All scores of one set of embeddings.

    Attributes:
        summary: the figures, in the shape that ``metrics.json`` has them.
        splits: the splits that were used.
        predictions: of 1-NN, one int64 array a split, in the order of its test rows.
        precision_at_nk: float64 (N,), of each image's own n_k retrievals.
        retrieved: int64 (N, 10), the nearest other images of each, nearest first.
        confusion: int64 (C, C), of the logistic regression over all splits, true class in rows.
    """

    summary: dict[str, Any]
    splits: tuple[Split, ...]
    predictions: tuple[IntArray, ...]
    precision_at_nk: FloatArray
    retrieved: IntArray
    confusion: IntArray


def stratified_splits(labels: IntArray) -> tuple[Split, ...]:
    """The ten splits of the protocol: scikit-learn's ``train_test_split``, stratified, seeds 0 to 9.

    Raises:
        ReferenceSetError: too few images for each class to be on both sides.
    """
    rows = np.arange(len(labels))
    splits = []
    for seed in SEEDS:
        try:
            train, test = train_test_split(rows, test_size=TEST_SHARE, stratify=labels, random_state=seed)
        except ValueError as error:
            raise ReferenceSetError(
                f"{len(labels)} images of {len(np.unique(labels))} genera are too few for splits of 80 % and 20 %. "
                "Give at least five images a genus"
            ) from error
        splits.append(Split(str(seed), train, test))
    return tuple(splits)


def slide_splits(slides: Sequence[str]) -> tuple[Split, ...]:
    """Leave-one-slide-out: each slide in turn is the test set, all others are the training set."""
    names = np.array(slides)
    return tuple(
        Split(slide, np.flatnonzero(names != slide), np.flatnonzero(names == slide)) for slide in sorted(set(slides))
    )


def evaluate(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> Scores:
    """Every score of the published evaluation.

    Args:
        embeddings: float32 (N, D), in the order of the image folder.
        labels: int64 (N,), 0 to C - 1.
        splits: from :func:`stratified_splits` or :func:`slide_splits`.
    """
    classes = int(labels.max()) + 1
    retrieval, precision_at_nk, retrieved = retrieval_scores(embeddings, labels)
    knn, predictions = knn_scores(embeddings, labels, splits, classes)
    logistic, confusion = logistic_scores(embeddings, labels, splits, classes)
    summary = {
        "nn_f1": knn["1"]["f1_score"]["mean"],
        "p_at_nr": retrieval["precision"]["k"],
        "pr_auc": area_under_curve(retrieval),
        "retrieval": retrieval,
        "knn": knn,
        "logistic": logistic,
        "class_wise_1nn": class_wise(labels, splits, predictions, classes),
    }
    return Scores(summary, tuple(splits), predictions, precision_at_nk, retrieved, confusion)


def retrieval_scores(embeddings: Float32Array, labels: IntArray) -> tuple[dict[str, Any], FloatArray, IntArray]:
    """Each image queries all others, nearest first.

    Returns:
        Mean precision and recall at n_k (key ``k``) and at each of :data:`DEPTHS` that the images allow; precision at n_k
        float64 (N,); the nearest ten int64 (N, <= 10).
    """
    count = len(labels)
    distances = pairwise_distances(embeddings, embeddings)
    distances += np.eye(count) * _FAR
    order = np.argsort(distances, axis=1)
    hits = np.cumsum(labels[order] == labels[:, None], axis=1)
    relevant = np.bincount(labels)[labels] - 1
    precision: dict[str, float] = {}
    recall: dict[str, float] = {}
    at_nk = hits[np.arange(count), relevant - 1] / relevant
    precision["k"] = recall["k"] = float(at_nk.mean())
    for depth in DEPTHS:
        if depth < count:
            found = hits[:, depth - 1]
            precision[str(depth)] = float(np.mean(found / depth))
            recall[str(depth)] = float(np.mean(found / relevant))
    nearest = order[:, : min(10, count - 1)].astype(np.int64)
    return {"precision": precision, "recall": recall}, at_nk, nearest


def curve(retrieval: Mapping[str, Mapping[str, float]]) -> tuple[list[float], list[float]]:
    """Recall and precision of the precision-recall curve, by rising recall, from (0, 1) to (1, 0)."""
    depths = list(retrieval["recall"])
    points = sorted((retrieval["recall"][depth], retrieval["precision"][depth]) for depth in depths)
    return [0.0, *(x for x, _ in points), 1.0], [1.0, *(y for _, y in points), 0.0]


def area_under_curve(retrieval: Mapping[str, Mapping[str, float]]) -> float:
    """Area under :func:`curve`, by the trapezoidal rule."""
    return float(auc(*curve(retrieval)))


def knn_scores(
    embeddings: Float32Array,
    labels: IntArray,
    splits: Sequence[Split],
    classes: int,
    counts: Sequence[int] = NEIGHBOUR_COUNTS,
) -> tuple[dict[str, Any], tuple[IntArray, ...]]:
    """k-NN by majority for each k of ``counts``, and the predictions of 1-NN; a k beyond the training rows is left out."""
    scores: dict[str, Any] = {}
    predictions: list[IntArray] = []
    for neighbours in counts:
        if neighbours > min(len(split.train) for split in splits):
            continue
        confusions = []
        for split in splits:
            model = KNeighborsClassifier(n_neighbors=neighbours, p=2).fit(embeddings[split.train], labels[split.train])
            predicted = model.predict(embeddings[split.test])
            confusions.append(confusion_matrix(labels[split.test], predicted, classes))
            if neighbours == 1:
                predictions.append(predicted)
        scores[str(neighbours)] = {
            "balanced_accuracy": _seeds([balanced_accuracy(matrix) for matrix in confusions]),
            "accuracy": _seeds([accuracy(matrix) for matrix in confusions]),
            "mean_precision": _seeds([macro_precision(matrix) for matrix in confusions]),
            "f1_score": _seeds([macro_f1(matrix) for matrix in confusions]),
        }
    return scores, tuple(predictions)


def logistic_scores(
    embeddings: Float32Array, labels: IntArray, splits: Sequence[Split], classes: int
) -> tuple[dict[str, Any], IntArray]:
    """Logistic regression with balanced classes on each split, and its confusion matrix over all of them."""
    confusions, losses = [], []
    for number, split in enumerate(splits):
        train, test = labels[split.train], labels[split.test]
        known = np.unique(train)
        if len(known) < 2:
            raise ReferenceSetError(
                f"slide {split.name}: without it the images are of one genus only, so nothing can be told apart. "
                "Give images of more slides, or remove groups.csv"
            )
        model = LogisticRegression(max_iter=10000, class_weight="balanced", random_state=number)
        with warnings.catch_warnings():
            # Embeddings of a wild scale may not converge in ten thousand steps; the score then says so by itself.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(embeddings[split.train], train)
        confusions.append(confusion_matrix(test, model.predict(embeddings[split.test]), classes))
        # A genus that only the left-out slide holds has no probability: no loss can be told.
        seen = bool(np.isin(test, known).all())
        losses.append(
            float(log_loss(test, model.predict_proba(embeddings[split.test]), labels=known)) if seen else float("nan")
        )
    scores = {
        "log_loss": _seeds(losses),
        "balanced_accuracy": _seeds([balanced_accuracy(matrix) for matrix in confusions]),
        "accuracy": _seeds([accuracy(matrix) for matrix in confusions]),
        "mean_precision": _seeds([macro_precision(matrix) for matrix in confusions]),
    }
    return scores, np.sum(confusions, axis=0)


def class_wise(
    labels: IntArray, splits: Sequence[Split], predictions: Sequence[IntArray], classes: int
) -> dict[str, list[float]]:
    """Recall, precision and F1 of 1-NN for each class, the mean over the splits whose test rows hold it."""
    parts: dict[str, list[FloatArray]] = {"recall": [], "precision": [], "f1_score": []}
    for split, predicted in zip(splits, predictions, strict=True):
        matrix = confusion_matrix(labels[split.test], predicted, classes)
        there = matrix.sum(axis=1) > 0
        for name, values in zip(parts, (recalls(matrix), precisions(matrix), f1_scores(matrix)), strict=True):
            parts[name].append(np.where(there, values, np.nan))
    return {name: [float(value) for value in np.nanmean(values, axis=0)] for name, values in parts.items()}


def confusion_matrix(true: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """int64 (C, C): how many of each true class (row) were taken for each class (column)."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def recalls(matrix: npt.NDArray[Any]) -> FloatArray:
    """Share of each true class that was found; 0 where there is none."""
    return _ratio(np.diag(matrix), matrix.sum(axis=1))


def precisions(matrix: npt.NDArray[Any]) -> FloatArray:
    """Share of each predicted class that is right; 0 where nothing was predicted."""
    return _ratio(np.diag(matrix), matrix.sum(axis=0))


def f1_scores(matrix: npt.NDArray[Any]) -> FloatArray:
    """F1 of each class: 2 TP / (true + predicted); 0 where there is neither."""
    return _ratio(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def accuracy(matrix: npt.NDArray[Any]) -> float:
    """Share of all that is right."""
    return float(np.trace(matrix) / matrix.sum())


def balanced_accuracy(matrix: npt.NDArray[Any]) -> float:
    """Mean recall over the classes that are there."""
    return float(recalls(matrix)[matrix.sum(axis=1) > 0].mean())


def macro_precision(matrix: npt.NDArray[Any]) -> float:
    """Mean precision over the classes that are there or were predicted."""
    return float(precisions(matrix)[_seen(matrix)].mean())


def macro_f1(matrix: npt.NDArray[Any]) -> float:
    """Mean F1 over the classes that are there or were predicted."""
    return float(f1_scores(matrix)[_seen(matrix)].mean())


def _seen(matrix: npt.NDArray[Any]) -> BoolArray:
    seen: BoolArray = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return seen


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FloatArray:
    ratio: FloatArray = np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)
    return ratio


def _seeds(values: Sequence[float]) -> dict[str, Any]:
    told = [value for value in values if not np.isnan(value)]
    return {
        "mean": float(np.mean(told)) if told else None,
        "seeds": [None if np.isnan(value) else value for value in values],
    }
