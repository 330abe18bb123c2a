"""Heads: from an embedding to a genus, or to "unknown".

Both heads answer with the genus that fits best and abstain by a conformal p-value (see :mod:`slidepipe.heads.conformal`), with
calibration scores held out of whatever was learned. An object must fit its genus by four measures: in the learned space, in
one learned with less shrinkage, among the embeddings as they came, and by a kernel regression on them. A learned space knows
only what parts the genera from each other, so debris, or a genus that is not among the references, may land near one of them
there, but not by all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from slidepipe.errors import ReferenceSetError
from slidepipe.heads.conformal import REJECT_PREFIX, calibrate, check_alpha, folds_within_class, p_values
from slidepipe.heads.metric import (
    Membership,
    Projection,
    class_distances,
    distances,
    has_negative,
    kernel_ridge,
    normalised,
    shrinkage_lda,
    unit_rows,
)
from slidepipe.interfaces import Decisions, Float32Array, FloatArray, IntArray, StrArray

_CHUNK_CELLS = 4_000_000
"""Distances, or values of embeddings, held at a time: bounds the memory of a prediction to some 100 MB, whatever its length."""

_FINER_SHRINKAGE = 0.1
"""Of the second learned space: it sees finer differences, at the price of more noise."""

_SOFTNESS = 2.0
"""Of the maximum of the measures, in their spreads: at 0 the strangest alone counts, from some 5 on it is nearly their sum."""


def _checked(embeddings: Float32Array, dim: int | None = None) -> Float32Array:
    if embeddings.ndim != 2 or (dim is not None and embeddings.shape[1] != dim):
        wanted = "(N, D)" if dim is None else f"(N, {dim})"
        raise ReferenceSetError(
            f"embeddings: shape {embeddings.shape} where {wanted} is needed; use the backbone of the reference set"
        )
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ReferenceSetError(
            f"embeddings: {len(bad)} of {len(embeddings)} rows are not finite (first: row {bad[0]}); "
            "check the backbone and its weights"
        )
    return embeddings


def _encoded(embeddings: Float32Array, genera: StrArray, alpha: float) -> tuple[StrArray, IntArray]:
    """Check a reference set; return its class names (C,) and the class of each row, int64 (M,)."""
    _checked(embeddings)
    if len(embeddings) != len(genera):
        raise ReferenceSetError(f"reference set: {len(embeddings)} embeddings but {len(genera)} genera; embed it again")
    check_alpha(alpha, genera)
    names, labels = np.unique(genera, return_inverse=True)
    return names, labels.astype(np.int64)


def _chunks(embeddings: Float32Array, references: int) -> Iterator[slice]:
    rows, columns = len(embeddings), max(references, embeddings.shape[1])
    step = max(1, _CHUNK_CELLS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _nearest(to_references: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Columns and distances of the ``k`` smallest of each row, ascending; equal distances by column."""
    if k < to_references.shape[1]:
        columns = np.sort(np.argpartition(to_references, k - 1, axis=1)[:, :k], axis=1)
    else:
        columns = np.broadcast_to(np.arange(to_references.shape[1]), to_references.shape).copy()
    found = np.take_along_axis(to_references, columns, axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64), np.take_along_axis(found, order, axis=1)


