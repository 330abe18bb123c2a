"""Corrected counts: estimates of the true counts, from a reviewer's labels of randomly drawn objects.

`slidepipe.review.draw` draws the objects and `slidepipe.review.audit` holds the estimator. Only detected, usable objects are
corrected: a draw of detections gives no information about fossils that the detector missed.

The tables are made in memory by `corrected_tables`. A run writes them with its other tables; `renew_corrected_tables` makes and
writes them again after a review.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slidepipe.classification.object_table import ACCEPTED
from slidepipe.counting.counts import LONG_COLUMNS, rounded
from slidepipe.counting.intervals import Estimate
from slidepipe.results import Results
from slidepipe.review.audit import FAR, NEAR, GenusAudit, Stratum, audit_genus
from slidepipe.review.draw import DRAW_COLUMNS, read_draw, usable_objects
from slidepipe.review.labels import (
    EDGES,
    LABELS_FILE,
    REVIEW_FILE,
    Labels,
    genus_of_label,
    labels_of_current_objects,
    read_cells,
    read_labels_file,
)
from slidepipe.review.reviewed_counts import count_accepted, review_counts, with_reviewed_columns
from slidepipe.store.files import write_text

logger = logging.getLogger(__name__)

UNCORRECTED = "uncorrected detections"
CORRECTED = "corrected"

#: `sample_id` of the rows of `corrected.csv` for all samples together.
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
#: The columns that `counts_long.csv` gets from `corrected.csv`.
_LONG_CORRECTION = CORRECTED_COLUMNS[6:]

#: Columns of the object table that `corrected_tables` needs.
OBJECT_COLUMNS = DRAW_COLUMNS


@dataclass(frozen=True)
class ReviewRecord:
    """What reviewers have recorded in a RESULTS folder.

    Attributes:
        results: the folder.
        labels: the labels of `review.csv` and `labels.csv`, the fossils drawn by hand, and the boxes that were labelled.
        draw: the rows of `review.csv`; None where nothing was drawn.
    """

    results: Path
    labels: Labels
    draw: pd.DataFrame | None


@dataclass(frozen=True)
class CorrectedTables:
    """The tables that depend on labels, ready to be written.

    Attributes:
        accuracy: `accuracy.csv`, columns `ACCURACY_COLUMNS`.
        corrected: `corrected.csv`, columns `CORRECTED_COLUMNS`.
        counts: `counts.csv`, with the columns of the reviewed counts where there are labels.
        counts_long: `counts_long.csv`, with the corrected counts.
    """

    accuracy: pd.DataFrame
    corrected: pd.DataFrame
    counts: pd.DataFrame
    counts_long: pd.DataFrame

    def by_file(self) -> dict[str, pd.DataFrame]:
        """Return the tables by file name."""
        return {
            "counts.csv": self.counts,
            "counts_long.csv": self.counts_long,
            "accuracy.csv": self.accuracy,
            "corrected.csv": self.corrected,
        }


@dataclass(frozen=True)
class Audit:
    """The draw of a RESULTS folder with its labels.

    Attributes:
        strata: all strata of the draw with their labels.
        by_sample: whether each stratum lies within one sample.
        labelled: the number of drawn objects that have a label.
        drawn: the number of drawn objects.
        same_answers: whether the head's answers are still those that the strata were made from.
        problem: why the labels cannot correct the counts; empty where they can.
    """

    strata: tuple[Stratum, ...] = ()
    by_sample: bool = False
    labelled: int = 0
    drawn: int = 0
    same_answers: bool = False
    problem: str = ""

    def strata_of(self, sample_id: str) -> list[Stratum]:
        """Return the strata within one sample. Only a draw by sample or slide has any."""
        return [stratum for stratum in self.strata if stratum.sample_id == sample_id]


def read_review_record(results: Path) -> ReviewRecord:
    """Read what reviewers have recorded in a RESULTS folder.

    Raises:
        ResultsError: `review.csv` or `labels.csv` cannot be read.
    """
    drawn, own = read_labels_file(results / REVIEW_FILE), read_labels_file(results / LABELS_FILE)
    return ReviewRecord(results, Labels(drawn.objects | own.objects, own.missed, own.places), read_draw(results))


def corrected_tables(
    objects: pd.DataFrame,
    record: ReviewRecord,
    counts: pd.DataFrame,
    counts_long: pd.DataFrame,
    slides: Mapping[str, Any],
    genera: Sequence[str],
) -> CorrectedTables:
    """Make the tables that depend on labels. Nothing is read or written.

    Without labels, and where the labels cannot correct the counts, the column `correction` contains "uncorrected detections" and
    the reason.

    Args:
        objects: all objects of the well, with the columns `OBJECT_COLUMNS`.
        record: the labels and the draw.
        counts: `counts.csv`, one row per sample; values may be numbers or their text.
        counts_long: `counts_long.csv`, one row per sample and genus, with the columns
            `slidepipe.counting.counts.LONG_COLUMNS`; others are left out.
        slides: `sample_id` of each slide, of failed ones too.
        genera: the genera of the tables.
    """
    labels = _current_labels(objects, record)
    audit = take_audit(usable_objects(objects), record.draw, labels, genera)
    accepted = count_accepted(objects)
    corrected = corrected_table(audit, accepted, counts.to_dict("records"), genera)
    missed = sorted(record.labels.missed.values(), key=lambda fossil: fossil.object_id)
    return CorrectedTables(
        accuracy=accuracy_table(audit, accepted, genera),
        corrected=corrected,
        counts=with_reviewed_columns(counts, review_counts(objects, labels, missed, slides, genera), genera),
        counts_long=_with_correction(counts_long, corrected),
    )


def renew_corrected_tables(results_path: Path) -> None:
    """Make the tables that depend on labels again, from the object table and the labels in RESULTS, and write them.

    Raises:
        ResultsError: the folder holds no finished results, or one of its files cannot be read.
    """
    results = Results(results_path)
    genera = [str(genus) for genus in results.manifest.reference.genera]
    objects = results.object_table.read(OBJECT_COLUMNS)
    slides = {slide.slide_id: slide.sample_id for slide in results.manifest.slides}
    slides |= dict(zip(objects["slide_id"], objects["sample_id"], strict=True))
    tables = corrected_tables(
        objects,
        read_review_record(results_path),
        _read_text_table(results_path / "counts.csv", (*_SAMPLE_COLUMNS, "status")),
        _read_text_table(results_path / "counts_long.csv", LONG_COLUMNS),
        slides,
        genera,
    )
    for name, table in tables.by_file().items():
        write_text(results_path / name, table.to_csv(index=False, lineterminator="\n"))


def _read_text_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file as text, so that its numbers are written again with the same digits."""
    rows = read_cells(path, columns)
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else list(columns), dtype=object)


