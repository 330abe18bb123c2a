"""Read `labels.csv`: the labels that reviewers give to objects, written by hand or by `slidepipe view`.

Written by hand, the file has the columns `object_id` and `genus`, and one line per object. `slidepipe view` keeps it as a journal
with the columns `JOURNAL_COLUMNS`, to which lines are only added: the last line of an object counts, and the label `(withdrawn)`
removes an earlier one. The column `when` identifies a journal. The label "wrong box" says that the box does not hold exactly one
object, but half of one or several: it counts as no fossil, but is not an example of debris either.

A fossil that the detector missed has a line of its own, with an id of the form `SLIDE_ID:missed-0001` and the box that the
reviewer drew, in level-0 pixels of the whole slide.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slidepipe.errors import ResultsError
from slidepipe.interfaces import IntArray
from slidepipe.store.object_id import MissedId, slide_of

logger = logging.getLogger(__name__)

REVIEW_FILE, LABELS_FILE = "review.csv", "labels.csv"

NOT_A_FOSSIL = "not a fossil"
#: The label of an object whose box is wrong. Unlike "not a fossil", `parse_label` keeps it; see `genus_of_label`.
WRONG_BOX = "wrong box"
WITHDRAWN = "(withdrawn)"
_NO_FOSSIL = frozenset({"", NOT_A_FOSSIL, "not_a_fossil", "debris", "none", "-"})
_NO_OBJECT = frozenset({WRONG_BOX, "wrong_box"})

#: A slide_id and a box on the slide: x0, y0, x1, y1, half-open, in level-0 pixels of the whole slide.
Place = tuple[str, tuple[int, int, int, int]]

JOURNAL_COLUMNS = ("object_id", "genus", "slide_id", "x0", "y0", "x1", "y1", "who", "when")
#: The columns of a box.
EDGES = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class MissedFossil:
    """A fossil that the detector missed and a reviewer drew.

    Attributes:
        object_id: `SLIDE_ID:missed-0001`.
        slide_id: the slide.
        box: x0, y0, x1, y1, half-open, in level-0 pixels of the whole slide.
        genus: the reviewer's label.
    """

    object_id: str
    slide_id: str
    box: tuple[int, int, int, int]
    genus: str


@dataclass(frozen=True)
class Labels:
    """The labels of a file.

    Attributes:
        objects: the label of each detected object, by object id: a genus, "" for not a fossil, or `WRONG_BOX`.
        missed: the fossils drawn by hand, by object id.
        places: slide and box of the labelled objects whose lines contain them, by object id.
    """

    objects: dict[str, str]
    missed: dict[str, MissedFossil]
    places: dict[str, Place] = field(default_factory=dict)


def parse_label(genus: str) -> str:
    """Return the label that a cell of the column `genus` means: a genus, `WRONG_BOX`, or "" for not a fossil.

    An empty cell, "not a fossil", "debris", "none", "-" and names that start with "_" all mean that the object is not a fossil.
    """
    genus = genus.strip()
    if genus.lower() in _NO_OBJECT:
        return WRONG_BOX
    return "" if genus.lower() in _NO_FOSSIL or genus.startswith("_") else genus


def genus_of_label(label: str) -> str:
    """Return the genus that a label of `parse_label` counts as: "" for not a fossil and for a wrong box."""
    return "" if label == WRONG_BOX else label


def read_labels(results: Path) -> dict[str, str]:
    """Return the label of each reviewed object: a genus, "" for not a fossil, or `WRONG_BOX`.

    In `labels.csv` an empty genus means that the object is not a fossil. In `review.csv` and its copies, which have the column
    `stratum`, an empty genus means that the object has not been reviewed yet. `labels.csv` takes precedence over `review.csv`.

    Args:
        results: the RESULTS folder. It need not contain labels.

    Raises:
        ResultsError: a file cannot be read, a column is missing, or an object has two labels in a file that is no journal.
    """
    return read_labels_file(results / REVIEW_FILE).objects | read_labels_file(results / LABELS_FILE).objects


def labels_of_current_objects(
    labels: Mapping[str, str], places: Mapping[str, Place], rows: Mapping[str, int], boxes: IntArray
) -> dict[str, str]:
    """Return the labels whose objects still have the box that was labelled.

    When slides are detected again, an object id can be given to another object. Its box is then another one.

    Args:
        labels: by object id.
        places: slide and box of the labelled objects, where known. A label without a place is kept.
        rows: the row in `boxes` of each object id.
        boxes: int64 (N, 4), x0, y0, x1, y1 in level-0 pixels of the whole slide.
    """
    names = [name for name in places if name in rows]
    if not names:
        return dict(labels)
    labelled = np.array([places[name][1] for name in names], np.int64)
    same = (boxes[[rows[name] for name in names]] == labelled).all(axis=1)
    outdated = {name for name, is_same in zip(names, same.tolist(), strict=True) if not is_same}
    return {name: label for name, label in labels.items() if name not in outdated}


def read_missed(results: Path) -> list[MissedFossil]:
    """Return the fossils that reviewers drew where the detector found none, sorted by id.

    Raises:
        ResultsError: as `read_labels`.
    """
    return sorted(read_labels_file(results / LABELS_FILE).missed.values(), key=lambda fossil: fossil.object_id)


def read_labels_file(path: Path) -> Labels:
    """Read one file of labels. A file that does not exist has no labels.

    Args:
        path: `labels.csv`, `review.csv`, or a copy of one of them.

    Raises:
        ResultsError: as `read_labels`.
    """
    labels = Labels({}, {})
    if not path.exists():
        return labels
    text = read_text(path)
    names, comma = _header(text)
    journal = "when" in names
    if journal and (incomplete := incomplete_last_line(text, len(names), comma)):
        logger.warning(
            "%s: the last line ('%s') is incomplete and is ignored. If it is complete, end it with a line break",
            path,
            incomplete,
        )
        text = text[: len(text) - len(incomplete)]
    for cells in _parse(path, text, ("object_id", "genus")):
        object_id, genus = cells["object_id"], cells["genus"].strip()
        if not object_id or (not genus and "stratum" in cells):
            continue
        if MissedId.parse(object_id) is not None:
            labels.missed.pop(object_id, None)
            if genus != WITHDRAWN and genus_of_label(parse_label(genus)):
                labels.missed[object_id] = MissedFossil(object_id, *_place(path, cells), parse_label(genus))
        elif journal and genus == WITHDRAWN:
            labels.objects.pop(object_id, None)
            labels.places.pop(object_id, None)
        elif journal:
            labels.objects[object_id] = parse_label(genus)
            labels.places.pop(object_id, None)
            if all(cells.get(edge, "").strip() for edge in EDGES):
                labels.places[object_id] = _place(path, cells)
        else:
            label = parse_label(genus)
            first = labels.objects.setdefault(object_id, label)
            if first.lower() != label.lower():
                raise ResultsError(f"{path}: {object_id} has two labels ('{first}', '{label}'). Delete one of them")
    return labels


def incomplete_last_line(text: str, columns: int, delimiter: str = ",") -> str:
    """Return the last line if a writer was killed while writing it: it has no line break and too few cells. Otherwise "".

    Args:
        text: the text of a CSV file.
        columns: the number of columns of the file.
        delimiter: comma or semicolon.
    """
    tail = text.rpartition("\n")[2]
    if not tail:
        return ""
    try:
        cells = next(csv.reader([tail], delimiter=delimiter, strict=True))
    except csv.Error:  # the line ends within a quoted cell
        return tail
    return tail if len(cells) < columns else ""


def read_text(path: Path) -> str:
    """Return the text of a CSV file, with or without a byte-order mark.

    Raises:
        ResultsError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}). Save it as CSV, UTF-8") from error


