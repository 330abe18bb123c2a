"""Compute boxes from the raw output of a YOLO model, with plain functions of arrays."""

from typing import Literal

import numpy as np

from slidepipe.interfaces import BoolArray, FloatArray, IntArray

Layout = Literal["v5", "v8", "end2end"]

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
"""Strides of the detection layers of common models, and of models for large inputs."""


SAME_OBJECT = 0.5
"""Overlap, as a fraction of the smaller box, above which boxes of two tiles are the same object."""


def layout_of(shape: tuple[int, ...], height_px: int, width_px: int) -> Layout | None:
    """Return the layout of an output, judged by its shape.

    - `v5`: (1, N, 5 + C), rows of centre x, y, width, height, objectness and C class scores, with three anchors per cell.
    - `v8`: (1, 4 + C, N), or transposed (1, N, 4 + C), the same without objectness, with one anchor per cell.
    - `end2end`: (1, N, 6), rows of x0, y0, x1, y1, score and class, without duplicates.

    Args:
        shape: shape of the output.
        height_px: height of the input of the model.
        width_px: width of the input of the model.

    Returns:
        The layout, or None if no layout has this shape.
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
    """Return the boxes and scores in one output.

    Args:
        output: (1, A, B), the output of the model.
        layout: its layout, see `layout_of`.
        classes: numbers of the classes to keep, or None for all.

    Returns:
        Boxes, float64 (N, 4), x0, y0, x1, y1 in pixels of the input; and scores, float64 (N,). The score is 0 if the best
        class is not one of `classes`.
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
    """Return the intersection over union of each of N boxes (N, 4) with each of M boxes (M, 4), float64 (N, M)."""
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
    """Return the order of N boxes, best first, int64 (N,): by score, and by position if scores are equal.

    So the order does not depend on the order of the input.
    """
    return np.lexsort((*boxes.T, -scores)).astype(np.int64)


def suppress(boxes: FloatArray, scores: FloatArray, iou: float) -> BoolArray:
    """Return which of N boxes non-maximum suppression keeps, bool (N,).

    The boxes are visited from the best to the worst. A box is kept unless its overlap with a kept box exceeds `iou`.
    """
    keep = np.zeros(len(boxes), np.bool_)
    left = ranking(boxes, scores)
    while len(left):
        best, left = left[0], left[1:]
        keep[best] = True
        left = left[overlaps(boxes[best][None], boxes[left])[0] <= iou]
    return keep


def shares(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return the intersection of each of N boxes (N, 4) with each of M boxes (M, 4), as a fraction of the smaller box, (N, M)."""
    smaller = np.minimum(_area(boxes)[:, None], _area(others)[None])
    ratio: FloatArray = np.divide(_shared(boxes, others), smaller, out=np.zeros(smaller.shape), where=smaller > 0)
    return ratio


def remove_duplicates(boxes: FloatArray, scores: FloatArray, tile: FloatArray) -> BoolArray:
    """Return which of N boxes to keep if neighbouring tiles report the same object, bool (N,).

    A box is removed if a better box of another tile overlaps it by more than half of the smaller one. The smaller box is the
    measure, because a tile that contains only a part of an object often makes its box too small.

    In contrast to `suppress`, a box that is itself removed also removes others. Whether a box is kept therefore depends only on
    the boxes that overlap it, not on a chain of boxes across the slide, and is the same in every block.

    Args:
        boxes: float64 (N, 4).
        scores: float64 (N,).
        tile: float64 (N,), number of the tile of each box.
    """
    rank = np.empty(len(boxes), np.int64)
    rank[ranking(boxes, scores)] = np.arange(len(boxes))
    keep = np.ones(len(boxes), np.bool_)
    for start in range(0, len(boxes), 1024):  # limits the size of the matrix; the result does not change
        part = slice(start, start + 1024)
        better = (rank[None] < rank[part, None]) & (tile[None] != tile[part, None])
        keep[part] = ~(better & (shares(boxes[part], boxes) > SAME_OBJECT)).any(axis=1)
    return keep
