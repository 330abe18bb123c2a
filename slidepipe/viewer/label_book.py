"""The labels of a RESULTS folder while reviewers work: read again when a file changes, and extended line by line.

A lock file allows one writer at a time, across tabs, servers and machines. A request is answered after its lines are on the
disk. If a killed writer left an incomplete line, the next writer removes it. Lines are never changed or deleted: a further line
changes or withdraws a label.
"""

import contextlib
import csv
import io
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from slidepipe.errors import ResultsError
from slidepipe.review.labels import (
    EDGES,
    JOURNAL_COLUMNS,
    LABELS_FILE,
    NOT_A_FOSSIL,
    REVIEW_FILE,
    WITHDRAWN,
    Labels,
    MissedFossil,
    Place,
    incomplete_last_line,
    read_cells,
    read_labels_file,
)
from slidepipe.store.files import write_text
from slidepipe.store.object_id import MissedId

LOCK = ".labels.lock"
_LOCK_SECONDS = 10

#: An incomplete last line is looked for in this many bytes at the end of the file.
_TAIL_BYTES = 64 * 1024

#: Inode, size in bytes and modification time in ns of a file; None where there is no file.
_FileState = tuple[int, int, int] | None


@dataclass(frozen=True)
class LabelEntry:
    """One line to add to `labels.csv`.

    Attributes:
        object_id: id of a detected object or of a drawn fossil.
        label: a genus, "" for not a fossil, "wrong box", or None to withdraw the label.
        slide_id: id of the slide.
        box: x0, y0, x1, y1, half-open, level-0 pixels of the whole slide.
    """

    object_id: str
    label: str | None
    slide_id: str
    box: tuple[int, int, int, int]


