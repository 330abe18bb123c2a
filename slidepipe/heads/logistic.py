"""A head of logistic regression, which abstains in the same way as the default head."""

from collections.abc import Callable
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from slidepipe.embedding.normalise import has_negative, normalised
from slidepipe.errors import ReferenceSetError
from slidepipe.heads.checks import check_embeddings, encode_genera
from slidepipe.heads.conformal import REJECT_PREFIX, calibrate, p_values, score_held_out
from slidepipe.heads.metric import class_distances, distances, nearest_references, row_chunks
from slidepipe.interfaces import Decisions, Float32Array, FloatArray, Head, IntArray, StrArray


class LogisticHead(Head):
    """Assign the most probable genus by logistic regression with balanced classes; abstain by conformal p-values.

    The strangeness of an object to a genus is its distance to the nearest reference of that genus (embeddings of unit length),
    multiplied by 2 - the probability of the genus.
    """

    name = "logistic"

    class Settings(BaseModel):
        """Settings of the logistic head."""

        model_config = ConfigDict(extra="forbid")

        inverse_regularisation: float = Field(
            default=30.0, gt=0.0, description="inverse of the regularisation strength (C in scikit-learn)"
        )
        max_iterations: int = Field(default=1000, ge=1, description="largest number of iterations of the solver")
        folds: int = Field(
            default=5,
            ge=2,
            description="number of parts of the reference set that are held out in turn for calibration",
        )
        k: int = Field(default=5, ge=1, description="number of nearest references that are reported")

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(self, embeddings: Float32Array, genera: StrArray, alpha: float) -> Self:
        """Learn the regression and the calibration scores from the reference set.

        Args:
            embeddings: float32 (M, D).
            genera: str (M,), genus of each reference; names that begin with `_` are reject classes.
            alpha: largest fraction of the fossils of each genus that may be left unknown.

        Raises:
            SettingsError: `alpha` is smaller than the smallest genus allows.
            ReferenceSetError: embeddings are not finite, a genus has one image, or there is one class only.
        """
        self._names, self._labels = encode_genera(embeddings, genera, alpha)
        if len(self._names) < 2:
            raise ReferenceSetError(
                f"reference set: {self._names[0]} is its only class, and head logistic needs two; use head knn"
            )
        self._alpha, self._dim = alpha, embeddings.shape[1]
        self._root = not has_negative(embeddings)
        self._plain = normalised(embeddings, self._root)
        self._probabilities = self._learn(self._plain, self._labels)
        held_out = score_held_out(self._labels, self.settings.folds, self._held_out_strangeness)
        self._calibration = calibrate(held_out, self._labels, self._names)
        return self

    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide on the genus of each object.

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
            plain = normalised(embeddings[part], self._root)
            to_plain = distances(plain, self._plain)
            probabilities = self._probabilities(plain)
            to_class = class_distances(to_plain, self._labels, len(self._names), 1)
            chosen = probabilities.argmax(axis=1)
            every = np.arange(len(chosen))
            best[part] = chosen
            neighbours[part], neighbour_distances[part] = nearest_references(to_plain, k)
            p_value[part] = p_values(to_class * (2.0 - probabilities), self._calibration)[every, chosen]
            distance[part] = to_class[every, chosen]
        genus = self._names[best]
        accepted = (p_value > self._alpha) & ~np.char.startswith(genus, REJECT_PREFIX)
        return Decisions(genus, accepted, p_value, distance, neighbours, neighbour_distances)

    def _learn(self, plain: FloatArray, labels: IntArray) -> Callable[[FloatArray], FloatArray]:
        """Learn from normalised references (M, D); return a function from (N, D) to class probabilities, float64 (N, C)."""
        from sklearn.linear_model import LogisticRegression  # Slow to import, and only this head needs it.

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
        """Return the strangeness of the held-out rows after learning again from the `train` rows: float64 (held out, C)."""
        plain, references, labels = self._plain[held_out], self._plain[train], self._labels[train]
        to_class = class_distances(distances(plain, references), labels, len(self._names), 1)
        if len(np.unique(labels)) < 2:  # Holding out a fold may leave a single class.
            return to_class
        strange: FloatArray = to_class * (2.0 - self._learn(references, labels)(plain))
        return strange
