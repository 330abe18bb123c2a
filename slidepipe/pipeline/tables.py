"""The tables of a run: `objects.parquet`, and the CSV files that are counted from it."""

import csv
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slidepipe.classification.classify_slide import classify_slide
from slidepipe.classification.fit import SlideHeads
from slidepipe.classification.object_table import OBJECTS_FILE, ObjectTable, SlideObjects
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.config import CountingConfig
from slidepipe.counting.counts import SlideCount, by_sample, count_slide, long_table, sample_table, slide_table
from slidepipe.counting.diversity import diversity_table
from slidepipe.counting.ranges import SPECIMEN_COLUMNS, ranges_table, specimens_by_sample
from slidepipe.counting.spike import spike_table
from slidepipe.interfaces import Head
from slidepipe.pipeline.jobs import SlideState
from slidepipe.review.corrected_counts import OBJECT_COLUMNS, corrected_tables, read_review_record
from slidepipe.slides.geometry import LostRegion
from slidepipe.store.files import write_text
from slidepipe.store.object_id import ObjectId
from slidepipe.store.slide_store import SlideStore

#: The tables of a finished run.
TABLES = (
    OBJECTS_FILE,
    "counts.csv",
    "counts_slides.csv",
    "counts_long.csv",
    "diversity.csv",
    "ranges.csv",
    "spike.csv",
    "accuracy.csv",
    "corrected.csv",
    "failures.csv",
)


def write_tables(
    out: Path,
    states: Sequence[SlideState],
    find_heads: Callable[[], SlideHeads],
    genera: Sequence[str],
    counting: CountingConfig,
    slide_shift: bool,
) -> list[SlideCount]:
    """Classify and count every slide, and write each of `TABLES` once.

    The objects are classified and written slide by slide, so those of a well are never all in memory with their neighbours.

    Args:
        out: the RESULTS folder.
        states: all slides of the well. All stages of the slides without a failure are stored.
        find_heads: returns the fitted heads; called only if there are objects.
        genera: the genera, which are columns of the count tables.
        counting: the settings of counting.
        slide_shift: whether the mean shift of a slide is subtracted before classification
            (`slidepipe.classification.slide_shift`).

    Returns:
        the counts of each slide.
    """
    spike_genus = counting.spike_genus
    counts = [SlideCount(state.slide, "failed", 0.0) for state in states if state.failure]

    def find_heads_of(identity: str) -> tuple[Head, ReferenceSet]:
        return find_heads().of(identity)

    def classified() -> Iterator[SlideObjects]:
        for state in states:
            if state.job is not None and state.meta is not None and not state.failure:
                mpp = (state.meta.mpp_x, state.meta.mpp_y)
                find_head = functools.partial(find_heads_of, state.identity)
                objects = classify_slide(state.slide, state.job.store, mpp, find_head, counting, slide_shift)
                area_mm2 = state.job.store.attributes("boxes")["analysed_mm2"]
                counts.append(count_slide(state.slide, objects, area_mm2, bool(state.lost), spike_genus))
                yield objects

    object_table = ObjectTable(out)
    object_table.write(classified())
    specimens = specimens_by_sample(object_table.read_accepted(SPECIMEN_COLUMNS))
    samples = by_sample(counts)
    native = [genus for genus in genera if genus != spike_genus]
    corrected = corrected_tables(
        object_table.read(OBJECT_COLUMNS),
        read_review_record(out),
        sample_table(counts, genera, spike_genus),
        long_table(counts, genera, spike_genus),
        {state.slide.slide_id: state.slide.sample.sample_id for state in states},
        genera,
    )
    tables = {
        **corrected.by_file(),
        "counts_slides.csv": slide_table(counts, genera, spike_genus),
        "diversity.csv": diversity_table(samples, genera, counting.rarefy_to, spike_genus),
        "ranges.csv": ranges_table(samples, specimens, native, counting.minimum_specimens),
        "spike.csv": spike_table(samples, genera, spike_genus),
    }
    for name, table in tables.items():
        write_text(out / name, table.to_csv(index=False, lineterminator="\n"))
    write_text(out / "failures.csv", _failures_csv(states))
    return counts


def find_lost(store: SlideStore, slide_id: str) -> list[tuple[str, str, str]]:
    """Return what could not be read of a slide.

    Args:
        store: the slide's store, with all stages.
        slide_id: the slide.

    Returns:
        triples of the stage's name, the region or object, and the reason.
    """
    boxes, crops = (store.attributes(stage) for stage in ("boxes", "crops"))
    return [
        *(("detect", str(lost.box), lost.reason) for lost in map(LostRegion.from_stored, boxes.get("lost", []))),
        *(("crop", str(ObjectId(slide_id, int(row))), reason) for row, reason in crops.get("lost", {}).items()),
    ]


def _failures_csv(states: Sequence[SlideState]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["slide_id", "stage", "region", "reason"])
    for state in states:
        whole = [(state.stage, "", state.failure)] if state.failure else []
        for stage, region, reason in (*whole, *state.lost):
            writer.writerow([state.slide.slide_id, stage, region, reason])
    return text.getvalue()
