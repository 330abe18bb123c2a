"""The labels of a RESULTS folder while somebody labels: read when the file changes, and added to line by line.

One writer at a time across tabs, servers and machines (a lock file); each line is on the disk before it is acknowledged; a line
that a killed writer left half written is cut off by the next one. Nothing that another has written is ever taken away: a label
is changed, or withdrawn, by a further line.
"""

import csv
import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from slidepipe.errors import ResultsError
from slidepipe.review.labels import (
    JOURNAL_COLUMNS,
    LABELS_FILE,
    NOT_A_FOSSIL,
    REVIEW_FILE,
    WITHDRAWN,
    Labels,
    MissedFossil,
    Place,
    incomplete_last_line,
    missed_id,
    missed_number,
    read_cells,
    read_labels_file,
)
from slidepipe.store.files import write_text

LOCK = ".labels.lock"
_LOCK_SECONDS = 10

_Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Line:
    """A line to be written: ``label`` is a genus, "" for not a fossil, "wrong box", None to withdraw what was said."""

    object_id: str
    label: str | None
    slide_id: str
    box: tuple[int, int, int, int]


class LabelBook:
    """The labels of ``results``. Its methods may be called from several threads.

    Raises:
        ResultsError: ``labels.csv`` or ``review.csv`` cannot be read, or an object has two labels in a file that is no journal.
    """

    def __init__(self, results: Path) -> None:
        self._path, self._review = results / LABELS_FILE, results / REVIEW_FILE
        self._lock = threading.RLock()
        self._file_lock = filelock.FileLock(results / LOCK)
        self._stamps: tuple[_Stamp, _Stamp] | None = None
        self._drawn = Labels({}, {})
        self._own = Labels({}, {})
        #: Ids in the order in which they changed, and how many changes there were when the server started.
        self._changes: list[str] = []
        self.refresh()
        self._changes = []

    @property
    def sequence(self) -> int:
        """How many changes there have been since the server started."""
        return len(self._changes)

    def labels(self) -> dict[str, str]:
        """All labels of detected objects, including ``review.csv``, from :func:`~slidepipe.review.labels.read_labels`."""
        with self._lock:
            self.refresh()
            return self._drawn.objects | self._own.objects

    def places(self) -> dict[str, Place]:
        """Slide and box of the labelled objects whose line holds them."""
        with self._lock:
            self.refresh()
            return dict(self._own.places)

    def missed(self) -> list[MissedFossil]:
        """The fossils that somebody drew, by id."""
        with self._lock:
            self.refresh()
            return sorted(self._own.missed.values(), key=lambda item: item.object_id)

    def label_of(self, object_id: str) -> str | None:
        """The label of an object or a drawn fossil; None where it has none."""
        if missed_number(object_id) is not None:
            held = self._own.missed.get(object_id)
            return None if held is None else held.genus
        return self._own.objects.get(object_id, self._drawn.objects.get(object_id))

    def since(self, sequence: int) -> set[str]:
        """Ids whose label changed after ``sequence``."""
        with self._lock:
            self.refresh()
            return set(self._changes[sequence:])

    def refresh(self) -> None:
        """Read the files again where they have changed."""
        with self._lock:
            stamps = (_stamp(self._path), _stamp(self._review))
            if stamps == self._stamps:
                return
            before = (self._drawn.objects | self._own.objects, self._own.missed)
            self._drawn, self._own = read_labels_file(self._review), read_labels_file(self._path)
            self._stamps = stamps
            after = (self._drawn.objects | self._own.objects, self._own.missed)
            for old, new in zip(before, after, strict=True):
                self._changes += sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))  # type: ignore[attr-defined]  # both are of one kind

    def write(self, lines: Sequence[Line], who: str = "", expected: Sequence[str | None] | None = None) -> list[str]:
        """Add lines, and return once they are on the disk.

        Args:
            lines: what is said.
            who: says it; may be empty.
            expected: the label that each object is thought to have; a line whose object has another by now is left out.

        Returns:
            the ids of the lines left out.

        Raises:
            ResultsError: the file cannot be written, or another writer holds it.
        """
        with self._lock, self._held():
            self.refresh()
            clash: list[str] = []
            if expected is not None:
                pairs = list(zip(lines, expected, strict=True))
                clash = [line.object_id for line, label in pairs if self.label_of(line.object_id) != label]
                lines = [line for line, label in pairs if self.label_of(line.object_id) == label]
            self._append(lines, who)
            return clash

    def write_missed(self, slide_id: str, box: tuple[int, int, int, int], genus: str, who: str = "") -> str:
        """Add a fossil that the detector missed; returns the id that it is given. Raises as :meth:`write` does."""
        with self._lock, self._held():
            self.refresh()
            taken = [missed_number(name) or 0 for name in self._ids_ever() if name.startswith(f"{slide_id}:")]
            object_id = missed_id(slide_id, max(taken, default=0) + 1)
            self._append([Line(object_id, genus, slide_id, box)], who)
            return object_id

    def missed_fossil(self, object_id: str) -> MissedFossil | None:
        """A drawn fossil, where there is one of that id now or was one before: its place does not change."""
        held = self._own.missed.get(object_id)
        if held is not None or not self._path.exists():
            return held
        for cells in reversed(read_cells(self._path, ("object_id", "genus"))):
            if cells["object_id"] == object_id and cells.get("x0"):
                x0, y0, x1, y1 = (int(cells[edge]) for edge in ("x0", "y0", "x1", "y1"))
                return MissedFossil(object_id, cells.get("slide_id", ""), (x0, y0, x1, y1), cells["genus"])
        return None

    def _ids_ever(self) -> list[str]:
        if not self._path.exists():
            return []
        return [cells["object_id"] for cells in read_cells(self._path, ("object_id", "genus"))]

    def _held(self) -> filelock.BaseFileLock:
        try:
            self._file_lock.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout as error:
            raise ResultsError(f"{self._path}: another program has held it for {_LOCK_SECONDS} s. Try again") from error
        except OSError as error:
            raise self._unwritable(error) from error
        return _Release(self._file_lock)  # type: ignore[return-value]  # used as a context manager only

    def _append(self, lines: Sequence[Line], who: str) -> None:
        if not lines:
            return
        try:
            columns = self._make_journal()
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            when = datetime.now(UTC).isoformat(timespec="seconds")
            for line in lines:
                genus = WITHDRAWN if line.label is None else line.label or NOT_A_FOSSIL
                edges = dict(zip(("x0", "y0", "x1", "y1"), line.box, strict=True))
                writer.writerow(
                    {
                        "object_id": line.object_id, "genus": genus, "slide_id": line.slide_id, **edges, "who": who,
                        "when": when,
                    }
                )  # fmt: skip
            with self._path.open("r+b") as file:
                _cut_torn(file, len(columns))
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        # Known without reading a file of a hundred thousand lines again at every key.
        for line in lines:
            self._take(line)
        self._stamps = (_stamp(self._path), self._stamps[1] if self._stamps else None)

    def _take(self, line: Line) -> None:
        if missed_number(line.object_id) is not None:
            self._own.missed.pop(line.object_id, None)
            if line.label:
                self._own.missed[line.object_id] = MissedFossil(line.object_id, line.slide_id, line.box, line.label)
        elif line.label is None:
            self._own.objects.pop(line.object_id, None)
            self._own.places.pop(line.object_id, None)
        else:
            self._own.objects[line.object_id] = line.label
            self._own.places[line.object_id] = (line.slide_id, line.box)
        self._changes.append(line.object_id)

    def _make_journal(self) -> list[str]:
        """See that the file is a journal in plain CSV, whatever somebody made of it, and return its columns."""
        if not self._path.exists() or self._path.stat().st_size == 0:
            write_text(self._path, ",".join(JOURNAL_COLUMNS) + "\n")
            return list(JOURNAL_COLUMNS)
        with self._path.open("rb") as file:
            first = file.readline()
        columns = next(csv.reader([first.decode("utf-8", errors="replace").rstrip("\n")]), [])
        if (
            set(JOURNAL_COLUMNS) <= set(columns) and b"\r" not in first
        ):  # a byte-order mark would be part of a column's name
            return columns
        rows = read_cells(self._path, ("object_id", "genus"))
        columns = [*JOURNAL_COLUMNS, *(name for name in (rows[0] if rows else {}) if name not in JOURNAL_COLUMNS)]
        rewritten = io.StringIO()
        writer = csv.DictWriter(rewritten, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, rewritten.getvalue())
        return columns

    def _unwritable(self, error: OSError) -> ResultsError:
        return ResultsError(
            f"{self._path}: cannot be written ({error.strerror}). Close it in other programs, or free its disk; "
            "the last label is not kept"
        )


class _Release:
    """Gives a lock back, taken already."""

    def __init__(self, lock: filelock.BaseFileLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        self._lock.release()


def _cut_torn(file: io.BufferedRandom, columns: int) -> None:
    """Cut off a line that a killed writer left half written; end one that is whole but for its line break."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    start = max(0, size - 64 * 1024)
    file.seek(start)
    data = file.read()
    if data.endswith(b"\n"):
        return
    tail = data.rpartition(b"\n")[2]
    if incomplete_last_line(tail.decode("utf-8", errors="replace"), columns):
        file.truncate(size - len(tail))
    else:
        file.write(b"\n")


def _stamp(path: Path) -> _Stamp:
    try:
        said = path.stat()
    except FileNotFoundError:
        return None
    return said.st_ino, said.st_size, said.st_mtime_ns
