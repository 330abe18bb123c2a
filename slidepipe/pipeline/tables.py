"""The tables of a run: ``objects.parquet`` and, counted from it, the CSV files."""

import csv
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from slidepipe.classification.object_table import ACCEPTED, SlideObjects, classify_slide, write_objects
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.config import CountingConfig
from slidepipe.counting.counts import SlideCount, by_sample, count_slide, long_table, sample_table, slide_table
from slidepipe.counting.diversity import diversity_table
from slidepipe.counting.ranges import ranges_table
from slidepipe.counting.spike import spike_table
from slidepipe.interfaces import Head
from slidepipe.pipeline import tasks
from slidepipe.pipeline.plan import SlideState
from slidepipe.review.corrected_counts import correct_counts
from slidepipe.review.references import Heads
from slidepipe.store.files import write_file, write_text
from slidepipe.store.slide_store import SlideStore

TABLES = (
    "objects.parquet",
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
    find_heads: Callable[[], Heads],
    genera: Sequence[str],
    counting: CountingConfig,
    slide_shift: bool,
) -> list[SlideCount]:
    """Classify and count every slide, and write :data:`TABLES`.

    Args:
        out: the RESULTS folder.
        states: all slides of the well; those without a failure have all stages published.
        find_heads: gives the fitted head of each slide; asked where there are objects.
        genera: the columns of the count tables.
        counting: how the tables are made.
        slide_shift: whether the mean shift of a slide is subtracted first (:mod:`slidepipe.classification.slide_shift`).
    """
    spike_genus = counting.spike_genus
    by_id = {state.slide.slide_id: state for state in states}
    counts = [SlideCount(state.slide, "failed", 0.0) for state in states if state.failure]

    def find_heads_of(identity: str) -> tuple[Head, ReferenceSet]:
        return find_heads().of(identity)

    def classified() -> Iterator[SlideObjects]:
        for state in states:
            if state.job is not None and state.meta is not None and not state.failure:
                mpp = (state.meta.mpp_x, state.meta.mpp_y)
                find_head = functools.partial(find_heads_of, state.identity)
                yield classify_slide(state.slide, state.job.store, mpp, find_head, counting, slide_shift)

    def write(path: Path) -> None:
        for objects in write_objects(path, classified()):
            state = by_id[objects.slide_id]
            area_mm2 = SlideStore.in_results(out, objects.slide_id).attributes("boxes")["analysed_mm2"]
            counts.append(count_slide(state.slide, objects, area_mm2, bool(state.lost), spike_genus))

    write_file(out / "objects.parquet", write)
    samples = by_sample(counts)
    native = [genus for genus in genera if genus != spike_genus]
    for name, table in (
        ("counts.csv", sample_table(counts, genera, spike_genus)),
        ("counts_slides.csv", slide_table(counts, genera, spike_genus)),
        ("counts_long.csv", long_table(counts, genera, spike_genus)),
        ("diversity.csv", diversity_table(samples, genera, counting.rarefy_to, spike_genus)),
        (
            "ranges.csv",
            ranges_table(samples, _specimens(out / "objects.parquet"), native, counting.minimum_specimens),
        ),
        ("spike.csv", spike_table(samples, genera, spike_genus)),
    ):
        write_text(out / name, table.to_csv(index=False, lineterminator="\n"))
    correct_counts(out, genera)
    write_text(out / "failures.csv", _failures_csv(states))
    return counts


def _specimens(path: Path) -> dict[tuple[str, str], list[str]]:
    """The accepted objects of each sample and genus, the most certain first."""
    columns = ["sample_id", "genus", "object_id", "p_value"]
    accepted = pq.read_table(path, columns=columns, filters=[("state", "=", ACCEPTED)]).to_pandas()
    accepted = accepted.sort_values(["p_value", "object_id"], ascending=[False, True], kind="stable")
    specimens: dict[tuple[str, str], list[str]] = {}
    for sample_id, genus, object_id in zip(
        accepted["sample_id"], accepted["genus"], accepted["object_id"], strict=True
    ):
        specimens.setdefault((sample_id, genus), []).append(object_id)
    return specimens


def find_lost(store: SlideStore, slide_id: str) -> list[tuple[str, str, str]]:
    """What could not be read of a slide whose stages are published: (stage, region or object, reason)."""
    boxes, crops = (store.attributes(stage) for stage in ("boxes", "crops"))
    return [
        *(("detect", region, reason) for region, reason in boxes.get("lost", [])),
        *(("crop", tasks.object_id(slide_id, int(row)), reason) for row, reason in crops.get("lost", {}).items()),
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
