"""The object table, ``objects.parquet``: one row an object, from which every number of a run can be recomputed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.classification.slide_shift import decide_slide
from slidepipe.config import CountingConfig
from slidepipe.crops.quality import faults, slide_properties
from slidepipe.interfaces import FloatArray, Head
from slidepipe.pipeline.tasks import object_id
from slidepipe.samples.sample import WellSlide
from slidepipe.store.arrays import read_array
from slidepipe.store.slide_store import SlideStore

ACCEPTED, UNKNOWN, UNUSABLE = "accepted", "unknown", "unusable"

_NEIGHBOUR = pa.struct([("genus", pa.string()), ("reference", pa.string()), ("distance", pa.float64())])

#: Columns in order. Boxes are half-open, level-0 pixels of the whole slide. ``candidate`` is the best genus also where it was
#: not accepted; ``reason`` says why an object is unusable, ``black_share`` and ``edge_um`` what was measured for it
#: (:mod:`slidepipe.crops.quality`).
SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("sample_id", pa.string()),
        ("well", pa.string()),
        ("depth_m", pa.float64()),
        ("sample_type", pa.string()),
        ("object_id", pa.string()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("x1", pa.int64()),
        ("y1", pa.int64()),
        ("width_um", pa.float64()),
        ("height_um", pa.float64()),
        ("area_um2", pa.float64()),
        ("detect_score", pa.float64()),
        ("state", pa.string()),
        ("genus", pa.string()),
        ("p_value", pa.float64()),
        ("distance", pa.float64()),
        ("nearest", pa.list_(_NEIGHBOUR)),
        ("candidate", pa.string()),
        ("reason", pa.string()),
        ("black_share", pa.float64()),
        ("edge_um", pa.float64()),
    ]
)


@dataclass(frozen=True)
class SlideObjects:
    """The objects of one slide as a table of :data:`SCHEMA`."""

    slide_id: str
    table: pa.Table


def classify_slide(
    slide: WellSlide,
    store: SlideStore,
    mpp: tuple[float, float],
    find_head: Callable[[], tuple[Head, ReferenceSet]],
    limits: CountingConfig,
    slide_shift: bool,
) -> SlideObjects:
    """The object rows of one slide whose stages are all published.

    Args:
        slide: the slide and its sample.
        store: its store.
        mpp: micrometres a level-0 pixel, x and y.
        find_head: gives the fitted head, and the reference set that its neighbours are rows of; asked where there are objects.
        limits: from where on an object is unusable.
        slide_shift: whether the mean shift of a slide is subtracted first (:mod:`slidepipe.classification.slide_shift`).
    """
    stored = store.read("boxes")
    boxes = read_array(stored, "boxes").reshape(-1, 4)
    cut = read_array(stored, "cut")
    embeddings = store.read_array("embeddings", "embeddings")
    if len(boxes) == 0:  # nothing was embedded, so not even the embedding's length is known
        return SlideObjects(slide.slide_id, SCHEMA.empty_table())
    lost = ~np.isfinite(embeddings).all(axis=1)
    usable = np.flatnonzero(~lost)
    head, reference = find_head()
    seen = embeddings[usable]
    decided = decide_slide(head, seen, reference.as_crops, reference.genera) if slide_shift else head.predict(seen)
    width_um, height_um = (boxes[:, 2] - boxes[:, 0]) * mpp[0], (boxes[:, 3] - boxes[:, 1]) * mpp[1]
    long_um = np.maximum(width_um, height_um)
    measured = slide_properties(store)

    count = len(boxes)
    candidate: list[str | None] = [None] * count
    genus: list[str | None] = [None] * count
    state = [UNUSABLE] * count
    reason = faults(measured, long_um, cut.astype(np.bool_), limits)
    p_value: list[float | None] = [None] * count
    distance: list[float | None] = [None] * count
    nearest: list[list[dict[str, object]] | None] = [None] * count
    for row, accepted, best, p, far, rows, distances in zip(
        usable.tolist(),
        decided.accepted.tolist(),
        decided.genus.tolist(),
        decided.p_value.tolist(),
        decided.distance.tolist(),
        decided.neighbours,
        decided.neighbour_distances.tolist(),
        strict=True,
    ):
        candidate[row], p_value[row], distance[row] = best, round(p, 6), round(far, 6)
        nearest[row] = [
            {
                "genus": str(reference.genera[other]),
                "reference": str(reference.files[other]),
                "distance": round(away, 6),
            }
            for other, away in zip(rows, distances, strict=True)
        ]
        if reason[row] is None:
            state[row] = ACCEPTED if accepted else UNKNOWN
            genus[row] = best if accepted else None
    for row in np.flatnonzero(lost).tolist():
        reason[row] = "its pixels could not be read"

    depth = None if slide.sample.depth_m is None else float(slide.sample.depth_m)
    columns: dict[str, object] = {
        "slide_id": [slide.slide_id] * count,
        "sample_id": [slide.sample.sample_id] * count,
        "well": [slide.sample.well] * count,
        "depth_m": [depth] * count,
        "sample_type": [slide.sample.sample_type] * count,
        "object_id": [object_id(slide.slide_id, row) for row in range(count)],
        **{name: boxes[:, index] for index, name in enumerate(("x0", "y0", "x1", "y1"))},
        "width_um": np.round(width_um, 3),
        "height_um": np.round(height_um, 3),
        "area_um2": np.round(read_array(stored, "area_um2"), 3),
        "detect_score": np.round(read_array(stored, "score"), 6),
        "state": state,
        "genus": genus,
        "p_value": p_value,
        "distance": distance,
        "nearest": nearest,
        "candidate": candidate,
        "reason": reason,
        "black_share": _rounded(measured.black_share),
        "edge_um": _rounded(measured.edge_um),
    }
    return SlideObjects(slide.slide_id, pa.table(columns, schema=SCHEMA))


def _rounded(values: FloatArray) -> list[float | None]:
    """Three digits after the point; null where nothing could be measured."""
    return [round(value, 3) if math.isfinite(value) else None for value in values.tolist()]


def write_objects(path: Path, slides: Iterator[SlideObjects]) -> Iterator[SlideObjects]:
    """Write ``objects.parquet`` slide by slide, passing each on, so that a well's objects are never in memory at once."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for slide in slides:
            writer.write_table(slide.table)
            yield slide
