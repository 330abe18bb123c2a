"""Corrected counts: what a reviewer's labels of a random few objects say of the counts of all.

See :mod:`slidepipe.review.draw` for the draw and :mod:`slidepipe.review.audit` for the estimator. Only the detected, usable
objects are corrected: a draw of detections says nothing about fossils that the detector missed.

Beside the estimate stand the reviewed counts: the counts with each label put in the place of the head's answer, whether a draw
chose its object or not, and the fossils added that somebody drew by hand. They estimate nothing, and need no draw.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slidepipe.classification.object_table import ACCEPTED, ObjectTable
from slidepipe.counting.counts import LONG_COLUMNS, rounded
from slidepipe.counting.intervals import Estimate
from slidepipe.results import Results
from slidepipe.review.audit import FAR, NEAR, GenusAudit, Stratum, audit_genus
from slidepipe.review.draw import FRAME_COLUMNS, frame_of, read_review
from slidepipe.review.labels import (
    EDGES,
    LABELS,
    REVIEW,
    Missed,
    fitting_labels,
    genus_said,
    read_cells,
    read_file,
    read_labels,
    read_missed,
)
from slidepipe.store.files import write_text
from slidepipe.store.manifest import read_manifest

logger = logging.getLogger(__name__)

UNCORRECTED = "uncorrected detections"
CORRECTED = "corrected"

#: ``sample_id`` of the rows of ``corrected.csv`` for the samples together.
WHOLE_WELL = "(whole well)"

ACCURACY_COLUMNS = (
    "genus",
    "count",
    "labelled",
    "right",
    "precision",
    "precision_low",
    "precision_high",
    "recall",
    "recall_low",
    "recall_high",
    "correction",
)
CORRECTED_COLUMNS = (
    "sample_id",
    "well",
    "depth_m",
    "sample_type",
    "genus",
    "count",
    "corrected",
    "corrected_low",
    "corrected_high",
    "correction",
)
_SAMPLE_COLUMNS = CORRECTED_COLUMNS[:4]
_LONG_CORRECTION = CORRECTED_COLUMNS[6:]

#: Columns that labels add to ``counts.csv``: objects with a label, fossils drawn by hand, and a column a genus with this prefix.
LABELLED, MISSED, REVIEWED = "labelled", "missed", "reviewed_"


@dataclass(frozen=True)
class Audit:
    """The labelled strata of a RESULTS folder.

    Attributes:
        strata: all strata of the draw with their labels.
        by_sample: each of them lies within one sample.
        labelled: objects with a label, of those ``drawn``.
        same_answers: the head's answers are still those that the strata were made from.
        problem: why the labels correct nothing; empty where they do.
    """

    strata: tuple[Stratum, ...] = ()
    by_sample: bool = False
    labelled: int = 0
    drawn: int = 0
    same_answers: bool = False
    problem: str = ""

    def strata_of(self, sample_id: str) -> list[Stratum]:
        """The strata within one sample (those of a draw by sample or slide)."""
        return [stratum for stratum in self.strata if stratum.sample_id == sample_id]


def correct_counts(results: Path, genera: Sequence[str] | None = None) -> None:
    """Write ``accuracy.csv`` and ``corrected.csv``, and the correction columns of ``counts_long.csv``, from the labels there are.

    Without labels, and where they cannot correct, the column ``correction`` says "uncorrected detections" and why. Where there
    are labels, ``counts.csv`` gets ``labelled``, ``missed`` and ``reviewed_GENUS``; its other columns stay as they are.

    Args:
        results: a RESULTS folder with ``objects.parquet``, ``counts.csv`` and ``counts_long.csv``.
        genera: the genera of the tables; None takes the manifest's.

    Raises:
        ResultsError: no finished results, or ``review.csv`` or ``labels.csv`` cannot be read.
    """
    if genera is None:
        genera = [str(genus) for genus in Results(results).manifest["reference"]["genera"]]
    objects = ObjectTable(results).read(FRAME_COLUMNS)
    accepted = objects[objects["state"] == ACCEPTED]
    counts = Counter(zip(accepted["sample_id"], accepted["genus"], strict=True))
    samples = [
        {column: row[column] for column in (*_SAMPLE_COLUMNS, "status")}
        for row in read_cells(results / "counts.csv", (*_SAMPLE_COLUMNS, "status"))
    ]
    said, missed = read_labels(results), read_missed(results)
    rows = {str(name): row for row, name in enumerate(objects["object_id"])}
    labels = fitting_labels(said, read_file(results / LABELS).places, rows, objects[list(EDGES)].to_numpy(np.int64))
    if len(labels) < len(said):
        logger.warning(
            "%s: %d labels are of objects that these results hold no longer (slides were detected anew), and count nothing",
            results / LABELS,
            len(said) - len(labels),
        )
    audit = take_audit(frame_of(objects), read_review(results), labels, genera)
    tables = {
        "accuracy.csv": accuracy_table(audit, counts, genera),
        "corrected.csv": (corrected := corrected_table(audit, counts, samples, genera)),
        "counts_long.csv": _long_table(read_cells(results / "counts_long.csv", LONG_COLUMNS), corrected),
    }
    for name, table in tables.items():
        write_text(results / name, table.to_csv(index=False, lineterminator="\n"))
    slides = {str(slide["slide_id"]): slide.get("sample_id") for slide in read_manifest(results).get("slides", [])}
    slides |= dict(zip(objects["slide_id"], objects["sample_id"], strict=True))
    _write_reviewed(results / "counts.csv", review_counts(objects, labels, missed, slides, genera), genera)


@dataclass(frozen=True)
class ReviewedCounts:
    """Counts with labels in the place of the head's answers.

    Attributes:
        counts: fossils by (sample_id, genus), those drawn by hand among them.
        labelled: objects with a label, by sample.
        missed: fossils drawn by hand, by (sample_id, genus).
    """

    counts: Counter[tuple[str, str]]
    labelled: Counter[str]
    missed: Counter[tuple[str, str]]


def review_counts(
    objects: pd.DataFrame,
    labels: Mapping[str, str],
    missed: Sequence[Missed],
    slides: Mapping[str, Any],
    genera: Sequence[str],
) -> ReviewedCounts:
    """Put each label in the place of the head's answer, and add the fossils that somebody drew.

    Args:
        objects: all objects, with the columns object_id, sample_id, state and genus.
        labels: by object id, as :func:`read_labels` gives them. Those of objects that are not there count nothing.
        missed: the drawn fossils.
        slides: ``sample_id`` of each slide.
        genera: names that labels are matched to, whatever their case.
    """
    named = {genus.lower(): genus for genus in genera}
    accepted = objects[objects["state"] == ACCEPTED]
    counts = Counter(zip(accepted["sample_id"], accepted["genus"], strict=True))
    drawn: Counter[tuple[str, str]] = Counter()
    labelled: Counter[str] = Counter()
    told = objects[objects["object_id"].isin(list(labels))].sort_values("object_id")
    for name, sample_id, state, genus in zip(
        *(told[column] for column in ("object_id", "sample_id", "state", "genus")), strict=True
    ):
        labelled[sample_id] += 1
        if state == ACCEPTED:
            counts[sample_id, genus] -= 1
        if label := genus_said(labels[name]):
            counts[sample_id, named.setdefault(label.lower(), label)] += 1
    for item in missed:
        if sample_id := slides.get(item.slide_id):
            drawn[sample_id, named.setdefault(item.genus.lower(), item.genus)] += 1
    return ReviewedCounts(counts + drawn, labelled, drawn)


def _write_reviewed(path: Path, reviewed: ReviewedCounts, genera: Sequence[str]) -> None:
    """Put the columns of :data:`LABELLED`, :data:`MISSED` and :data:`REVIEWED` into ``counts.csv``, or take them out."""
    rows = read_cells(path, _SAMPLE_COLUMNS)
    there = reviewed.labelled or reviewed.missed
    columns = [name for name in rows[0] if not _is_reviewed(name)] if rows else []
    if not rows or not (there or len(columns) < len(rows[0])):
        return
    others = {genus for _, genus in reviewed.counts} - set(genera)
    listed = [*genera, *sorted(others)] if there else []
    for row in rows:
        sample_id, failed = row["sample_id"], row["status"] == "failed"
        missed = sum(number for (name, _), number in reviewed.missed.items() if name == sample_id)
        cells = {LABELLED: reviewed.labelled[sample_id], MISSED: missed}
        cells |= {REVIEWED + genus: reviewed.counts[sample_id, genus] for genus in listed}
        row |= {name: "" if failed else str(number) for name, number in cells.items()}
    text = io.StringIO()
    added = [LABELLED, MISSED, *(REVIEWED + genus for genus in listed)] if there else []
    writer = csv.DictWriter(text, [*columns, *added], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _is_reviewed(column: str) -> bool:
    return column in (LABELLED, MISSED) or column.startswith(REVIEWED)


def take_audit(
    frame: pd.DataFrame, review: pd.DataFrame | None, labels: Mapping[str, str], genera: Sequence[str]
) -> Audit:
    """Join the labels to the draw; labels of objects that were not drawn correct nothing, as chance did not choose them.

    Args:
        frame: the usable objects of the results as they are now.
        review: the draw.
        labels: by object id, as :func:`read_labels` gives them; a wrong box is no fossil.
        genera: names that labels are matched to, whatever their case.
    """
    if not labels:
        return Audit(problem="no labels")
    if review is None:
        return Audit(problem=f"{LABELS} alone is no random draw: draw with 'slidepipe review sample'")
    sizes = review.drop_duplicates("stratum").set_index("stratum")["stratum_size"]
    place = ["object_id", "x0", "y0", "x1", "y1"]
    found = review.merge(frame, on=place, suffixes=("", "_now"))
    if int(sizes.sum()) != len(frame) or len(found) != len(review):
        return Audit(problem=f"{REVIEW} was drawn from other detections: move it away and draw again")
    named = {genus.lower(): genus for genus in genera}
    strata: dict[str, Stratum] = {}
    labelled = 0
    for row in review.sort_values("object_id").to_dict("records"):
        stratum = strata.setdefault(
            row["stratum"], Stratum(row["stratum_kind"], row["stratum_sample"], int(row["stratum_size"]))
        )
        label = labels.get(row["object_id"])
        if label is not None:
            label = genus_said(label)
            stratum.labels.append(named.setdefault(label.lower(), label))
            labelled += 1
    empty = sorted(name for name, stratum in strata.items() if not stratum.labels)
    return Audit(
        strata=tuple(strata[name] for name in sorted(strata)),
        by_sample=bool((review["stratum_sample"] != "").all()),
        labelled=labelled,
        drawn=len(review),
        same_answers=_answers_kept(found, frame, strata.values()),
        problem=f"{labelled} of {len(review)} drawn objects have labels, none in stratum '{empty[0]}'" if empty else "",
    )


def _answers_kept(found: pd.DataFrame, frame: pd.DataFrame, strata: Iterable[Stratum]) -> bool:
    """Whether the drawn objects, and as many of each genus as then, are answered as they were when the strata were made."""
    sizes = Counter[str]()
    for stratum in strata:
        if not stratum.is_unknown:
            sizes[stratum.kind] += stratum.size
    answers = found["genus_now"].where(found["state"] == ACCEPTED, "")
    kinds = found["stratum_kind"].where(~found["stratum_kind"].isin([NEAR, FAR]), "")
    accepted = frame.loc[frame["state"] == ACCEPTED, "genus"]
    return bool((answers == kinds).all()) and sizes == Counter(accepted)


def accuracy_table(audit: Audit, counts: Mapping[tuple[str, str], int], genera: Sequence[str]) -> pd.DataFrame:
    """``accuracy.csv``: precision and recall of each genus over the whole well with 95 % intervals.

    ``labelled`` of the objects accepted as the genus have a label, and ``right`` of these are of it. Recall is of the fossils
    among the detected objects. Both are empty where the head has been changed since the draw: its answers are not those drawn.
    """
    rows = []
    for genus in genera:
        count = sum(number for (_, name), number in counts.items() if name == genus)
        told: GenusAudit | None = None
        if audit.problem:
            correction = _uncorrected(audit.problem)
        elif not audit.same_answers:
            correction = "the head was changed since the draw"
        else:
            told, correction = audit_genus(audit.strata, genus), _corrected(audit)
        rows.append(
            {
                "genus": genus,
                "count": count,
                "labelled": told.labelled if told else "",
                "right": told.right if told else "",
                **_interval("precision", told.precision if told else None, 4),
                **_interval("recall", told.recall if told else None, 4),
                "correction": correction,
            }
        )
    return pd.DataFrame(rows, columns=list(ACCURACY_COLUMNS))


def corrected_table(
    audit: Audit, counts: Mapping[tuple[str, str], int], samples: Sequence[Mapping[str, str]], genera: Sequence[str]
) -> pd.DataFrame:
    """``corrected.csv``: the raw count and the corrected one with its 95 % interval, for the whole well and each sample.

    Genera that only the reviewer named have rows too. A sample's counts are corrected where strata lie within samples (a draw by
    sample or slide): labels from elsewhere in the well would say nothing sure of it.
    """
    named = {label for stratum in audit.strata for label in stratum.labels if label}
    listed = [*genera, *sorted(named - set(genera))]
    wells = ", ".join(sorted({sample["well"] for sample in samples}))
    rows: list[dict[str, Any]] = []

    def add(place: Mapping[str, str], number: Mapping[str, int], strata: Sequence[Stratum], problem: str) -> None:
        for genus in listed:
            total = None if problem else audit_genus(strata, genus).total
            rows.append(
                {
                    **place,
                    "genus": genus,
                    "count": number.get(genus, 0),
                    **_interval("corrected", total, 2),
                    "correction": _uncorrected(problem) if problem else _corrected(audit),
                }
            )

    whole: Counter[str] = Counter()
    for (_, genus), number in counts.items():
        whole[genus] += number
    add({"sample_id": WHOLE_WELL, "well": wells, "depth_m": "", "sample_type": ""}, whole, audit.strata, audit.problem)
    for sample in samples:
        if sample["status"] == "failed":
            continue
        sample_id = sample["sample_id"]
        here = {genus: number for (name, genus), number in counts.items() if name == sample_id}
        problem = audit.problem
        if not problem and not audit.by_sample:
            problem = "reviewed over the whole well: see corrected.csv"
        place = {column: sample[column] for column in _SAMPLE_COLUMNS}
        add(place, here, audit.strata_of(sample_id), problem)
    return pd.DataFrame(rows, columns=list(CORRECTED_COLUMNS))


def _long_table(rows: Sequence[Mapping[str, str]], corrected: pd.DataFrame) -> pd.DataFrame:
    columns = [*LONG_COLUMNS, *_LONG_CORRECTION]
    cells = {
        (row["sample_id"], row["genus"]): {column: row[column] for column in _LONG_CORRECTION}
        for row in corrected.to_dict("records")
    }
    return pd.DataFrame(
        [{**{name: row[name] for name in LONG_COLUMNS}, **cells[row["sample_id"], row["genus"]]} for row in rows],
        columns=columns,
    )


def _interval(name: str, estimate: Estimate | None, digits: int) -> dict[str, object]:
    names = (name, f"{name}_low", f"{name}_high")
    if estimate is None:
        return dict.fromkeys(names, "")
    values = (estimate.value, estimate.low, estimate.high)
    return {column: rounded(value, digits) for column, value in zip(names, values, strict=True)}


def _uncorrected(problem: str) -> str:
    return UNCORRECTED if problem in ("", "no labels") else f"{UNCORRECTED} ({problem})"


def _corrected(audit: Audit) -> str:
    return CORRECTED if audit.labelled == audit.drawn else f"{CORRECTED} ({audit.labelled} of {audit.drawn} labelled)"
