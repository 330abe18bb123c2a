"""RESULTS folders made without a slide: objects as a head would have answered, with crops, for tests of tables and reviews."""

from collections.abc import Mapping, Sequence
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
from slidepipe.store.files import write_json, write_text
from slidepipe.store.slide_store import SlideStore

GENERA = ["azolla", "deflandrea", "spiniferites"]


def slide(slide_id: str, depth: str | None = "100", sample_type: str = "DC", well: str = "1/2-3") -> WellSlide:
    return WellSlide(
        slide_id, Path(f"{slide_id}.svs"), Sample(well, None if depth is None else Decimal(depth), sample_type)
    )


def objects_of(of: WellSlide, answers: Sequence[str | None]) -> SlideObjects:
    """Objects with these answers: a genus (accepted), None (unknown) or "unusable"."""
    count = len(answers)
    states = ["unknown" if answer is None else "unusable" if answer == "unusable" else "accepted" for answer in answers]
    genera = [answer if state == "accepted" else None for answer, state in zip(answers, states, strict=True)]
    depth = of.sample.depth_m
    columns = {
        "slide_id": [of.slide_id] * count,
        "sample_id": [of.sample.sample_id] * count,
        "well": [of.sample.well] * count,
        "depth_m": [None if depth is None else float(depth)] * count,
        "sample_type": [of.sample.sample_type] * count,
        "object_id": [f"{of.slide_id}:{row:05d}" for row in range(count)],
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
    return SlideObjects(of.slide_id, pa.table(columns, schema=SCHEMA))


def make(
    folder: Path, slides: Mapping[WellSlide, Sequence[str | None] | None], genera: Sequence[str] = GENERA
) -> list[SlideCount]:
    """Write a RESULTS folder; a slide whose answers are None failed."""
    folder.mkdir(parents=True)
    read = {of: objects_of(of, answers) for of, answers in slides.items() if answers is not None}
    ObjectTable(folder).write(read.values())
    counts = [SlideCount(of, "failed", 0.0) for of, answers in slides.items() if answers is None]
    counts += [count_slide(of, objects, 2.0, partial=False) for of, objects in read.items()]
    tables = corrected_tables(
        ObjectTable(folder).read(OBJECT_COLUMNS),
        read_review_record(folder),
        sample_table(counts, genera),
        long_table(counts, genera),
        {of.slide_id: of.sample.sample_id for of in slides},
        genera,
    )
    for name, table in (*tables.by_file().items(), ("counts_slides.csv", slide_table(counts, genera))):
        write_text(folder / name, table.to_csv(index=False, lineterminator="\n"))
    for of, objects in read.items():
        _write_crops(SlideStore.in_results(folder, of.slide_id), len(objects.table))
    entries = [{"slide_id": of.slide_id, "objects": len(objects.table)} for of, objects in read.items()]
    write_json(
        folder / "manifest.json",
        {"slidepipe": "test", "tables": "done", "slides": entries, "reference": {"genera": list(genera)}},
    )
    return counts


def table(folder: Path, name: str) -> pd.DataFrame:
    """A table as text, so that an empty cell is told from a number."""
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
