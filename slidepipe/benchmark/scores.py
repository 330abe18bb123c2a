"""The scores of the published evaluation, computed from embeddings and labels.

The protocol reproduces that of the authors of the SCAMPI benchmark (github.com/equinor/scampi-benchmark): Euclidean
distance between embeddings that are not normalised, ten stratified splits of 80 % and 20 %, and retrieval of every image
against all others.
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
#: Retrieval depths, in addition to n_k, the number of other images of the query's class.
DEPTHS = (1, *range(10, 200, 10), 500)
#: Is added to the distance of an image to itself, so that it is retrieved last.
_FAR = 1e12


@dataclass(frozen=True)
class Split:
    """One split of the images.

    Attributes:
        name: the seed, or the slide that is left out.
        train: int64, the training rows.
        test: int64, the test rows.
    """

    name: str
    train: IntArray
    test: IntArray


@dataclass(frozen=True)
class Scores:
    """All scores of one set of embeddings.

    Attributes:
        summary: the figures, as in `metrics.json`.
        splits: the splits that were used.
        predictions: predictions of 1-NN: per split one int64 array, in the order of the test rows.
        precision_at_nk: float64 (N,), precision of the first n_k retrievals of each image.
        retrieved: int64 (N, 10), the nearest other images of each image, nearest first.
        confusion: int64 (C, C), confusion matrix of the logistic regression, summed over the splits; rows are the true
            classes.
    """

    summary: dict[str, Any]
    splits: tuple[Split, ...]
    predictions: tuple[IntArray, ...]
    precision_at_nk: FloatArray
    retrieved: IntArray
    confusion: IntArray


def stratified_splits(labels: IntArray) -> tuple[Split, ...]:
    """Return the ten splits of the protocol: scikit-learn's `train_test_split`, stratified, seeds 0 to 9.

    Args:
        labels: int64 (N,).

    Raises:
        ReferenceSetError: there are too few images to have each class on both sides.
    """
    rows = np.arange(len(labels))
    splits = []
    for seed in SEEDS:
        try:
            train, test = train_test_split(rows, test_size=TEST_SHARE, stratify=labels, random_state=seed)
        except ValueError as error:
            raise ReferenceSetError(
                f"{len(labels)} images of {len(np.unique(labels))} genera are too few for splits of 80 % and 20 %. "
                "Give at least five images per genus"
            ) from error
        splits.append(Split(str(seed), train, test))
    return tuple(splits)


def slide_splits(slides: Sequence[str]) -> tuple[Split, ...]:
    """Return leave-one-slide-out splits: each slide in turn is the test set, all others are the training set.

    Args:
        slides: the slide of each image.
    """
    names = np.array(slides)
    return tuple(
        Split(slide, np.flatnonzero(names != slide), np.flatnonzero(names == slide)) for slide in sorted(set(slides))
    )


def evaluate(embeddings: Float32Array, labels: IntArray, splits: Sequence[Split]) -> Scores:
    """Compute all scores of the published evaluation.

    Args:
        embeddings: float32 (N, D), in the order of the image folder.
        labels: int64 (N,), 0 to C - 1.
        splits: from `stratified_splits` or `slide_splits`.
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
    """Retrieve, for each image, all others, nearest first.

    Args:
        embeddings: float32 (N, D).
        labels: int64 (N,).

    Returns:
        Mean precision and recall at n_k (key "k") and at each depth of `DEPTHS` below N; precision at n_k of each
        image, float64 (N,); and the ten nearest images of each, int64 (N, <= 10).
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
    """Return recall and precision of the precision-recall curve, by rising recall, from (0, 1) to (1, 0).

    Args:
        retrieval: the first result of `retrieval_scores`.
    """
    depths = list(retrieval["recall"])
    points = sorted((retrieval["recall"][depth], retrieval["precision"][depth]) for depth in depths)
    return [0.0, *(x for x, _ in points), 1.0], [1.0, *(y for _, y in points), 0.0]


def area_under_curve(retrieval: Mapping[str, Mapping[str, float]]) -> float:
    """Return the area under `curve`, by the trapezoidal rule."""
    return float(auc(*curve(retrieval)))


def knn_scores(
    embeddings: Float32Array,
    labels: IntArray,
    splits: Sequence[Split],
    classes: int,
    counts: Sequence[int] = NEIGHBOUR_COUNTS,
) -> tuple[dict[str, Any], tuple[IntArray, ...]]:
    """Score k-NN by majority vote.

    Args:
        embeddings: float32 (N, D).
        labels: int64 (N,).
        splits: the splits.
        classes: number of classes.
        counts: the values of k. A k above the number of training rows is left out.

    Returns:
        The scores, by k; and the predictions of 1-NN: per split one array, in the order of the test rows.
    """
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
    """Score a logistic regression with balanced class weights.

    Args:
        embeddings: float32 (N, D).
        labels: int64 (N,).
        splits: the splits.
        classes: number of classes.

    Returns:
        The scores; and the confusion matrix, int64 (C, C), summed over the splits.

    Raises:
        ReferenceSetError: the training rows of a split are of one class only.
    """
    confusions, losses = [], []
    for number, split in enumerate(splits):
        train, test = labels[split.train], labels[split.test]
        known = np.unique(train)
        if len(known) < 2:
            raise ReferenceSetError(
                f"slide {split.name}: the images of the other slides are all of one genus, so nothing can be classified. "
                "Give images of more slides, or remove groups.csv"
            )
        model = LogisticRegression(max_iter=10000, class_weight="balanced", random_state=number)
        with warnings.catch_warnings():
            # On embeddings of an extreme scale the solver may not converge; the scores are then low, which is enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(embeddings[split.train], train)
        confusions.append(confusion_matrix(test, model.predict(embeddings[split.test]), classes))
        # A genus that occurs on the left-out slide only has no probability, so the log loss is not defined.
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
    """Return recall, precision and F1 of 1-NN for each class: the mean over the splits with the class in the test rows.

    Args:
        labels: int64 (N,).
        splits: the splits.
        predictions: from `knn_scores`.
        classes: number of classes.
    """
    parts: dict[str, list[FloatArray]] = {"recall": [], "precision": [], "f1_score": []}
    for split, predicted in zip(splits, predictions, strict=True):
        matrix = confusion_matrix(labels[split.test], predicted, classes)
        occurs = matrix.sum(axis=1) > 0
        for name, values in zip(parts, (recalls(matrix), precisions(matrix), f1_scores(matrix)), strict=True):
            parts[name].append(np.where(occurs, values, np.nan))
    return {name: [float(value) for value in np.nanmean(values, axis=0)] for name, values in parts.items()}


def confusion_matrix(true: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Return the confusion matrix, int64 (C, C): rows are the true classes, columns the predicted ones."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def recalls(matrix: npt.NDArray[Any]) -> FloatArray:
    """Return the recall of each class; 0 for a class that does not occur."""
    return _ratio(np.diag(matrix), matrix.sum(axis=1))


def precisions(matrix: npt.NDArray[Any]) -> FloatArray:
    """Return the precision of each class; 0 for a class that was never predicted."""
    return _ratio(np.diag(matrix), matrix.sum(axis=0))


def f1_scores(matrix: npt.NDArray[Any]) -> FloatArray:
    """Return F1 of each class: 2 TP / (true + predicted); 0 for a class that neither occurs nor was predicted."""
    return _ratio(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def accuracy(matrix: npt.NDArray[Any]) -> float:
    """Return the fraction of all predictions that are right."""
    return float(np.trace(matrix) / matrix.sum())


def balanced_accuracy(matrix: npt.NDArray[Any]) -> float:
    """Return the mean recall over the classes that occur."""
    return float(recalls(matrix)[matrix.sum(axis=1) > 0].mean())


def macro_precision(matrix: npt.NDArray[Any]) -> float:
    """Return the mean precision over the classes that occur or were predicted."""
    return float(precisions(matrix)[_seen(matrix)].mean())


def macro_f1(matrix: npt.NDArray[Any]) -> float:
    """Return the mean F1 over the classes that occur or were predicted."""
    return float(f1_scores(matrix)[_seen(matrix)].mean())


def _seen(matrix: npt.NDArray[Any]) -> BoolArray:
    seen: BoolArray = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return seen


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FloatArray:
    ratio: FloatArray = np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)
    return ratio


def _seeds(values: Sequence[float]) -> dict[str, Any]:
    defined = [value for value in values if not np.isnan(value)]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "seeds": [None if np.isnan(value) else value for value in values],
    }