def _current_labels(objects: pd.DataFrame, record: ReviewRecord) -> dict[str, str]:
    """Return the labels whose objects are still in the results, and warn about the others."""
    rows = {str(name): row for row, name in enumerate(objects["object_id"])}
    boxes = objects[list(EDGES)].to_numpy(np.int64)
    labels = labels_of_current_objects(record.labels.objects, record.labels.places, rows, boxes)
    outdated = len(record.labels.objects) - len(labels)
    if outdated:
        logger.warning(
            "%s: %d labels are not counted, because their objects are no longer in these results (slides were detected again)",
            record.results / LABELS_FILE,
            outdated,
        )
    return labels


def take_audit(
    usable: pd.DataFrame, review: pd.DataFrame | None, labels: Mapping[str, str], genera: Sequence[str]
) -> Audit:
    """Join the labels to the draw. Labels of other objects are left out: they were not chosen at random.

    Args:
        usable: the usable objects of the results as they are now, with the columns `slidepipe.review.draw.DRAW_COLUMNS`.
        review: the draw; None where nothing was drawn.
        labels: by object id, as `slidepipe.review.labels.read_labels` returns them. A wrong box is no fossil.
        genera: names that labels are matched to, ignoring case.
    """
    if not labels:
        return Audit(problem="no labels")
    if review is None:
        return Audit(problem=f"{LABELS_FILE} alone is no random draw: draw with 'slidepipe review sample'")
    sizes = review.drop_duplicates("stratum").set_index("stratum")["stratum_size"]
    place = ["object_id", "x0", "y0", "x1", "y1"]
    found = review.merge(usable, on=place, suffixes=("", "_now"))
    if int(sizes.sum()) != len(usable) or len(found) != len(review):
        return Audit(problem=f"{REVIEW_FILE} was drawn from other detections: move it away and draw again")
    named = {genus.lower(): genus for genus in genera}
    strata: dict[str, Stratum] = {}
    labelled = 0
    for row in review.sort_values("object_id").to_dict("records"):
        stratum = strata.setdefault(
            row["stratum"], Stratum(row["stratum_kind"], row["stratum_sample"], int(row["stratum_size"]))
        )
        label = labels.get(row["object_id"])
        if label is not None:
            label = genus_of_label(label)
            stratum.labels.append(named.setdefault(label.lower(), label))
            labelled += 1
    empty = sorted(name for name, stratum in strata.items() if not stratum.labels)
    return Audit(
        strata=tuple(strata[name] for name in sorted(strata)),
        by_sample=bool((review["stratum_sample"] != "").all()),
        labelled=labelled,
        drawn=len(review),
        same_answers=_has_same_answers(found, usable, strata.values()),
        problem=f"{labelled} of {len(review)} drawn objects have labels, none in stratum '{empty[0]}'" if empty else "",
    )


