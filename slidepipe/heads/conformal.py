"""Abstaining: how usual is an object among the references of a genus (conformal p-values).

Against n calibration scores, p = (1 + number of scores that are at least as strange) / (n + 1); a genus is accepted when
p > alpha. Objects that are drawn like the references are then missed at a rate of at most alpha (Vovk et al. 2005,
Algorithmic Learning in a Random World, chapter 4). It bounds missed fossils, not false finds.

The p-value of a genus is the mean of two, weighted: against its own scores, n of them (weight n), and against those of all
genera together (weight 40). Some twenty scores of its own alone place the limit of a genus by luck; the more there are, the
more the genus speaks for itself, and the nearer its rate of missed fossils comes to alpha by itself and not on average.
"""

from dataclasses import dataclass

import numpy as np

from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.interfaces import FloatArray, IntArray, StrArray

REJECT_PREFIX = "_"
"""A reference class whose name starts so (``_debris``) is learned, and never accepted as a genus."""

_POOLED_WEIGHT = 40
"""The weight of all genera's scores in the p-value of a genus, in references of its own; as measured (design/heads.md)."""


def check_alpha(alpha: float, genera: StrArray) -> None:
    """Refuse an ``alpha`` that the reference set cannot give.

    Args:
        alpha: share of fossils of each genus that may be missed.
        genera: str (M,), genus of each reference; reject classes do not limit ``alpha``.

    Raises:
        SettingsError: not between 0 and 1, or below 1 / (n + 1) for the smallest genus.
        ReferenceSetError: there is no genus, or one has a single image (nothing to hold out).
    """
    if not 0.0 < alpha < 1.0:
        raise SettingsError(f"head alpha: {alpha:g} is not a share between 0 and 1; 0.1 is usual")
    names, counts = np.unique(genera, return_counts=True)
    is_genus = ~np.char.startswith(names.astype(str), REJECT_PREFIX)
    if not is_genus.any():
        raise ReferenceSetError(
            f"reference set: no genus in it (classes: {', '.join(names) or 'none'}); add one folder of images a genus"
        )
    smallest = int(np.where(is_genus, counts, np.iinfo(np.int64).max).argmin())
    count, name = int(counts[smallest]), names[smallest]
    if count < 2:
        raise ReferenceSetError(f"reference set: {name} has a single image, so nothing can be held out; add more of it")
    finest = 1.0 / (count + 1)
    if alpha < finest * (1.0 - 1e-9):
        raise SettingsError(
            f"head alpha: {alpha:g} is finer than the reference set allows: {name} has {count} images, so the smallest "
            f"alpha is {finest:.4g}; raise alpha or add images of {name}"
        )


def folds_within_class(labels: IntArray, folds: int) -> IntArray:
    """Fold number of each reference, int64 (M,): each class is cut into ``folds`` runs of neighbouring rows.

    Runs, not a shuffle: pictures of one specimen tend to lie next to each other in a folder, and a specimen on both sides
    of the cut would make the calibration optimistic.
    """
    fold = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.arange(len(rows)) * min(folds, len(rows)) // len(rows)
    return fold


@dataclass(frozen=True)
class Calibration:
    """Scores that objects are compared with.

    Attributes:
        own: C arrays, float64 (n of the class,), ascending: the strangeness of held-out references to their own class.
        pooled: float64 (N,), ascending: those of all genera.
    """

    own: tuple[FloatArray, ...]
    pooled: FloatArray


def calibrate(strangeness: FloatArray, labels: IntArray, names: StrArray) -> Calibration:
    """What p-values are taken against.

    Args:
        strangeness: float64 (M, C), held-out strangeness of each reference to each class. Where a reference's own is not
            finite (a reject class of one image, with nothing to be held out against), it is left out.
        labels: int64 (M,), class of each reference.
        names: str (C,), the classes; reject classes are not pooled.
    """
    scores = [strangeness[labels == label, label] for label in range(strangeness.shape[1])]
    own = tuple(np.sort(values[np.isfinite(values)]) for values in scores)
    genera = [values for values, name in zip(own, names, strict=True) if not str(name).startswith(REJECT_PREFIX)]
    return Calibration(own, np.sort(np.concatenate(genera)))


def p_values(strangeness: FloatArray, calibration: Calibration) -> FloatArray:
    """Conformal p-values, float64 (N, C), of strangeness (N, C) to each class."""
    alone = np.stack(
        [_p_values(column, own) for column, own in zip(strangeness.T, calibration.own, strict=True)], axis=1
    )
    together = _p_values(strangeness, calibration.pooled)
    counts = np.array([len(own) for own in calibration.own])
    table: FloatArray = (counts * alone + _POOLED_WEIGHT * together) / (counts + _POOLED_WEIGHT)
    return table


def _p_values(strangeness: FloatArray, scores: FloatArray) -> FloatArray:
    at_least_as_strange = len(scores) - np.searchsorted(scores, strangeness, side="left")
    table: FloatArray = (1 + at_least_as_strange) / (len(scores) + 1)
    return table
