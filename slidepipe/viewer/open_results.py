"""The RESULTS folder that is viewed: its tables, its labels, and the counts that follow from both."""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidepipe.errors import ResultsError
from slidepipe.review.corrected_counts import Audit, corrected_table, take_audit
from slidepipe.review.draw import read_draw
from slidepipe.review.labels import REVIEW_FILE, labels_of_current_objects
from slidepipe.review.reviewed_counts import ReviewedCounts, count_accepted, review_counts
from slidepipe.store.manifest import MANIFEST
from slidepipe.viewer.label_book import LabelBook
from slidepipe.viewer.results_index import ResultsIndex

#: What the labels and counts depend on: the version of the tables, the number of label changes, the age of `review.csv`.
_State = tuple[str, int, int]


class OpenResults:
    """A RESULTS folder that is viewed. The tables are read again after a run has written them.

    Args:
        path: the RESULTS folder.

    Attributes:
        path: absolute path of the RESULTS folder.
        book: the labels.

    Raises:
        ResultsError: there are no finished results, or the labels cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.book = LabelBook(self.path)
        self._lock = threading.Lock()
        self._manifest_time_ns = 0
        self._index: ResultsIndex | None = None
        self._counts: tuple[_State, dict[str, Any]] | None = None
        self._current_labels: tuple[_State, dict[str, str]] | None = None
        _ = self.index  # Reports results that cannot be read before the server starts.

    @property
    def index(self) -> ResultsIndex:
        """The tables as they are now.

        Raises:
            ResultsError: a run is writing them, or they cannot be read.
        """
        with self._lock:
            try:
                time_ns = (self.path / MANIFEST).stat().st_mtime_ns
            except OSError as error:
                raise ResultsError(
                    f"{self.path / MANIFEST}: cannot be read ({error.strerror}). Give a finished RESULTS folder"
                ) from error
            if self._index is None or time_ns != self._manifest_time_ns:
                self._index = ResultsIndex(self.path)
                self._manifest_time_ns = time_ns
            return self._index

    def labels(self) -> dict[str, str]:
        """Return the labels of the objects in the tables, by object id.

        A label is left out if its object has another box now, because another run detected the objects again.
        """
        index, labels = self.index, self.book.labels()
        state = self._state(index)
        if self._current_labels is None or self._current_labels[0] != state:
            current = labels_of_current_objects(labels, self.book.places(), index.number, index.boxes)
            self._current_labels = (state, current)
        return self._current_labels[1]

    def counts(self) -> dict[str, Any]:
        """Return the counts that the pages show.

        Returns:
            `genera`: for each genus its raw, reviewed and corrected count over the whole well.
            `samples`: the genera of samples whose reviewed count differs from the raw count.
            `labelled`, `missed`, `stale`: the numbers of labelled objects, of drawn fossils, and of labels whose object is not in
            the tables any more.
            `correction`: how the corrected counts were estimated; empty if they were not.
        """
        index, labels, missed = self.index, self.labels(), self.book.missed()
        state = self._state(index)
        if self._counts is not None and self._counts[0] == state:
            return self._counts[1]
        slides = {slide.slide_id: slide.sample_id for slide in index.slides}
        reviewed = review_counts(index.objects, labels, missed, slides, index.genera)
        audit = take_audit(index.usable_objects, read_draw(self.path), labels, index.genera)
        raw = count_accepted(index.objects)
        rows, correction = _genus_rows(index, raw, reviewed, audit)
        counts = {
            "genera": rows,
            "samples": _sample_rows(raw, reviewed),
            "labelled": sum(reviewed.labelled.values()),
            "missed": len(missed),
            "stale": len(self.book.labels()) - len(labels),
            "correction": correction,
        }
        self._counts = (state, counts)
        return counts

    def _state(self, index: ResultsIndex) -> _State:
        return index.version, self.book.sequence, _modified_ns(self.path / REVIEW_FILE)


def _sample_rows(raw: Counter[tuple[str, str]], reviewed: ReviewedCounts) -> list[dict[str, Any]]:
    """Return the counts of the samples' genera that the labels change."""
    keys = sorted(raw.keys() | reviewed.counts.keys())
    return [
        {
            "sample_id": sample_id,
            "genus": genus,
            "count": raw[sample_id, genus],
            "reviewed": reviewed.counts[sample_id, genus],
        }
        for sample_id, genus in keys
        if raw[sample_id, genus] != reviewed.counts[sample_id, genus]
    ]


def _genus_rows(
    index: ResultsIndex, raw: Counter[tuple[str, str]], reviewed: ReviewedCounts, audit: Audit
) -> tuple[list[dict[str, Any]], str]:
    """Return the counts of each genus over the whole well, and how the corrected counts were estimated."""
    totals = _by_genus(reviewed.counts)
    drawn = _by_genus(reviewed.missed)
    estimated = corrected_table(audit, raw, [], index.genera).to_dict("records")
    estimates = {str(row["genus"]): row for row in estimated}
    no_estimate = {"count": 0, "corrected": "", "corrected_low": "", "corrected_high": ""}
    rows = [
        {
            "genus": genus,
            "count": estimates.get(genus, no_estimate)["count"],
            "reviewed": totals[genus],
            "missed": drawn[genus],
            **{
                name: estimates.get(genus, no_estimate)[name]
                for name in ("corrected", "corrected_low", "corrected_high")
            },
        }
        for genus in [*estimates, *sorted(totals.keys() - estimates.keys())]
    ]
    return rows, str(estimated[0]["correction"]) if estimated else ""


def _by_genus(counts: Mapping[tuple[str, str], int]) -> Counter[str]:
    """Return the sum over all samples of counts by sample and genus."""
    totals: Counter[str] = Counter()
    for (_, genus), number in counts.items():
        totals[genus] += number
    return totals


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
