"""Unknown objects in groups of those that look alike, so that a kind met often stands out from scattered debris."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import AgglomerativeClustering

from slidepipe.interfaces import Float32Array

#: More than this many embeddings are sampled: the tree of N objects takes N squared numbers.
MOST_CLUSTERED = 3000
_MOST_GROUPS = 12


@dataclass(frozen=True)
class Group:
    """Objects that look alike.

    Attributes:
        members: int64 (M,), rows, the most typical first.
        likeness: mean cosine similarity of the members to their centre, 0 to 1.
    """

    members: npt.NDArray[np.int64]
    likeness: float


def group_alike(embeddings: Float32Array) -> list[Group]:
    """Group embeddings by Ward's method on unit vectors; no random choice, so the same objects give the same groups.

    There are about the square root of N / 2 groups, at most 12. They are ordered by how much of the spread they explain, size
    times (spread of all - spread within), so that many objects of one kind come before as many that merely share a group.

    Args:
        embeddings: float32 (N, D), finite.
    """
    if len(embeddings) == 0:
        return []
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0).astype(np.float64)
    groups = min(_MOST_GROUPS, max(1, round(float(np.sqrt(len(unit) / 2)))), len(unit))
    labels = np.zeros(len(unit), np.int64)
    if groups > 1:
        labels = AgglomerativeClustering(n_clusters=groups, linkage="ward").fit_predict(unit)
    spread = float(((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean())
    found: list[tuple[float, Group]] = []
    for label in range(groups):
        rows = np.flatnonzero(labels == label)
        centre = unit[rows].mean(axis=0)
        within = float(((unit[rows] - centre) ** 2).sum(axis=1).mean())
        length = float(np.linalg.norm(centre))
        likeness = unit[rows] @ (centre / length if length else centre)
        order = rows[np.argsort(-likeness, kind="stable")]
        found.append((len(rows) * (spread - within), Group(order.astype(np.int64), float(likeness.mean()))))
    found.sort(key=lambda item: (-item[0], int(item[1].members[0])))
    return [group for _, group in found]