def _vote(labels: IntArray, found: FloatArray, classes: int, by_distance: bool) -> FloatArray:
    """Votes of the neighbours, float64 (N, classes); ``labels`` and ``found`` (distances) are (N, k), nearest first."""
    weights = 1.0 / np.maximum(found, 1e-9) if by_distance else np.ones_like(found)
    # The nearest neighbour settles a tie: its edge is far below any difference between honest votes.
    weights[:, 0] *= 1.0 + 1e-6
    votes = np.zeros((len(labels), classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return votes


def _held_out(labels: IntArray, folds: int, score: Callable[[IntArray, IntArray], FloatArray]) -> FloatArray:
    """``score(train rows, held-out rows)``, (..., held-out rows, C), over the folds, in the order of the rows: (..., M, C)."""
    fold = folds_within_class(labels, folds)
    rows = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    scores = np.concatenate([score(np.flatnonzero(fold != fold[part[0]]), part) for part in rows], axis=-2)
    ordered: FloatArray = scores[..., np.argsort(np.concatenate(rows)), :]
    return ordered


@dataclass(frozen=True)
class _Projected:
    """The references as seen through a projection, or as they are without one: float64 (P, M, .), P pictures of each."""

    pictures: FloatArray
    projection: Projection | None = None

    def distances_of(self, plain: FloatArray) -> FloatArray:
        """Distances of float64 (N, D) to the references, each to the nearest of its pictures: float64 (N, M)."""
        seen = plain if self.projection is None else self.projection(plain)
        nearest: FloatArray = np.minimum.reduce([distances(seen, picture) for picture in self.pictures])
        return nearest


@dataclass(frozen=True)
class _Space:
    """What is learned from M references, and where they lie in it.

    Attributes:
        plain: the references before anything is learned.
        labels: int64 (M,).
        learned: the references in the learned space; ``plain`` where none is learned.
        finer: the same in a space learned with less shrinkage.
        membership: the kernel regression, where the metric asks one.
    """

    plain: _Projected
    labels: IntArray
    learned: _Projected
    finer: _Projected
    membership: Membership | None


class KnnHead:
    """Nearest neighbours in a metric learned from the reference set; abstains by conformal p-values.

    References that are also given as crops teach ``lda`` what a slide's softness changes, and are as near as the nearer of
    their two pictures; their calibration scores are the mean of both pictures'.

    ``lda``: square root (of embeddings that are never negative), unit length, shrinkage LDA, unit length.
    ``cosine``: unit length. ``euclidean``: as they come.
    """

    name: ClassVar[str] = "knn"
    fits_crops: ClassVar[bool] = True

    class Settings(BaseModel):
        """Settings of the k-NN head."""

        model_config = ConfigDict(extra="forbid")

        k: int = Field(default=5, ge=1, description="neighbours that decide")
        metric: Literal["lda", "cosine", "euclidean"] = Field(default="lda", description="where distances are taken")
        weighting: Literal["genus", "distance", "majority"] = Field(
            default="genus",
            description="genus: least mean distance to a genus's k nearest; else the k nearest of all vote, by 1/distance or 1",
        )
        shrinkage: float | None = Field(
            default=None,
            gt=0.0,
            le=1.0,
            description="of the LDA's scatter towards identity; empty: 0.5 if never negative, 0.7 if many dimensions, else 0.25",
        )
        folds: int = Field(
            default=10, ge=2, description="parts of the reference set held out in turn for the calibration"
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, embeddings: Float32Array, genera: StrArray, alpha: float, as_crops: Float32Array | None = None
    ) -> Self:
        """Learn the metric and the calibration scores from the reference set.

        Args:
            embeddings: float32 (M, D).
            genera: str (M,); names that begin with ``_`` are reject classes.
            alpha: share of the fossils of each genus that may be missed.
            as_crops: float32 (M, D), the same references as soft as crops of a slide; read by ``lda`` only.

        Raises:
            SettingsError: ``alpha`` is finer than the smallest genus allows.
            ReferenceSetError: embeddings are not finite, a genus has one image, or ``lda`` has one class only.
        """
        self._names, self._labels = _encoded(embeddings, genera, alpha)
        pictures = [embeddings]
        if as_crops is not None and self.settings.metric == "lda":
            if len(_checked(as_crops, embeddings.shape[1])) != len(embeddings):
                raise ReferenceSetError(
                    f"reference set: {len(embeddings)} embeddings but {len(as_crops)} as crops; embed it again"
                )
            pictures.append(as_crops)
        self._alpha, self._dim = alpha, embeddings.shape[1]
        self._root = not has_negative(embeddings)
        if self.settings.metric == "lda" and len(self._names) < 2:
            raise ReferenceSetError(
                f"reference set: only {self._names[0]} in it, and metric lda needs two classes; use metric: cosine"
            )
        self._space = self._learn(np.stack([self._unlearned(picture) for picture in pictures]), self._labels)
        self._calibrate(_held_out(self._labels, self.settings.folds, self._held_out_measures))
        return self

    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide on float32 (N, D); N may be 0. Memory does not grow with N beyond the answer.

        Raises:
            ReferenceSetError: embeddings are not finite, or not as long as the references'.
        """
        _checked(embeddings, self._dim)
        count, k = len(embeddings), min(self.settings.k, len(self._labels))
        best = np.zeros(count, dtype=np.int64)
        p_value, distance = np.zeros(count), np.zeros(count)
        neighbours, neighbour_distances = np.zeros((count, k), dtype=np.int64), np.zeros((count, k))
        for part in _chunks(embeddings, len(self._labels)):
            plain = self._unlearned(embeddings[part])
            to_learned = self._space.learned.distances_of(plain)
            rows, found = _nearest(to_learned, k)
            measures = self._measures(self._space, plain, to_learned)
            if self.settings.weighting == "genus":
                chosen = measures[0].argmin(axis=1)
            else:
                by_distance = self.settings.weighting == "distance"
                chosen = _vote(self._labels[rows], found, len(self._names), by_distance).argmax(axis=1)
            every = np.arange(len(chosen))
            best[part], neighbours[part], neighbour_distances[part] = chosen, rows, found
            p_value[part] = p_values(self._strangeness(measures), self._calibration)[every, chosen]
            distance[part] = class_distances(to_learned, self._labels, len(self._names), 1)[every, chosen]
        genus = self._names[best]
        accepted = (p_value > self._alpha) & ~np.char.startswith(genus, REJECT_PREFIX)
        return Decisions(genus, accepted, p_value, distance, neighbours, neighbour_distances)

    def _unlearned(self, embeddings: Float32Array) -> FloatArray:
        if self.settings.metric == "lda":
            return normalised(embeddings, self._root)
        rows = embeddings.astype(np.float64)
        return unit_rows(rows) if self.settings.metric == "cosine" else rows

    def _learn(self, pictures: FloatArray, labels: IntArray) -> _Space:
        plain = _Projected(pictures)
        if self.settings.metric != "lda":
            return _Space(plain, labels, plain, plain, None)
        membership = kernel_ridge(pictures[0], labels, len(self._names))
        if len(np.unique(labels)) < 2:  # a fold may leave one class only
            return _Space(plain, labels, plain, plain, membership)
        # As measured (design/heads.md): the scatter of many dimensions, or of a ReLU's, is the less to be trusted.
        many = self._dim > 1.5 * len(self._labels)
        fitting = 0.5 if self._root else 0.7 if many else 0.25
        rows, labels_of_rows = np.concatenate(pictures), np.tile(labels, len(pictures))
        projections = (
            shrinkage_lda(rows, labels_of_rows, shrinkage)
            for shrinkage in (self.settings.shrinkage or fitting, _FINER_SHRINKAGE)
        )
        learned, finer = (
            _Projected(np.stack([projection(picture) for picture in pictures]), projection)
            for projection in projections
        )
        return _Space(plain, labels, learned, finer, membership)

    def _measures(self, space: _Space, plain: FloatArray, to_learned: FloatArray) -> FloatArray:
        """How far from each genus: in the learned space; where one is learned, in the finer and plain ones and by regression.

        float64 (1 or 4, N, C).
        """
        classes, k = len(self._names), self.settings.k
        learned = class_distances(to_learned, space.labels, classes, k)
        if space.membership is None:
            return learned[None]
        nearest = class_distances(space.plain.distances_of(plain), space.labels, classes, 1)
        finer = class_distances(space.finer.distances_of(plain), space.labels, classes, k)
        return np.stack([learned, finer, nearest, -space.membership(distances(plain, space.plain.pictures[0]))])

    def _strangeness(self, measures: FloatArray) -> FloatArray:
        """Smooth maximum of the standardised measures: none makes up for another."""
        standardised = (measures - self._middle[:, None, None]) / self._spread[:, None, None]
        strange: FloatArray = np.logaddexp.reduce(standardised / _SOFTNESS, axis=0)
        return strange

    def _calibrate(self, held_out: FloatArray) -> None:
        own = held_out[:, np.arange(len(self._labels)), self._labels]
        own = own[:, np.isfinite(own).all(axis=0)]  # a reject class of one image has nothing to be held out against
        self._middle, self._spread = np.median(own, axis=1), np.maximum(own.std(axis=1), 1e-6)
        self._calibration = calibrate(self._strangeness(held_out), self._labels, self._names)

    def _held_out_measures(self, train: IntArray, held_out: IntArray) -> FloatArray:
        """The measures of the ``held_out`` rows, with everything learned again from the ``train`` rows: means of the pictures."""
        pictures = self._space.plain.pictures
        space = self._learn(pictures[:, train], self._labels[train])
        each = [self._measures(space, plain, space.learned.distances_of(plain)) for plain in pictures[:, held_out]]
        mean: FloatArray = np.mean(each, axis=0)
        return mean


class LogisticHead:
    """Logistic regression, balanced over genera; abstains by conformal p-values.

    The strangeness of an object to a genus is its distance to the nearest reference of that genus (unit length), times
    2 - the probability of the genus.
    """

    name: ClassVar[str] = "logistic"

    class Settings(BaseModel):
        """Settings of the logistic head."""

        model_config = ConfigDict(extra="forbid")

        inverse_regularisation: float = Field(default=30.0, gt=0.0, description="scikit-learn's C")
        max_iterations: int = Field(default=1000, ge=1, description="of the solver")
        folds: int = Field(
            default=5, ge=2, description="parts of the reference set held out in turn for the calibration"
        )
        k: int = Field(default=5, ge=1, description="neighbours that are reported")

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(self, embeddings: Float32Array, genera: StrArray, alpha: float) -> Self:
        """Learn the regression and the calibration scores; arguments and errors as :meth:`KnnHead.fit`."""
        self._names, self._labels = _encoded(embeddings, genera, alpha)
        if len(self._names) < 2:
            raise ReferenceSetError(
                f"reference set: only {self._names[0]} in it, and head logistic needs two classes; use head knn"
            )
        self._alpha, self._dim = alpha, embeddings.shape[1]
        self._root = not has_negative(embeddings)
        self._plain = normalised(embeddings, self._root)
        self._probabilities = self._learn(self._plain, self._labels)
        held_out = _held_out(self._labels, self.settings.folds, self._held_out_strangeness)
        self._calibration = calibrate(held_out, self._labels, self._names)
        return self

    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide on float32 (N, D); as :meth:`KnnHead.predict`."""
        _checked(embeddings, self._dim)
        count, k = len(embeddings), min(self.settings.k, len(self._labels))
        best = np.zeros(count, dtype=np.int64)
        p_value, distance = np.zeros(count), np.zeros(count)
        neighbours, neighbour_distances = np.zeros((count, k), dtype=np.int64), np.zeros((count, k))
        for part in _chunks(embeddings, len(self._labels)):
            plain = normalised(embeddings[part], self._root)
            to_plain = distances(plain, self._plain)
            probabilities = self._probabilities(plain)
            to_class = class_distances(to_plain, self._labels, len(self._names), 1)
            chosen = probabilities.argmax(axis=1)
            every = np.arange(len(chosen))
            best[part] = chosen
            neighbours[part], neighbour_distances[part] = _nearest(to_plain, k)
            p_value[part] = p_values(to_class * (2.0 - probabilities), self._calibration)[every, chosen]
            distance[part] = to_class[every, chosen]
        genus = self._names[best]
        accepted = (p_value > self._alpha) & ~np.char.startswith(genus, REJECT_PREFIX)
        return Decisions(genus, accepted, p_value, distance, neighbours, neighbour_distances)

    def _learn(self, plain: FloatArray, labels: IntArray) -> Callable[[FloatArray], FloatArray]:
        from sklearn.linear_model import LogisticRegression  # slow to import, and the k-NN head needs none of it

        model = LogisticRegression(
            C=self.settings.inverse_regularisation, class_weight="balanced", max_iter=self.settings.max_iterations
        ).fit(plain, labels)
        classes = len(self._names)

        def probabilities(rows: FloatArray) -> FloatArray:
            table = np.zeros((len(rows), classes))
            table[:, model.classes_] = model.predict_proba(rows)
            return table

        return probabilities

    def _held_out_strangeness(self, train: IntArray, held_out: IntArray) -> FloatArray:
        plain, references, labels = self._plain[held_out], self._plain[train], self._labels[train]
        to_class = class_distances(distances(plain, references), labels, len(self._names), 1)
        if len(np.unique(labels)) < 2:
            return to_class
        strange: FloatArray = to_class * (2.0 - self._learn(references, labels)(plain))
        return strange
