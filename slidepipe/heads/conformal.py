"""Abstain: compare an object with the references of a genus by a conformal p-value.

Against n calibration scores, p = (1 + number of scores that are at least as strange) / (n + 1), and a genus is accepted if
p > alpha. Objects drawn from the same distribution as the references are then left unknown at a rate of at most alpha
(Vovk et al. 2005, Algorithmic Learning in a Random World, chapter 4). This bounds missed fossils, not false finds.

The p-value of a genus is a weighted mean of two: the p-value against the genus's own n scores (weight n), and the p-value
against the scores of all genera together (weight 40). With about twenty scores, a per-genus threshold is mostly sampling
noise. The more references a genus has, the more its own scores count, and the closer its own rate of missed fossils comes to
alpha, instead of only the rate over all genera.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.interfaces import FloatArray, IntArray, StrArray

REJECT_PREFIX = "_"
"""First character of the name of a reject class, for example `_debris`. It is learned, but never accepted as a genus."""

_POOLED_WEIGHT = 40
"""Weight of the scores of all genera in the p-value of a genus, in units of own references. Measured: `design/heads.md`."""


def check_alpha(alpha: float, genera: StrArray) -> None:
    """Raise an error if the reference set is too small for `alpha`.

    Args:
        alpha: largest fraction of the fossils of each genus that may be left unknown.
        genera: str (M,), genus of each reference. Reject classes do not limit `alpha`.

    Raises:
        SettingsError: `alpha` is not between 0 and 1, or is below 1 / (n + 1) for the smallest genus.
        ReferenceSetError: there is no genus, or one has a single image, so that none can be held out.
    """
    if not 0.0 < alpha < 1.0:
        raise SettingsError(f"head alpha: {alpha:g} is not between 0 and 1; use for example 0.1")
    names, counts = np.unique(genera, return_counts=True)
    is_genus = ~np.char.startswith(names.astype(str), REJECT_PREFIX)
    if not is_genus.any():
        raise ReferenceSetError(
            f"reference set: no genus in it (classes: {', '.join(names) or 'none'}); add one folder of images per genus"
        )
    smallest = int(np.where(is_genus, counts, np.iinfo(np.int64).max).argmin())
    count, name = int(counts[smallest]), names[smallest]
    if count < 2:
        raise ReferenceSetError(
            f"reference set: {name} has a single image, so none can be held out; add more images of it"
        )
    finest = 1.0 / (count + 1)
    if alpha < finest * (1.0 - 1e-9):
        raise SettingsError(
            f"head alpha: {alpha:g} is too small for this reference set: {name} has {count} images, so the smallest "
            f"possible alpha is {finest:.4g}; raise alpha or add images of {name}"
        )


def folds_within_class(labels: IntArray, folds: int) -> IntArray:
    """Divide the references of each class into folds of neighbouring rows.

    The rows are not shuffled: images of one specimen are usually next to each other in a folder, and a specimen that lies in
    two folds would make the calibration too optimistic.

    Args:
        labels: int64 (M,), class of each reference.
        folds: number of folds; a class with fewer references is divided into that many.

    Returns:
        int64 (M,), the fold of each reference, 0 to `folds` - 1.
    """
    fold = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.arange(len(rows)) * min(folds, len(rows)) // len(rows)
    return fold


def score_held_out(labels: IntArray, folds: int, score: Callable[[IntArray, IntArray], FloatArray]) -> FloatArray:
    """Score every reference with what was learned from the other folds.

    Args:
        labels: int64 (M,), class of each reference.
        folds: number of folds (`folds_within_class`).
        score: receives the rows to learn from and the held-out rows; returns float64 (..., held-out rows, C).

    Returns:
        float64 (..., M, C), in the order of the references.
    """
    fold = folds_within_class(labels, folds)
    rows = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    scores = np.concatenate([score(np.flatnonzero(fold != fold[part[0]]), part) for part in rows], axis=-2)
    ordered: FloatArray = scores[..., np.argsort(np.concatenate(rows)), :]
    return ordered


@dataclass(frozen=True)
class Calibration:
    """The scores that objects are compared with.

    Attributes:
        own: C arrays, float64 (n of the class,), ascending: the strangeness of held-out references to their own class.
        pooled: float64 (N,), ascending: the scores of all genera together, without reject classes.
    """

    own: tuple[FloatArray, ...]
    pooled: FloatArray


def calibrate(strangeness: FloatArray, labels: IntArray, names: StrArray) -> Calibration:
    """Collect the calibration scores.

    Args:
        strangeness: float64 (M, C), held-out strangeness of each reference to each class. A reference whose strangeness to its
            own class is not finite is left out: it is the only image of a reject class, so there was nothing to compare with.
        labels: int64 (M,), class of each reference.
        names: str (C,), the classes. Reject classes are not pooled.
    """
    scores = [strangeness[labels == label, label] for label in range(strangeness.shape[1])]
    own = tuple(np.sort(values[np.isfinite(values)]) for values in scores)
    genera = [values for values, name in zip(own, names, strict=True) if not str(name).startswith(REJECT_PREFIX)]
    return Calibration(own, np.sort(np.concatenate(genera)))


def p_values(strangeness: FloatArray, calibration: Calibration) -> FloatArray:
    """Return the conformal p-value of each object for each class.

    Args:
        strangeness: float64 (N, C), of each object to each class.
        calibration: of the same C classes.

    Returns:
        float64 (N, C), 0 to 1.
    """
    own = np.stack(
        [_p_values(column, scores) for column, scores in zip(strangeness.T, calibration.own, strict=True)], axis=1
    )
    pooled = _p_values(strangeness, calibration.pooled)
    counts = np.array([len(scores) for scores in calibration.own])
    table: FloatArray = (counts * own + _POOLED_WEIGHT * pooled) / (counts + _POOLED_WEIGHT)
    return table


def _p_values(strangeness: FloatArray, scores: FloatArray) -> FloatArray:
    at_least_as_strange = len(scores) - np.searchsorted(scores, strangeness, side="left")
    table: FloatArray = (1 + at_least_as_strange) / (len(scores) + 1)
    return table
