"""``labels.csv``: what reviewers say of objects; written by hand, or line by line by ``slidepipe view``.

By hand it has the columns ``object_id`` and ``genus``, and an object has one line. ``slidepipe view`` keeps it as a journal of
:data:`JOURNAL_COLUMNS` to which lines are only ever added: the last line of an object holds, and ``(withdrawn)`` takes its label
back. The column ``when`` tells a journal. "wrong box" says that the box holds no one object (half of one, two at once): it
counts as no fossil, and is no example of debris either.

A fossil that the detector missed is a line of its own, with an id of the form ``SLIDE_ID:missed-0001`` and the box that somebody
drew (level-0 pixels of the whole slide).
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

logger = logging.getLogger(__name__)

REVIEW_FILE, LABELS_FILE = "review.csv", "labels.csv"

NOT_A_FOSSIL = "not a fossil"
#: The label of an object whose box is wrong. Unlike "not a fossil" it is kept by name: see :func:`genus_of_label`.
WRONG_BOX = "wrong box"
WITHDRAWN = "(withdrawn)"
_NO_FOSSIL = frozenset({"", NOT_A_FOSSIL, "not_a_fossil", "debris", "none", "-"})
_NO_OBJECT = frozenset({WRONG_BOX, "wrong_box"})

#: A slide and a box on it (half-open, level-0 pixels of the whole slide).
Place = tuple[str, tuple[int, int, int, int]]

JOURNAL_COLUMNS = ("object_id", "genus", "slide_id", "x0", "y0", "x1", "y1", "who", "when")
#: Columns of a box.
EDGES = ("x0", "y0", "x1", "y1")
_MISSED = "missed-"


@dataclass(frozen=True)
class MissedFossil:
    """A fossil that the detector missed: its box, half-open in level-0 pixels of the whole slide, and its genus."""

    object_id: str
    slide_id: str
    box: tuple[int, int, int, int]
    genus: str


@dataclass(frozen=True)
class Labels:
    """What a labels file says.

    Attributes:
        objects: by object id a genus, "" for not a fossil, or :data:`WRONG_BOX`.
        missed: drawn by hand, by id.
        places: slide and box of each object whose line holds them.
    """

    objects: dict[str, str]
    missed: dict[str, MissedFossil]
    places: dict[str, Place] = field(default_factory=dict)


def missed_id(slide_id: str, number: int) -> str:
    """The id of the fossil number ``number`` that somebody drew on a slide."""
    return f"{slide_id}:{_MISSED}{number:04d}"


def missed_number(object_id: str) -> int | None:
    """The number in the id of a drawn fossil; None where the id is that of a detected object."""
    _, _, name = object_id.rpartition(":")
    number = name.removeprefix(_MISSED)
    return int(number) if name != number and number.isdigit() else None


def parse_label(genus: str) -> str:
    """What a cell ``genus`` says: the genus, :data:`WRONG_BOX`, or "" for any of the ways to say that it is no fossil."""
    genus = genus.strip()
    if genus.lower() in _NO_OBJECT:
        return WRONG_BOX
    return "" if genus.lower() in _NO_FOSSIL or genus.startswith("_") else genus


def genus_of_label(label: str) -> str:
    """The genus that a label of :func:`parse_label` counts as: "" where it is no fossil or its box is wrong."""
    return "" if label == WRONG_BOX else label


def read_labels(results: Path) -> dict[str, str]:
    """What the reviewer said, by object id: a genus, "" for not a fossil, or :data:`WRONG_BOX`. Empty without labels.

    ``labels.csv``: columns object_id and genus; an empty genus, "not a fossil", "debris" or a name that starts with "_" all say
    that it is none. In a saved copy of ``review.csv`` (it has the column ``stratum``), and in ``review.csv`` itself, an empty
    genus says that the object has not been looked at. ``labels.csv`` goes before ``review.csv``.

    Raises:
        ResultsError: it cannot be read, a column is missing, or an object has two labels in a file that is no journal.
    """
    return read_labels_file(results / REVIEW_FILE).objects | read_labels_file(results / LABELS_FILE).objects


def labels_of_current_objects(
    labels: Mapping[str, str], places: Mapping[str, Place], rows: Mapping[str, int], boxes: IntArray
) -> dict[str, str]:
    """``labels`` without those whose object has another box by now: its number went to another when slides were detected anew.

    Args:
        labels: by object id.
        places: slide and box of each where they are known; one without is taken to fit.
        rows: by object id its row of ``boxes``.
        boxes: int64 (N, 4), x0, y0, x1, y1 in level-0 pixels of the whole slide.
    """
    names = [name for name in places if name in rows]
    if not names:
        return dict(labels)
    told = np.array([places[name][1] for name in names], np.int64)
    same = (boxes[[rows[name] for name in names]] == told).all(axis=1)
    gone = {name for name, fits in zip(names, same.tolist(), strict=True) if not fits}
    return {name: label for name, label in labels.items() if name not in gone}


def read_missed(results: Path) -> list[MissedFossil]:
    """The fossils that somebody drew where the detector found none, by id.

    Raises:
        ResultsError: as :func:`read_labels`.
    """
    return sorted(read_labels_file(results / LABELS_FILE).missed.values(), key=lambda item: item.object_id)


def read_labels_file(path: Path) -> Labels:
    """The labels of one file; none where it is not there. Raises :class:`ResultsError` as :func:`read_labels` does."""
    labels = Labels({}, {})
    if not path.exists():
        return labels
    text = read_text(path)
    names, comma = _header(text)
    journal = "when" in names
    if journal and (torn := incomplete_last_line(text, len(names), comma)):
        logger.warning(
            "%s: its last line is incomplete ('%s') and left out. If it is meant so, end it with a line break",
            path,
            torn,
        )
        text = text[: len(text) - len(torn)]
    for cells in _parse(path, text, ("object_id", "genus")):
        object_id, genus = cells["object_id"], cells["genus"].strip()
        if not object_id or (not genus and "stratum" in cells):
            continue
        if missed_number(object_id) is not None:
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
            before = labels.objects.setdefault(object_id, label)
            if before.lower() != label.lower():
                raise ResultsError(f"{path}: {object_id} has two labels ('{before}', '{label}'). Keep one")
    return labels


def incomplete_last_line(text: str, columns: int, delimiter: str = ",") -> str:
    """The last line, where it has no line break and too few cells: a writer was killed while it wrote it. Else ""."""
    tail = text.rpartition("\n")[2]
    if not tail:
        return ""
    try:
        cells = next(csv.reader([tail], delimiter=delimiter, strict=True))
    except csv.Error:  # within a quoted cell
        return tail
    return tail if len(cells) < columns else ""


def read_text(path: Path) -> str:
    """The text of a CSV file, with or without a byte-order mark. Raises :class:`ResultsError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}). Save it as CSV, UTF-8") from error


def read_cells(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that a person may have edited: comma or semicolon, with or without a byte-order mark.

    Raises:
        ResultsError: not readable as CSV, or one of ``columns`` is missing.
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
        raise ResultsError(f"{path}: there is no column '{missing[0]}'. It must have {', '.join(columns)}")
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
            f"{path}: the box of {cells['object_id']} is missing or damaged ({error}). Mend or remove that line"
        ) from error
    return cells.get("slide_id") or cells["object_id"].rpartition(":")[0], (x0, y0, x1, y1)
