"""Classify the objects of one slide: stored boxes, embeddings and crop properties become rows of the object table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from slidepipe.classification.object_table import ACCEPTED, SCHEMA, UNKNOWN, UNUSABLE, SlideObjects
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.classification.slide_shift import decide_slide
from slidepipe.classification.usable import find_faults, read_crop_properties
from slidepipe.config import CountingConfig
from slidepipe.interfaces import BoolArray, Decisions, Float32Array, FloatArray, Head, IntArray
from slidepipe.samples.sample import WellSlide
from slidepipe.store.arrays import read_array
from slidepipe.store.object_id import ObjectId
from slidepipe.store.slide_store import SlideStore

_UNREADABLE = "its pixels could not be read"


@dataclass(frozen=True)
class _StoredObjects:
    """What the stages stored about the N objects of a slide.

    Attributes:
        boxes: int64 (N, 4), half-open x0, y0, x1, y1 in level-0 pixels of the whole slide.
        cut: bool (N,), whether the edge of the scanned area cuts the object.
        area_um2: float64 (N,).
        score: float64 (N,), the detector's.
        embeddings: float32 (N, D); a row of NaN where the object's pixels could not be read.
        properties: float64 (N,) for each quality rule, by column.
    """

    boxes: IntArray
    cut: BoolArray
    area_um2: FloatArray
    score: FloatArray
    embeddings: Float32Array
    properties: dict[str, FloatArray]


def classify_slide(
    slide: WellSlide,
    store: SlideStore,
    mpp: tuple[float, float],
    find_head: Callable[[], tuple[Head, ReferenceSet]],
    limits: CountingConfig,
    slide_shift: bool,
) -> SlideObjects:
    """Return the object rows of one slide. All stages of the slide must be published.

    Args:
        slide: the slide and its sample.
        store: the slide's store.
        mpp: micrometres per level-0 pixel, in x and y.
        find_head: returns the fitted head, and the reference set whose rows its neighbours are. Called only if there are objects.
        limits: the limits beyond which an object is unusable.
        slide_shift: whether the mean shift of the slide is subtracted first (`slidepipe.classification.slide_shift`).
    """
    stored = _read_objects(store)
    if len(stored.boxes) == 0:  # the length of an embedding is unknown too, so there is nothing to give to a head
        return SlideObjects(slide.slide_id, SCHEMA.empty_table())
    width_um = (stored.boxes[:, 2] - stored.boxes[:, 0]) * mpp[0]
    height_um = (stored.boxes[:, 3] - stored.boxes[:, 1]) * mpp[1]
    reasons = find_faults(stored.properties, np.maximum(width_um, height_um), stored.cut, limits)
    readable = np.isfinite(stored.embeddings).all(axis=1)
    for row in np.flatnonzero(~readable).tolist():
        reasons[row] = _UNREADABLE
    head, reference = find_head()
    embeddings = stored.embeddings[readable]
    decisions = (
        decide_slide(head, embeddings, reference.crop_like, reference.genera)
        if slide_shift
        else head.predict(embeddings)
    )
    columns = {
        **_sample_columns(slide, len(stored.boxes)),
        **{name: stored.boxes[:, index] for index, name in enumerate(("x0", "y0", "x1", "y1"))},
        "width_um": np.round(width_um, 3),
        "height_um": np.round(height_um, 3),
        "area_um2": np.round(stored.area_um2, 3),
        "detect_score": np.round(stored.score, 6),
        **_decision_columns(decisions, np.flatnonzero(readable), reference, reasons),
        **{column: _rounded(values) for column, values in stored.properties.items()},
    }
    return SlideObjects(slide.slide_id, pa.table(columns, schema=SCHEMA))


def _read_objects(store: SlideStore) -> _StoredObjects:
    boxes = store.read("boxes")
    return _StoredObjects(
        boxes=read_array(boxes, "boxes").reshape(-1, 4),
        cut=read_array(boxes, "cut").astype(np.bool_),
        area_um2=read_array(boxes, "area_um2"),
        score=read_array(boxes, "score"),
        embeddings=store.read_array("embeddings", "embeddings"),
        properties=read_crop_properties(store),
    )


def _sample_columns(slide: WellSlide, count: int) -> dict[str, object]:
    """Return the columns that name the slide, its sample and its `count` objects."""
    sample = slide.sample
    return {
        "slide_id": [slide.slide_id] * count,
        "sample_id": [sample.sample_id] * count,
        "well": [sample.well] * count,
        "depth_m": [None if sample.depth_m is None else float(sample.depth_m)] * count,
        "sample_type": [sample.sample_type] * count,
        "object_id": [str(ObjectId(slide.slide_id, row)) for row in range(count)],
    }


def _decision_columns(
    decisions: Decisions, rows: IntArray, reference: ReferenceSet, reasons: Sequence[str | None]
) -> dict[str, object]:
    """Return the columns that hold the head's decisions and the state that follows from them.

    Args:
        decisions: of the objects whose pixels could be read.
        rows: int64 (K,), the row of each decision. Other rows get nulls.
        reference: the set whose rows the neighbours are.
        reasons: for all N objects, why the object is unusable, or None.
    """
    count = len(reasons)
    state = [UNUSABLE] * count
    genus: list[str | None] = [None] * count
    candidate: list[str | None] = [None] * count
    p_value: list[float | None] = [None] * count
    distance: list[float | None] = [None] * count
    nearest: list[list[dict[str, object]] | None] = [None] * count
    for row, accepted, best, p, to_best, neighbours, distances in zip(
        rows.tolist(),
        decisions.accepted.tolist(),
        decisions.genus.tolist(),
        decisions.p_value.tolist(),
        decisions.distance.tolist(),
        decisions.neighbours,
        decisions.neighbour_distances.tolist(),
        strict=True,
    ):
        candidate[row], p_value[row], distance[row] = best, round(p, 6), round(to_best, 6)
        nearest[row] = [
            {
                "genus": str(reference.genera[neighbour]),
                "reference": str(reference.files[neighbour]),
                "distance": round(to_neighbour, 6),
            }
            for neighbour, to_neighbour in zip(neighbours, distances, strict=True)
        ]
        if reasons[row] is None:
            state[row] = ACCEPTED if accepted else UNKNOWN
            genus[row] = best if accepted else None
    return {
        "state": state,
        "genus": genus,
        "p_value": p_value,
        "distance": distance,
        "nearest": nearest,
        "candidate": candidate,
        "reason": reasons,
    }


def _rounded(values: FloatArray) -> list[float | None]:
    """Round to three decimals. A value that could not be measured (NaN) becomes null."""
    return [round(value, 3) if math.isfinite(value) else None for value in values.tolist()]
