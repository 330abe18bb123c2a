"""From a YOLO model's raw output to boxes: plain functions of arrays."""

from typing import Literal

import numpy as np

from slidepipe.interfaces import BoolArray, FloatArray, IntArray

Layout = Literal["v5", "v8", "end2end"]

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
"""Strides of the detection layers of the usual models, and of those for large inputs."""


SAME_OBJECT = 0.5
"""Share of the smaller box from which on boxes of two tiles are one object."""


def layout_of(shape: tuple[int, ...], height_px: int, width_px: int) -> Layout | None:
    """Tell from the shape (1, A, B) of an output what its rows are.

    - "v5": (1, N, 5 + C) rows of centre x, y, width, height, objectness and C class scores; three anchors a cell.
    - "v8": (1, 4 + C, N), or turned (1, N, 4 + C), the same without objectness; one anchor a cell.
    - "end2end": (1, N, 6) rows of x0, y0, x1, y1, score, class, after the model's own suppression of doubles.

    Returns:
        None where the shape fits none.
    """
    if len(shape) != 3 or shape[0] != 1:
        return None
    rows, columns = shape[1:]
    cells = {sum(-(-height_px // s) * -(-width_px // s) for s in strides) for strides in STRIDES}
    if columns > rows:
        return "v8" if rows >= 5 else None
    if rows in cells and columns >= 5:
        return "v8"
    if columns == 6 and rows not in {3 * count for count in cells}:
        return "end2end"
    return "v5" if columns >= 6 else None


def parse(output: FloatArray, layout: Layout, classes: tuple[int, ...] | None) -> tuple[FloatArray, FloatArray]:
    """Read boxes and scores out of one output.

    Args:
        output: (1, A, B) as the model gave it.
        layout: what its rows are, see :func:`layout_of`.
        classes: numbers of the classes that count, or None for all.

    Returns:
        float64 (N, 4) boxes x0, y0, x1, y1 in pixels of the input, and float64 (N,) scores. A row whose best class does
        not count has score 0.
    """
    rows = np.asarray(output[0], np.float64)
    if layout == "end2end":
        wanted = np.isin(rows[:, 5].round(), classes) if classes is not None else np.ones(len(rows), np.bool_)
        return rows[:, :4], np.where(wanted, rows[:, 4], 0.0)
    if layout == "v8":
        rows = rows.T if rows.shape[1] > rows.shape[0] else rows
        objectness, per_class = np.ones(len(rows)), rows[:, 4:]
    else:
        objectness, per_class = rows[:, 4], rows[:, 5:]
    best = per_class.argmax(axis=1)
    scores = objectness * per_class[np.arange(len(rows)), best]
    if classes is not None:
        scores = np.where(np.isin(best, classes), scores, 0.0)
    half = rows[:, 2:4] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1), scores


def overlaps(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of each of (N, 4) boxes with each of (M, 4), float64 (N, M)."""
    shared = _shared(boxes, others)
    union = _area(boxes)[:, None] + _area(others)[None] - shared
    ratio: FloatArray = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    return ratio


def _area(boxes: FloatArray) -> FloatArray:
    area: FloatArray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _shared(boxes: FloatArray, others: FloatArray) -> FloatArray:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = (high - low).clip(0)
    shared: FloatArray = sides[..., 0] * sides[..., 1]
    return shared


def ranking(boxes: FloatArray, scores: FloatArray) -> IntArray:
    """Order of preference, best first: by score, and by place where scores are equal, so that it depends on nothing else."""
    return np.lexsort((*boxes.T, -scores)).astype(np.int64)


def suppress(boxes: FloatArray, scores: FloatArray, iou: float) -> BoolArray:
    """Non-maximum suppression: which of N boxes to keep, the best first, none that overlaps a kept one by more than ``iou``."""
    keep = np.zeros(len(boxes), np.bool_)
    left = ranking(boxes, scores)
    while len(left):
        best, left = left[0], left[1:]
        keep[best] = True
        left = left[overlaps(boxes[best][None], boxes[left])[0] <= iou]
    return keep


def shares(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over the smaller box, of each of (N, 4) boxes with each of (M, 4), float64 (N, M)."""
    smaller = np.minimum(_area(boxes)[:, None], _area(others)[None])
    ratio: FloatArray = np.divide(_shared(boxes, others), smaller, out=np.zeros(smaller.shape), where=smaller > 0)
    return ratio


def settle(boxes: FloatArray, scores: FloatArray, tile: FloatArray) -> BoolArray:
    """Which boxes to keep where neighbouring tiles saw one object: those of which no better box of another tile holds half.

    The measure is the share of the smaller box: a tile that sees an object less well often makes its box too small.
    Unlike :func:`suppress` a box gives way also to one that gives way itself: so a box's fate depends on the boxes that
    overlap it and not on a chain of them across the slide, and is the same in whatever block it is settled.
    """
    rank = np.empty(len(boxes), np.int64)
    rank[ranking(boxes, scores)] = np.arange(len(boxes))
    keep = np.ones(len(boxes), np.bool_)
    for start in range(0, len(boxes), 1024):  # bounds the matrix, not the result
        part = slice(start, start + 1024)
        better = (rank[None] < rank[part, None]) & (tile[None] != tile[part, None])
        keep[part] = ~(better & (shares(boxes[part], boxes) > SAME_OBJECT)).any(axis=1)
    return keep