def _has_same_answers(found: pd.DataFrame, usable: pd.DataFrame, strata: Iterable[Stratum]) -> bool:
    """Return whether the head's answers are those of the draw: for each drawn object, and in the number of each genus."""
    sizes = Counter[str]()
    for stratum in strata:
        if not stratum.is_unknown:
            sizes[stratum.kind] += stratum.size
    answers = found["genus_now"].where(found["state"] == ACCEPTED, "")
    kinds = found["stratum_kind"].where(~found["stratum_kind"].isin([NEAR, FAR]), "")
    accepted = usable.loc[usable["state"] == ACCEPTED, "genus"]
    return bool((answers == kinds).all()) and sizes == Counter(accepted)


def accuracy_table(audit: Audit, counts: Mapping[tuple[str, str], int], genera: Sequence[str]) -> pd.DataFrame:
    """Return `accuracy.csv`: precision and recall of each genus over the whole well, with 95 % intervals.

    Of the objects accepted as the genus, `labelled` have a label and `right` of these labels agree. Recall refers to the fossils
    among the detected objects. Precision and recall are empty where the head has changed since the draw, because the drawn
    answers are then not its answers.

    Args:
        audit: the draw and its labels.
        counts: accepted objects by (sample_id, genus).
        genera: the rows, in this order.
    """
    rows = []
    for genus in genera:
        count = sum(number for (_, name), number in counts.items() if name == genus)
        result: GenusAudit | None = None
        if audit.problem:
            correction = _uncorrected(audit.problem)
        elif not audit.same_answers:
            correction = "the head was changed since the draw"
        else:
            result, correction = audit_genus(audit.strata, genus), _corrected(audit)
        rows.append(
            {
                "genus": genus,
                "count": count,
                "labelled": result.labelled if result else "",
                "right": result.right if result else "",
                **_interval("precision", result.precision if result else None, 4),
                **_interval("recall", result.recall if result else None, 4),
                "correction": correction,
            }
        )
    return pd.DataFrame(rows, columns=list(ACCURACY_COLUMNS))


def corrected_table(
    audit: Audit, counts: Mapping[tuple[str, str], int], samples: Sequence[Mapping[Any, Any]], genera: Sequence[str]
) -> pd.DataFrame:
    """Return `corrected.csv`: the raw and the corrected count with its 95 % interval, for the whole well and each sample.

    Genera that only the reviewer named have rows too. The counts of a sample are corrected only where strata lie within samples
    (a draw by sample or slide). Labels from elsewhere in the well do not give an unbiased estimate for one sample.

    Args:
        audit: the draw and its labels.
        counts: accepted objects by (sample_id, genus).
        samples: the rows of `counts.csv`; failed samples are left out.
        genera: the genera of the tables.
    """
    named = {label for stratum in audit.strata for label in stratum.labels if label}
    listed = [*genera, *sorted(named - set(genera))]
    wells = ", ".join(sorted({sample["well"] for sample in samples}))
    rows: list[dict[str, Any]] = []

    def add_rows(place: Mapping[str, str], number: Mapping[str, int], strata: Sequence[Stratum], problem: str) -> None:
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
    add_rows(
        {"sample_id": WHOLE_WELL, "well": wells, "depth_m": "", "sample_type": ""}, whole, audit.strata, audit.problem
    )
    for sample in samples:
        if sample["status"] == "failed":
            continue
        sample_id = sample["sample_id"]
        here = {genus: number for (name, genus), number in counts.items() if name == sample_id}
        problem = audit.problem
        if not problem and not audit.by_sample:
            problem = "reviewed over the whole well: see corrected.csv"
        place = {column: sample[column] for column in _SAMPLE_COLUMNS}
        add_rows(place, here, audit.strata_of(sample_id), problem)
    return pd.DataFrame(rows, columns=list(CORRECTED_COLUMNS))


def _with_correction(counts_long: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """Return `counts_long.csv` with the columns of `corrected.csv` for the same sample and genus."""
    cells = {
        (row["sample_id"], row["genus"]): [row[column] for column in _LONG_CORRECTION]
        for row in corrected.to_dict("records")
    }
    table = counts_long[list(LONG_COLUMNS)]
    added = [cells[key] for key in zip(table["sample_id"], table["genus"], strict=True)]
    return table.assign(
        **{
            name: pd.Series([row[place] for row in added], dtype=object, index=table.index)
            for place, name in enumerate(_LONG_CORRECTION)
        }
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
