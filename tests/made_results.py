"""RESULTS folders made without slides and without a run, for tests of tables and reviews.

The objects have given states and genera, boxes and crops, but no embeddings. For a folder with embeddings see
`tests.synthetic`.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from slidepipe.classification.object_table import SCHEMA, ObjectTable, SlideObjects
from slidepipe.counting.counts import SlideCount, count_slide, long_table, sample_table, slide_table
from slidepipe.crops.cut import CropSpec, encode_crop
from slidepipe.crops.quality import RULES
from slidepipe.interfaces import IntArray
from slidepipe.review.corrected_counts import OBJECT_COLUMNS, corrected_tables, read_review_record
from slidepipe.samples.sample import Sample, WellSlide
from slidepipe.store.arrays import write_jpegs
from slidepipe.store.files import write_text
from slidepipe.store.manifest import Manifest, ReferenceRecord, SlideRecord
from slidepipe.store.slide_store import SlideStore

GENERA = ["azolla", "deflandrea", "spiniferites"]


def slide(slide_id: str, depth: str | None = "100", sample_type: str = "DC", well: str = "1/2-3") -> WellSlide:
    """Return a slide of the well, by default of ditch cuttings from 100 m; `depth` in metres."""
    return WellSlide(
        slide_id, Path(f"{slide_id}.svs"), Sample(well, None if depth is None else Decimal(depth), sample_type)
    )


def objects_of(made: WellSlide, answers: Sequence[str | None]) -> SlideObjects:
    """Return the objects of a slide. Each answer is a genus (accepted), None (unknown) or "unusable"."""
    count = len(answers)
    states = ["unknown" if answer is None else "unusable" if answer == "unusable" else "accepted" for answer in answers]
    genera = [answer if state == "accepted" else None for answer, state in zip(answers, states, strict=True)]
    depth = made.sample.depth_m
    columns = {
        "slide_id": [made.slide_id] * count,
        "sample_id": [made.sample.sample_id] * count,
        "well": [made.sample.well] * count,
        "depth_m": [None if depth is None else float(depth)] * count,
        "sample_type": [made.sample.sample_type] * count,
        "object_id": [f"{made.slide_id}:{row:05d}" for row in range(count)],
        **{
            name: [row * 10 + edge for row in range(count)]
            for name, edge in (("x0", 0), ("y0", 1), ("x1", 8), ("y1", 9))
        },
        **{name: [1.0] * count for name in ("width_um", "height_um", "area_um2", "detect_score")},
        "state": states,
        "genus": genera,
        "p_value": [round(0.01 + 0.9 * ((row * 7) % 11) / 11, 6) for row in range(count)],
        "distance": [float((row * 5) % 13) for row in range(count)],
        "nearest": [None] * count,
        "candidate": [genus or GENERA[row % len(GENERA)] for row, genus in enumerate(genera)],
        "reason": [None] * count,
        **{rule.column: [0.0] * count for rule in RULES},
    }
    return SlideObjects(made.slide_id, pa.table(columns, schema=SCHEMA))


def make(
    folder: Path, slides: Mapping[WellSlide, Sequence[str | None] | None], genera: Sequence[str] = GENERA
) -> list[SlideCount]:
    """Write a RESULTS folder.

    Args:
        folder: the folder to make.
        slides: the answers of each slide's objects, as for `objects_of`; None for a slide that failed.
        genera: the genera of the reference set.

    Returns:
        The counts of each slide.
    """
    folder.mkdir(parents=True)
    read = {made: objects_of(made, answers) for made, answers in slides.items() if answers is not None}
    ObjectTable(folder).write(read.values())
    counts = [SlideCount(made, "failed", 0.0) for made, answers in slides.items() if answers is None]
    counts += [count_slide(made, objects, 2.0, partial=False) for made, objects in read.items()]
    tables = corrected_tables(
        ObjectTable(folder).read(OBJECT_COLUMNS),
        read_review_record(folder),
        sample_table(counts, genera),
        long_table(counts, genera),
        {made.slide_id: made.sample.sample_id for made in slides},
        genera,
    )
    for name, table in (*tables.by_file().items(), ("counts_slides.csv", slide_table(counts, genera))):
        write_text(folder / name, table.to_csv(index=False, lineterminator="\n"))
    for made, objects in read.items():
        _write_crops(SlideStore.in_results(folder, made.slide_id), len(objects.table))
    _manifest(slides, {made: len(objects.table) for made, objects in read.items()}, genera).write(folder)
    return counts


def _manifest(slides: Iterable[WellSlide], objects: Mapping[WellSlide, int], genera: Sequence[str]) -> Manifest:
    records = []
    for made in slides:
        depth = made.sample.depth_m
        records.append(
            SlideRecord(
                slide_id=made.slide_id,
                path=str(made.path),
                sample_id=made.sample.sample_id,
                well=made.sample.well,
                depth_m=None if depth is None else float(depth),
                sample_type=made.sample.sample_type,
                status="ok" if made in objects else "failed",
                objects=objects.get(made),
            )
        )
    return Manifest(
        slidepipe="test",
        written="2026-01-01T00:00:00+00:00",
        well="well",
        settings={},
        backbone={"name": "made"},
        reference=ReferenceRecord(folder="reference", fingerprint="00", images=0, genera=list(genera)),
        objects=sum(objects.values()),
        accepted=0,
        slides=records,
        tables="done",
    )


def table(folder: Path, name: str) -> pd.DataFrame:
    """Return a table whose cells are text, so that an empty cell differs from every number."""
    return pd.read_csv(folder / name, dtype=str, keep_default_na=False)


def _write_crops(store: SlideStore, count: int) -> None:
    jpegs = [
        np.frombuffer(encode_crop(np.full((24, 20, 3), 40 + row % 200, np.uint8), CropSpec(0.1, 256, 90)), np.uint8)
        for row in range(count)
    ]
    ends: IntArray = np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64)
    store.publish(
        "crops", "test", {}, lambda group: write_jpegs(group, iter(jpegs), int(ends[-1]) if count else 0, ends)
    )
