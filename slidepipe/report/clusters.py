"""Groups of unknown objects that look alike, so that a kind that occurs often stands out from scattered debris."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import Float32Array

#: Above this number of embeddings a random sample is grouped, because the memory of the method grows with N squared.
MAX_GROUPED = 3000
_MAX_GROUPS = 12


@dataclass(frozen=True)
class Group:
    """Objects that look alike.

    Attributes:
        members: int64 (M,), row numbers, the most typical first.
        similarity: 1 if all members are the same, 0 if they are no more alike than all objects together.
    """

    members: npt.NDArray[np.int64]
    similarity: float


def group_similar(embeddings: Float32Array) -> list[Group]:
    """Group embeddings by Ward's method on standardised unit vectors.

    Nothing is random: the same embeddings give the same groups. There are about sqrt(N / 2) groups, at most 12. They
    are ordered by how much of the spread they explain: size times (spread of all - spread within the group). So many
    objects of one kind come before as many objects that merely share a group.

    Args:
        embeddings: float32 (N, D), finite.

    Returns:
        The groups, the one that explains most first; none if there are no embeddings.
    """
    if len(embeddings) == 0:
        return []
    wide = embeddings.astype(np.float64)
    # All embeddings of a backbone share a large common part, which would make any two look alike. So each dimension is
    # centred and divided by its standard deviation.
    deviation = wide.std(axis=0)
    centred = np.divide(wide - wide.mean(axis=0), deviation, out=np.zeros_like(wide), where=deviation > 0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    groups = min(_MAX_GROUPS, max(1, round(float(np.sqrt(len(unit) / 2)))), len(unit))
    labels = np.zeros(len(unit), np.int64)
    if groups > 1:
        # Imported here because the import takes half a second, which a run without unknown objects does not need.
        from sklearn.cluster import AgglomerativeClustering

        labels = AgglomerativeClustering(n_clusters=groups, linkage="ward").fit_predict(unit)
    spread = float(((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean())
    found: list[tuple[float, Group]] = []
    for label in range(groups):
        rows = np.flatnonzero(labels == label)
        centre = unit[rows].mean(axis=0)
        within = float(((unit[rows] - centre) ** 2).sum(axis=1).mean())
        order = rows[np.argsort(((unit[rows] - centre) ** 2).sum(axis=1), kind="stable")]
        similarity = max(0.0, 1 - within / spread) if spread else 1.0
        found.append((len(rows) * (spread - within), Group(order.astype(np.int64), similarity)))
    found.sort(key=lambda item: (-item[0], int(item[1].members[0])))
    return [group for _, group in found]
