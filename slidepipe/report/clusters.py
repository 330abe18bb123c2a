"""Unknown objects in groups of those that look alike, so that a kind met often stands out from scattered debris."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import Float32Array

#: More than this many embeddings are sampled: the tree of N objects takes N squared numbers.
MOST_CLUSTERED = 3000
_MOST_GROUPS = 12


@dataclass(frozen=True)
class Group:
    """Objects that look alike.

    Attributes:
        members: int64 (M,), rows, the most typical first.
        likeness: 1 where all members are the same, 0 where they are no more alike than all objects together.
    """

    members: npt.NDArray[np.int64]
    likeness: float


def group_alike(embeddings: Float32Array) -> list[Group]:
    """Group embeddings by Ward's method on standardised unit vectors; no random choice, so the same objects give the same groups.

    There are about the square root of N / 2 groups, at most 12. They are ordered by how much of the spread they explain, size
    times (spread of all - spread within), so that many objects of one kind come before as many that merely share a group.

    Args:
        embeddings: float32 (N, D), finite.
    """
    if len(embeddings) == 0:
        return []
    wide = embeddings.astype(np.float64)
    # What all embeddings of a backbone share would make any two look alike: centre, and give each dimension its own unit.
    deviation = wide.std(axis=0)
    centred = np.divide(wide - wide.mean(axis=0), deviation, out=np.zeros_like(wide), where=deviation > 0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    groups = min(_MOST_GROUPS, max(1, round(float(np.sqrt(len(unit) / 2)))), len(unit))
    labels = np.zeros(len(unit), np.int64)
    if groups > 1:
        from sklearn.cluster import (
            AgglomerativeClustering,
        )  # half a second, which a run without unknowns need not spend

        labels = AgglomerativeClustering(n_clusters=groups, linkage="ward").fit_predict(unit)
    spread = float(((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean())
    found: list[tuple[float, Group]] = []
    for label in range(groups):
        rows = np.flatnonzero(labels == label)
        centre = unit[rows].mean(axis=0)
        within = float(((unit[rows] - centre) ** 2).sum(axis=1).mean())
        order = rows[np.argsort(((unit[rows] - centre) ** 2).sum(axis=1), kind="stable")]
        likeness = max(0.0, 1 - within / spread) if spread else 1.0
        found.append((len(rows) * (spread - within), Group(order.astype(np.int64), likeness)))
    found.sort(key=lambda item: (-item[0], int(item[1].members[0])))
    return [group for _, group in found]
