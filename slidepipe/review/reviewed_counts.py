"""Reviewed counts: the counts with each label in place of the head's answer.

All labels are used, whether a random draw chose the object or not, and the fossils that reviewers drew by hand are added.
Reviewed counts estimate nothing and need no draw. For estimates see `slidepipe.review.corrected_counts`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slidepipe.classification.object_table import ACCEPTED
from slidepipe.review.labels import MissedFossil, genus_of_label

#: Columns that labels add to `counts.csv`: the number of labelled objects, the number of fossils drawn by hand, and one column
#: per genus with this prefix.
LABELLED, MISSED, REVIEWED = "labelled", "missed", "reviewed_"


@dataclass(frozen=True)
class ReviewedCounts:
    """Counts with labels in place of the head's answers.

    Attributes:
        counts: fossils by (sample_id, genus), including those drawn by hand.
        labelled: objects with a label, by sample_id.
        missed: fossils drawn by hand, by (sample_id, genus).
    """

    counts: Counter[tuple[str, str]]
    labelled: Counter[str]
    missed: Counter[tuple[str, str]]


def count_accepted(objects: pd.DataFrame) -> Counter[tuple[str, str]]:
    """Return the number of accepted objects by (sample_id, genus).

    Args:
        objects: rows of the object table, with the columns sample_id, state and genus.
    """
    accepted = objects[objects["state"] == ACCEPTED]
    return Counter(zip(accepted["sample_id"], accepted["genus"], strict=True))


def review_counts(
    objects: pd.DataFrame,
    labels: Mapping[str, str],
    missed: Sequence[MissedFossil],
    slides: Mapping[str, Any],
    genera: Sequence[str],
) -> ReviewedCounts:
    """Put each label in place of the head's answer, and add the fossils that were drawn by hand.

    Args:
        objects: all objects, with the columns object_id, sample_id, state and genus.
        labels: by object id, as `slidepipe.review.labels.read_labels` returns them. Labels of other objects are ignored.
        missed: the fossils drawn by hand.
        slides: `sample_id` of each slide.
        genera: names that labels are matched to, ignoring case.
    """
    named = {genus.lower(): genus for genus in genera}
    counts = count_accepted(objects)
    drawn: Counter[tuple[str, str]] = Counter()
    labelled: Counter[str] = Counter()
    chosen = objects[objects["object_id"].isin(list(labels))].sort_values("object_id")
    for name, sample_id, state, genus in zip(
        *(chosen[column] for column in ("object_id", "sample_id", "state", "genus")), strict=True
    ):
        labelled[sample_id] += 1
        if state == ACCEPTED:
            counts[sample_id, genus] -= 1
        if label := genus_of_label(labels[name]):
            counts[sample_id, named.setdefault(label.lower(), label)] += 1
    for fossil in missed:
        if sample_id := slides.get(fossil.slide_id):
            drawn[sample_id, named.setdefault(fossil.genus.lower(), fossil.genus)] += 1
    return ReviewedCounts(counts + drawn, labelled, drawn)


def with_reviewed_columns(counts: pd.DataFrame, reviewed: ReviewedCounts, genera: Sequence[str]) -> pd.DataFrame:
    """Return `counts.csv` with the columns of the reviewed counts; without them if there are no labels.

    Reviewed columns that `counts` already has are replaced. Its other columns stay as they are. Cells of a sample that was not
    analysed are empty.

    Args:
        counts: one row per sample, with the columns sample_id and status.
        reviewed: the reviewed counts.
        genera: the genera of the tables. Genera that only a reviewer named follow them in alphabetical order.
    """
    table = counts[[name for name in counts.columns if not is_reviewed_column(str(name))]].copy()
    if not (reviewed.labelled or reviewed.missed):
        return table
    others = {genus for _, genus in reviewed.counts} - set(genera)
    listed = [*genera, *sorted(others)]
    missed: Counter[str] = Counter()
    for (sample_id, _), number in reviewed.missed.items():
        missed[sample_id] += number
    added: dict[str, list[object]] = {name: [] for name in (LABELLED, MISSED, *(REVIEWED + genus for genus in listed))}
    for sample_id, status in zip(table["sample_id"], table["status"], strict=True):
        numbers = [
            reviewed.labelled[sample_id],
            missed[sample_id],
            *(reviewed.counts[sample_id, genus] for genus in listed),
        ]
        for cells, number in zip(added.values(), numbers, strict=True):
            cells.append("" if status == "failed" else number)
    return pd.concat([table, pd.DataFrame(added, index=table.index)], axis=1)


def is_reviewed_column(name: str) -> bool:
    """Return whether a column of `counts.csv` comes from labels."""
    return name in (LABELLED, MISSED) or name.startswith(REVIEWED)