class LabelBook:
    """The labels of a RESULTS folder. Its methods may be called from several threads.

    Args:
        results: the RESULTS folder.

    Raises:
        ResultsError: `labels.csv` or `review.csv` cannot be read, or an object has two labels in a file that is not a journal.
    """

    def __init__(self, results: Path) -> None:
        self._path, self._review_path = results / LABELS_FILE, results / REVIEW_FILE
        self._lock = threading.RLock()
        self._file_lock = filelock.FileLock(results / LOCK)
        self._file_states: tuple[_FileState, _FileState] | None = None
        #: Labels of `review.csv` and of `labels.csv`.
        self._review_labels = Labels({}, {})
        self._labels = Labels({}, {})
        #: Ids in the order in which their labels changed since the server started.
        self._changes: list[str] = []
        self.refresh()
        self._changes = []

    @property
    def sequence(self) -> int:
        """The number of changes since the server started."""
        return len(self._changes)

    def labels(self) -> dict[str, str]:
        """Return the labels of all detected objects, as `slidepipe.review.labels.read_labels` does."""
        with self._lock:
            self.refresh()
            return self._review_labels.objects | self._labels.objects

    def places(self) -> dict[str, Place]:
        """Return slide and box of the labelled objects whose lines hold them, by object id."""
        with self._lock:
            self.refresh()
            return dict(self._labels.places)

    def missed(self) -> list[MissedFossil]:
        """Return the fossils that were drawn by hand, ordered by id."""
        with self._lock:
            self.refresh()
            return sorted(self._labels.missed.values(), key=lambda item: item.object_id)

    def label_of(self, object_id: str) -> str | None:
        """Return the label of an object or of a drawn fossil; None where it has none."""
        if MissedId.parse(object_id) is not None:
            fossil = self._labels.missed.get(object_id)
            return None if fossil is None else fossil.genus
        return self._labels.objects.get(object_id, self._review_labels.objects.get(object_id))

    def changed_since(self, sequence: int) -> set[str]:
        """Return the ids whose label changed after the change with number `sequence`."""
        with self._lock:
            self.refresh()
            return set(self._changes[sequence:])

    def refresh(self) -> None:
        """Read the files again if they have changed."""
        with self._lock:
            states = (_file_state(self._path), _file_state(self._review_path))
            if states == self._file_states:
                return
            before = self._all_labels()
            self._review_labels, self._labels = read_labels_file(self._review_path), read_labels_file(self._path)
            self._file_states = states
            after = self._all_labels()
            self._changes += sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))

    def _all_labels(self) -> dict[str, object]:
        return {**self._review_labels.objects, **self._labels.objects, **self._labels.missed}

    def write(
        self, entries: Sequence[LabelEntry], reviewer: str = "", expected: Sequence[str | None] | None = None
    ) -> list[str]:
        """Add lines, and return when they are on the disk.

        Args:
            entries: the lines.
            reviewer: name of the person who labels; may be empty.
            expected: the label that the caller expects each object to have now. An entry whose object has another label is
                left out.

        Returns:
            The ids of the entries that were left out.

        Raises:
            ResultsError: the file cannot be written, or another writer holds the lock.
        """
        with self._lock, self._file_locked():
            self.refresh()
            left_out: list[str] = []
            if expected is not None:
                pairs = list(zip(entries, expected, strict=True))
                left_out = [entry.object_id for entry, label in pairs if self.label_of(entry.object_id) != label]
                entries = [entry for entry, label in pairs if self.label_of(entry.object_id) == label]
            self._append(entries, reviewer)
            return left_out

    def write_missed(self, slide_id: str, box: tuple[int, int, int, int], genus: str, reviewer: str = "") -> str:
        """Add a fossil that the detector missed.

        Args:
            slide_id: id of the slide.
            box: x0, y0, x1, y1, half-open, level-0 pixels of the whole slide.
            genus: its genus.
            reviewer: name of the person who drew the box; may be empty.

        Returns:
            The new id. The number of a deleted fossil is not used again.

        Raises:
            ResultsError: as `write`.
        """
        with self._lock, self._file_locked():
            self.refresh()
            drawn = [MissedId.parse(cells["object_id"]) for cells in self._all_lines()]
            numbers = [fossil.number for fossil in drawn if fossil is not None and fossil.slide_id == slide_id]
            object_id = str(MissedId(slide_id, max(numbers, default=0) + 1))
            self._append([LabelEntry(object_id, genus, slide_id, box)], reviewer)
            return object_id

    def missed_fossil(self, object_id: str) -> MissedFossil | None:
        """Return a drawn fossil that exists or existed; None where there never was one. Its box does not change."""
        fossil = self._labels.missed.get(object_id)
        if fossil is not None:
            return fossil
        for cells in reversed(self._all_lines()):
            if cells["object_id"] == object_id and cells.get("x0"):
                x0, y0, x1, y1 = (int(cells[edge]) for edge in EDGES)
                return MissedFossil(object_id, cells.get("slide_id", ""), (x0, y0, x1, y1), cells["genus"])
        return None

    def _all_lines(self) -> list[dict[str, str]]:
        """Return the cells of all lines of `labels.csv`, those of withdrawn labels included."""
        return read_cells(self._path, ("object_id", "genus")) if self._path.exists() else []

    @contextlib.contextmanager
    def _file_locked(self) -> Iterator[None]:
        """Hold the lock file. Raises ResultsError if another writer holds it for too long."""
        try:
            self._file_lock.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout as error:
            raise ResultsError(
                f"{self._path}: another program has locked the file for {_LOCK_SECONDS} s. Try again, or close that program"
            ) from error
        except OSError as error:
            raise self._write_error(error) from error
        try:
            yield
        finally:
            self._file_lock.release()

    def _append(self, entries: Sequence[LabelEntry], reviewer: str) -> None:
        """Add lines to the file, wait until they are on the disk, and apply them to the labels in memory."""
        if not entries:
            return
        try:
            columns = self._ensure_journal()
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            when = datetime.now(UTC).isoformat(timespec="seconds")
            for entry in entries:
                genus = WITHDRAWN if entry.label is None else entry.label or NOT_A_FOSSIL
                cells = {"object_id": entry.object_id, "genus": genus, "slide_id": entry.slide_id}
                edges = dict(zip(EDGES, entry.box, strict=True))
                writer.writerow({**cells, **edges, "who": reviewer, "when": when})
            with self._path.open("r+b") as file:
                _complete_last_line(file, len(columns))
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._write_error(error) from error
        # The entries are applied here so that a file of a hundred thousand lines is not read again after every key press.
        for entry in entries:
            self._apply(entry)
        self._file_states = (_file_state(self._path), self._file_states[1] if self._file_states else None)

    def _apply(self, entry: LabelEntry) -> None:
        if MissedId.parse(entry.object_id) is not None:
            self._labels.missed.pop(entry.object_id, None)
            if entry.label:
                fossil = MissedFossil(entry.object_id, entry.slide_id, entry.box, entry.label)
                self._labels.missed[entry.object_id] = fossil
        elif entry.label is None:
            self._labels.objects.pop(entry.object_id, None)
            self._labels.places.pop(entry.object_id, None)
        else:
            self._labels.objects[entry.object_id] = entry.label
            self._labels.places[entry.object_id] = (entry.slide_id, entry.box)
        self._changes.append(entry.object_id)

    def _ensure_journal(self) -> list[str]:
        """Rewrite a file that a person made as a journal in plain CSV, where needed, and return its columns."""
        if not self._path.exists() or self._path.stat().st_size == 0:
            write_text(self._path, ",".join(JOURNAL_COLUMNS) + "\n")
            return list(JOURNAL_COLUMNS)
        with self._path.open("rb") as file:
            first = file.readline()
        columns = next(csv.reader([first.decode("utf-8", errors="replace").rstrip("\n")]), [])
        # A byte-order mark would be part of the first column's name, so such a file is rewritten too.
        if set(JOURNAL_COLUMNS) <= set(columns) and b"\r" not in first:
            return columns
        rows = read_cells(self._path, ("object_id", "genus"))
        columns = [*JOURNAL_COLUMNS, *(name for name in (rows[0] if rows else {}) if name not in JOURNAL_COLUMNS)]
        rewritten = io.StringIO()
        writer = csv.DictWriter(rewritten, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, rewritten.getvalue())
        return columns

    def _write_error(self, error: OSError) -> ResultsError:
        return ResultsError(
            f"{self._path}: cannot be written ({error.strerror}). Close it in other programs, or free space on its disk; "
            "the last label was not saved"
        )


def _complete_last_line(file: io.BufferedRandom, columns: int) -> None:
    """Remove the last line if a killed writer left it incomplete; add a line break if only that is missing."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(max(0, size - _TAIL_BYTES))
    data = file.read()
    if data.endswith(b"\n"):
        return
    tail = data.rpartition(b"\n")[2]
    if incomplete_last_line(tail.decode("utf-8", errors="replace"), columns):
        file.truncate(size - len(tail))
    else:
        file.write(b"\n")


def _file_state(path: Path) -> _FileState:
    """Return what changes whenever the file does."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
