"""The default head: nearest references in a metric learned from the reference set.

The head answers with the genus whose references are nearest, and abstains by a conformal p-value (`slidepipe.heads.conformal`)
whose calibration scores are held out of everything that is learned.

An object must match its genus by four measures: the distance in the learned space, the distance in a space learned with less
shrinkage, the distance between the embeddings as they are, and a kernel regression on these. A learned space represents only
what separates the genera from each other. Debris, or a genus that is not in the reference set, may therefore lie close to a
genus in that space by chance, but rarely by all four measures.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from slidepipe.embedding.normalise import has_negative, normalised, unit_rows
from slidepipe.errors import ReferenceSetError
from slidepipe.heads.checks import check_embeddings, encode_genera
from slidepipe.heads.conformal import REJECT_PREFIX, calibrate, p_values, score_held_out
from slidepipe.heads.metric import (
    Membership,
    Projection,
    class_distances,
    distances,
    kernel_ridge,
    nearest_references,
    row_chunks,
    shrinkage_lda,
)
from slidepipe.interfaces import Decisions, Float32Array, FloatArray, Head, IntArray, StrArray

_FINER_SHRINKAGE = 0.1
"""Shrinkage of the second learned space. It separates finer differences, at the price of more noise."""

_SOFTNESS = 2.0
"""Softness of the smooth maximum of the measures, in units of their spread. At 0 only the largest measure counts; from about 5
on the result is nearly their sum."""


def _vote(labels: IntArray, found: FloatArray, classes: int, by_distance: bool) -> FloatArray:
    """Count the votes of the neighbours.

    Args:
        labels: int64 (N, k), class of each neighbour, nearest first.
        found: float64 (N, k), their distances.
        classes: number of classes.
        by_distance: weight each vote by 1 / distance.

    Returns:
        float64 (N, classes).
    """
    weights = 1.0 / np.maximum(found, 1e-9) if by_distance else np.ones_like(found)
    # The nearest neighbour decides a tie. This bonus is far smaller than any other difference between votes.
    weights[:, 0] *= 1.0 + 1e-6
    votes = np.zeros((len(labels), classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return votes


@dataclass(frozen=True)
class _ProjectedReferences:
    """The references after a projection, or as they are without one.

    Attributes:
        variants: float64 (V, M, D), V embeddings of each reference: as it is, and crop-like where that is given.
        projection: maps an embedding into this space.
    """

    variants: FloatArray
    projection: Projection | None = None

    def distances_of(self, plain: FloatArray) -> FloatArray:
        """Return the distances of float64 (N, D) to the references, each to its nearest variant: float64 (N, M)."""
        projected = plain if self.projection is None else self.projection(plain)
        nearest: FloatArray = np.minimum.reduce([distances(projected, variant) for variant in self.variants])
        return nearest


@dataclass(frozen=True)
class _Learned:
    """What is learned from M references, and the references in each learned space.

    Attributes:
        plain: the references before anything is learned.
        labels: int64 (M,), their classes.
        space: the references in the learned space; `plain` where none is learned.
        finer_space: the same in the space learned with less shrinkage.
        membership: the kernel regression; None where the metric is not learned.
    """

    plain: _ProjectedReferences
    labels: IntArray
    space: _ProjectedReferences
    finer_space: _ProjectedReferences
    membership: Membership | None


class KnnHead(Head):
    """Assign the genus of the nearest references in a metric learned from the reference set; abstain by conformal p-values.

    Metrics: `lda` is a square root (of embeddings that are never negative), unit length, shrinkage LDA, unit length. `cosine`
    is unit length only. `euclidean` uses the embeddings as they are.

    With `lda`, the head can also be given the crop-like embeddings of the references. Both variants then teach the learned
    spaces, the distance to a reference is that to its nearer variant, and the calibration scores are means over both.
    """

    name = "knn"

    class Settings(BaseModel):
        """Settings of the k-NN head."""

        model_config = ConfigDict(extra="forbid")

        k: int = Field(default=5, ge=1, description="number of nearest references that decide")
        metric: Literal["lda", "cosine", "euclidean"] = Field(
            default="lda", description="space in which distances are measured"
        )
        weighting: Literal["genus", "distance", "majority"] = Field(
            default="genus",
            description=(
                "genus: the smallest mean distance to the k nearest references of a genus decides; distance, majority: the k "
                "nearest references of all vote, weighted by 1/distance or equally"
            ),
        )
        shrinkage: float | None = Field(
            default=None,
            gt=0.0,
            le=1.0,
            description=(
                "shrinkage of the LDA's within-class scatter towards identity; if not given: 0.5 for embeddings that are never "
                "negative, else 0.7 if there are more than 1.5 times as many dimensions as references, else 0.25"
            ),
        )
        folds: int = Field(
            default=10,
            ge=2,
            description="number of parts of the reference set that are held out in turn for calibration",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, embeddings: Float32Array, genera: StrArray, alpha: float, crop_like: Float32Array | None = None
    ) -> Self:
        """Learn the metric and the calibration scores from the reference set.

        Args:
            embeddings: float32 (M, D), of the references as they are.
            genera: str (M,), genus of each reference; names that begin with `_` are reject classes.
            alpha: largest fraction of the fossils of each genus that may be left unknown.
            crop_like: float32 (M, D), of the same references reduced and compressed as crops are. Only `lda` uses it.

        Raises:
            SettingsError: `alpha` is smaller than the smallest genus allows.
            ReferenceSetError: embeddings are not finite, a genus has one image, or `lda` is given one class only.
        """
        self._names, self._labels = encode_genera(embeddings, genera, alpha)
        variants = [embeddings]
        if crop_like is not None and self.settings.metric == "lda":
            if len(check_embeddings(crop_like, embeddings.shape[1])) != len(embeddings):
                raise ReferenceSetError(
                    f"reference set: {len(embeddings)} embeddings but {len(crop_like)} crop-like ones; embed it again"
                )
            variants.append(crop_like)
        self._alpha, self._dim = alpha, embeddings.shape[1]
        self._root = not has_negative(embeddings)
        if self.settings.metric == "lda" and len(self._names) < 2:
            raise ReferenceSetError(
                f"reference set: {self._names[0]} is its only class, and metric lda needs two; use metric: cosine"
            )
        self._learned = self._learn(np.stack([self._normalise(variant) for variant in variants]), self._labels)
        self._calibrate(score_held_out(self._labels, self.settings.folds, self._held_out_measures))
        return self

    def fit_with_crop_like(
        self, embeddings: Float32Array, genera: StrArray, alpha: float, crop_like: Float32Array
    ) -> Self:
        """Learn from both versions of the reference images. Arguments and errors are those of `fit`."""
        return self.fit(embeddings, genera, alpha, crop_like)

    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide on the genus of each object. Except for the result, memory use does not grow with the number of objects.

        Args:
            embeddings: float32 (N, D); N may be 0.

        Raises:
            ReferenceSetError: embeddings are not finite, or their D is not that of the references.
        """
        check_embeddings(embeddings, self._dim)
        count, k = len(embeddings), min(self.settings.k, len(self._labels))
        best = np.zeros(count, dtype=np.int64)
        p_value, distance = np.zeros(count), np.zeros(count)
        neighbours, neighbour_distances = np.zeros((count, k), dtype=np.int64), np.zeros((count, k))
        for part in row_chunks(embeddings, len(self._labels)):
            plain = self._normalise(embeddings[part])
            to_learned = self._learned.space.distances_of(plain)
            rows, found = nearest_references(to_learned, k)
            measures = self._measures(self._learned, plain, to_learned)
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

    def _normalise(self, embeddings: Float32Array) -> FloatArray:
        """Return the embeddings as the metric wants them before anything is learned, float64 (N, D)."""
        if self.settings.metric == "lda":
            return normalised(embeddings, self._root)
        rows = embeddings.astype(np.float64)
        return unit_rows(rows) if self.settings.metric == "cosine" else rows

    def _learn(self, variants: FloatArray, labels: IntArray) -> _Learned:
        """Learn the spaces and the regression from normalised references, float64 (V, M, D), and their classes (M,)."""
        plain = _ProjectedReferences(variants)
        if self.settings.metric != "lda":
            return _Learned(plain, labels, plain, plain, None)
        membership = kernel_ridge(variants[0], labels, len(self._names))
        if len(np.unique(labels)) < 2:  # Holding out a fold may leave a single class.
            return _Learned(plain, labels, plain, plain, membership)
        # Chosen by measurement (design/heads.md). Many dimensions, and the sparse values of a ReLU, make the estimate of the
        # scatter less reliable, so more shrinkage is better.
        many = self._dim > 1.5 * len(self._labels)
        default = 0.5 if self._root else 0.7 if many else 0.25
        rows, labels_of_rows = np.concatenate(variants), np.tile(labels, len(variants))
        projections = (
            shrinkage_lda(rows, labels_of_rows, shrinkage)
            for shrinkage in (self.settings.shrinkage or default, _FINER_SHRINKAGE)
        )
        learned, finer = (
            _ProjectedReferences(np.stack([projection(variant) for variant in variants]), projection)
            for projection in projections
        )
        return _Learned(plain, labels, learned, finer, membership)

    def _measures(self, learned: _Learned, plain: FloatArray, to_learned: FloatArray) -> FloatArray:
        """Measure how far each object is from each genus.

        Args:
            learned: from the references.
            plain: float64 (N, D), normalised embeddings of the objects.
            to_learned: float64 (N, M), their distances to the references in the learned space.

        Returns:
            float64 (4, N, C): the distance in the learned space, that in the finer space, that between the plain embeddings,
            and the negative membership. float64 (1, N, C), the first of these, where the metric is not learned.
        """
        classes, k = len(self._names), self.settings.k
        in_learned = class_distances(to_learned, learned.labels, classes, k)
        if learned.membership is None:
            return in_learned[None]
        nearest = class_distances(learned.plain.distances_of(plain), learned.labels, classes, 1)
        in_finer = class_distances(learned.finer_space.distances_of(plain), learned.labels, classes, k)
        membership = learned.membership(distances(plain, learned.plain.variants[0]))
        return np.stack([in_learned, in_finer, nearest, -membership])

    def _strangeness(self, measures: FloatArray) -> FloatArray:
        """Combine the standardised measures by a smooth maximum, so that a good one cannot compensate for a bad one.

        Args:
            measures: float64 (1 or 4, N, C).

        Returns:
            float64 (N, C).
        """
        standardised = (measures - self._middle[:, None, None]) / self._spread[:, None, None]
        strange: FloatArray = np.logaddexp.reduce(standardised / _SOFTNESS, axis=0)
        return strange

    def _calibrate(self, held_out: FloatArray) -> None:
        """Set the scale of each measure and the calibration scores from held-out measures, float64 (1 or 4, M, C)."""
        own = held_out[:, np.arange(len(self._labels)), self._labels]
        # Nothing is left to compare the only image of a reject class with: its measures are infinite.
        own = own[:, np.isfinite(own).all(axis=0)]
        self._middle, self._spread = np.median(own, axis=1), np.maximum(own.std(axis=1), 1e-6)
        self._calibration = calibrate(self._strangeness(held_out), self._labels, self._names)

    def _held_out_measures(self, train: IntArray, held_out: IntArray) -> FloatArray:
        """Measure the held-out rows after learning everything again from the `train` rows: means over their variants."""
        variants = self._learned.plain.variants
        learned = self._learn(variants[:, train], self._labels[train])
        each = [self._measures(learned, plain, learned.space.distances_of(plain)) for plain in variants[:, held_out]]
        mean: FloatArray = np.mean(each, axis=0)
        return mean
