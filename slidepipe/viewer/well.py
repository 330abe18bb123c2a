"""What the pages are about: the results, their objects by number, the labels, and the counts that follow from these."""

import functools
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from slidepipe.classification.object_table import STATES
from slidepipe.errors import ResultsError
from slidepipe.interfaces import IntArray
from slidepipe.report.chart_data import genera_in_order
from slidepipe.report.gallery import read_objects
from slidepipe.results import Results
from slidepipe.review.corrected_counts import Audit, corrected_table, take_audit
from slidepipe.review.draw import REVIEW_FILE, read_draw, usable_objects
from slidepipe.review.labels import EDGES, labels_of_current_objects
from slidepipe.review.reviewed_counts import ReviewedCounts, count_accepted, review_counts
from slidepipe.store.manifest import MANIFEST
from slidepipe.viewer.book import LabelBook

Sort = Literal["certain", "uncertain", "near", "far", "depth", "random", "review"]
SORTS: tuple[Sort, ...] = get_args(Sort)
Labelled = Literal["any", "yes", "no"]
ALL = "all"


@dataclass(frozen=True)
class Query:
    """Which objects, in which order. ``name`` is a genus, a state, or "all"; ``sample_id`` empty for all samples."""

    name: str = ALL
    sample_id: str = ""
    sort: Sort = "certain"
    labelled: Labelled = "any"
    seed: int = 0


class Index:
    """The tables of one finished run; objects are numbered as in ``objects.parquet``.

    Attributes:
        results: the results.
        stamp: changes when the tables do.
        objects: the object table without its neighbours, with ``depth_m``.
        slides: the manifest's entries.
        genera: of the reference set.
        names: the genera, then whatever else objects were likened to (the reject classes).
        number: of each object id.
        boxes: int64 (N, 4), level-0 pixels of the whole slide.
    """

    def __init__(self, path: Path) -> None:
        self.results = Results(path)
        self.stamp = str(self.results.manifest["tables"])[:16]
        self.slides: list[dict[str, Any]] = list(self.results.manifest["slides"])
        self.genera = [str(genus) for genus in self.results.manifest["reference"]["genera"]]
        self.objects = read_objects(self.results)
        depths = {str(slide["slide_id"]): slide.get("depth_m") for slide in self.slides}
        self.objects["depth_m"] = self.objects["slide_id"].map(depths).astype(float)
        self.boxes: IntArray = self.objects[list(EDGES)].to_numpy(np.int64)
        self.number = {name: place for place, name in enumerate(self.objects["object_id"])}
        others = set(self.objects["candidate"].dropna()) - set(self.genera)
        self.names = [*self.genera, *sorted(others)]
        self._frame: pd.DataFrame | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The objects that a draw is from."""
        if self._frame is None:
            self._frame = usable_objects(self.objects)
        return self._frame

    @functools.cached_property
    def genera_in_order(self) -> list[str]:
        """All genera in the order of the chart: those found by their highest find, then the others."""
        return genera_in_order(self.results.counts, self.results.counts_long)

    @property
    def samples(self) -> list[str]:
        """The samples that have objects or may have, by depth."""
        counts = self.results.counts
        return [str(name) for name in counts.loc[counts["status"] != "failed", "sample_id"]]

    def slide_number(self, slide_id: str) -> int | None:
        """The place of a slide in :attr:`slides`."""
        return next((number for number, slide in enumerate(self.slides) if slide["slide_id"] == slide_id), None)

    def nearest(self, number: int) -> list[dict[str, Any]]:
        """The neighbours of an object in the reference set, nearest first: genus, reference (file), distance."""
        name = self.objects["object_id"].iloc[number]
        return self.results.object_table.nearest([name]).get(name, [])

    def select(self, query: Query, labels: Mapping[str, str]) -> IntArray:
        """The numbers of the objects that a query asks for, in its order.

        A genus gives the objects that the head counted as it, and those that a reviewer says are of it.
        """
        objects = self.objects
        kept = np.ones(len(objects), bool)
        if query.name in STATES:
            kept &= (objects["state"] == query.name).to_numpy()
        elif query.name != ALL:
            kept &= (objects["genus"] == query.name).to_numpy()
            wanted = query.name.lower()
            kept[
                [self.number[key] for key, label in labels.items() if label.lower() == wanted and key in self.number]
            ] = True
        if query.sample_id:
            kept &= (objects["sample_id"] == query.sample_id).to_numpy()
        if query.labelled != "any":
            told = np.zeros(len(objects), bool)
            told[[self.number[key] for key in labels if key in self.number]] = True
            kept &= told if query.labelled == "yes" else ~told
        numbers = np.flatnonzero(kept).astype(np.int64)
        if query.sort == "review":
            return self._drawn(numbers)
        if query.sort == "random":
            return np.random.default_rng(query.seed).permutation(numbers)
        column, sign = {
            "certain": ("p_value", -1.0), "uncertain": ("p_value", 1.0), "near": ("distance", 1.0),
            "far": ("distance", -1.0), "depth": ("depth_m", 1.0),
        }[query.sort]  # fmt: skip
        values = objects[column].to_numpy(float)[numbers] * sign
        second = objects["distance"].to_numpy(float)[numbers] * (-1.0 if query.sort == "uncertain" else 1.0)
        return numbers[np.lexsort((numbers, second, values))]  # not-a-number sorts last

    def _drawn(self, numbers: IntArray) -> IntArray:
        review = read_draw(self.results.path)
        kept = set(numbers.tolist())
        drawn = [] if review is None else [self.number.get(name, -1) for name in review["object_id"]]
        return np.array([number for number in drawn if number in kept], np.int64)


class Well:
    """A RESULTS folder that is looked at: the index is made anew when a run has written the tables again."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.book = LabelBook(self.path)
        self._lock = threading.Lock()
        self._seen = 0
        self._index: Index | None = None
        self._counts: tuple[object, dict[str, Any]] | None = None
        self._fitting: tuple[object, dict[str, str]] | None = None
        _ = self.index

    @property
    def index(self) -> Index:
        """The tables as they are now.

        Raises:
            ResultsError: a run is writing them, or they cannot be read.
        """
        with self._lock:
            try:
                seen = (self.path / MANIFEST).stat().st_mtime_ns
            except OSError as error:
                raise ResultsError(f"{self.path / MANIFEST}: cannot be read ({error.strerror})") from error
            if self._index is None or seen != self._seen:
                self._index = Index(self.path)
                self._seen = seen
            return self._index

    def labels(self) -> dict[str, str]:
        """The labels of the objects that the tables hold now; one whose object was detected anew elsewhere is left out."""
        index = self.index
        said, key = self.book.labels(), (index.stamp, self.book.sequence, _modified(self.path / REVIEW_FILE))
        if self._fitting is None or self._fitting[0] != key:
            self._fitting = (key, labels_of_current_objects(said, self.book.places(), index.number, index.boxes))
        return self._fitting[1]

    def counts(self) -> dict[str, Any]:
        """Raw, reviewed and corrected counts of each genus over the whole well, and the samples' reviewed counts that differ."""
        index, labels, missed = self.index, self.labels(), self.book.missed()
        key = (index.stamp, self.book.sequence, _modified(self.path / REVIEW_FILE))
        if self._counts is not None and self._counts[0] == key:
            return self._counts[1]
        slides = {str(slide["slide_id"]): slide.get("sample_id") for slide in index.slides}
        reviewed = review_counts(index.objects, labels, missed, slides, index.genera)
        audit = take_audit(index.frame, read_draw(self.path), labels, index.genera)
        raw = count_accepted(index.objects)
        told = _count_rows(index, raw, reviewed, audit, len(missed), len(self.book.labels()) - len(labels))
        self._counts = (key, told)
        return told