def read_cells(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file that a person may have edited: comma or semicolon, with or without a byte-order mark.

    Args:
        path: the file.
        columns: columns that it must have; it may have others.

    Returns:
        The cells of each row by column, as text.

    Raises:
        ResultsError: the file cannot be read as CSV, or a column is missing.
    """
    return _parse(path, read_text(path), columns)


def _header(text: str) -> tuple[list[str], str]:
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    return [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])], delimiter


def _parse(path: Path, text: str, columns: Sequence[str]) -> list[dict[str, str]]:
    names, delimiter = _header(text)
    missing = [column for column in columns if column not in names]
    if missing:
        raise ResultsError(
            f"{path}: the column '{missing[0]}' is missing. The file needs the columns {', '.join(columns)}"
        )
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        reader.fieldnames = names if reader.fieldnames else []
        return [{key: value or "" for key, value in row.items() if key} for row in reader]
    except csv.Error as error:
        raise ResultsError(f"{path}: cannot be read ({error}). Save it as CSV, UTF-8") from error


def _place(path: Path, cells: dict[str, str]) -> Place:
    try:
        x0, y0, x1, y1 = (int(cells.get(edge, "")) for edge in EDGES)
    except ValueError as error:
        raise ResultsError(
            f"{path}: the box of {cells['object_id']} is missing or damaged ({error}). Correct or delete that line"
        ) from error
    return cells.get("slide_id") or slide_of(cells["object_id"]), (x0, y0, x1, y1)