def _count_rows(
    index: Index, raw: Counter[tuple[str, str]], reviewed: ReviewedCounts, audit: Audit, missed: int, stale: int
) -> dict[str, Any]:
    samples = [
        {
            "sample_id": sample_id,
            "genus": genus,
            "count": raw[sample_id, genus],
            "reviewed": reviewed.counts[sample_id, genus],
        }
        for sample_id, genus in sorted(raw.keys() | reviewed.counts.keys())
        if raw[sample_id, genus] != reviewed.counts[sample_id, genus]
    ]
    whole: Counter[str] = Counter()
    for (_, genus), number in reviewed.counts.items():
        whole[genus] += number
    drawn: Counter[str] = Counter()
    for (_, genus), number in reviewed.missed.items():
        drawn[genus] += number
    estimated = corrected_table(audit, raw, [], index.genera).to_dict("records")
    rows = {str(row["genus"]): row for row in estimated}
    blank = {"count": 0, "corrected": "", "corrected_low": "", "corrected_high": ""}
    genera = [
        {
            "genus": genus,
            "count": rows.get(genus, blank)["count"],
            "reviewed": whole[genus],
            "missed": drawn[genus],
            **{name: rows.get(genus, blank)[name] for name in ("corrected", "corrected_low", "corrected_high")},
        }
        for genus in [*rows, *sorted(whole.keys() - rows.keys())]
    ]
    return {
        "genera": genera,
        "samples": samples,
        "labelled": sum(reviewed.labelled.values()),
        "missed": missed,
        "stale": stale,
        "correction": str(estimated[0]["correction"]) if estimated else "",
    }


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
