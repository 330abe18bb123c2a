"""The tables of a finished run, prepared for the viewer: objects by number, and the selection of objects."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from slidepipe.classification.object_table import STATES
from slidepipe.interfaces import BoolArray, IntArray
from slidepipe.report.chart_data import genera_in_order
from slidepipe.report.gallery import read_objects
from slidepipe.results import Results
from slidepipe.review.draw import read_draw, usable_objects
from slidepipe.review.labels import EDGES

Sort = Literal["certain", "uncertain", "near", "far", "depth", "random", "review"]
SORTS: tuple[Sort, ...] = get_args(Sort)
Labelled = Literal["any", "yes", "no"]

#: The name of a query for objects of every genus and state.
ALL = "all"

#: The column that each order sorts by, and whether its largest value comes first.
_SORT_COLUMNS: dict[Sort, tuple[str, bool]] = {
    "certain": ("p_value", True),
    "uncertain": ("p_value", False),
    "near": ("distance", False),
    "far": ("distance", True),
    "depth": ("depth_m", False),
}


@dataclass(frozen=True)
class Query:
    """Which objects to show, and in which order.

    Attributes:
        name: a genus, a state, or "all".
        sample_id: id of a sample; empty for all samples.
        sort: the order, one of `SORTS`.
        labelled: whether objects have a label ("yes"), have none ("no"), or either ("any").
        seed: of the order "random".
    """

    name: str = ALL
    sample_id: str = ""
    sort: Sort = "certain"
    labelled: Labelled = "any"
    seed: int = 0


class ResultsIndex:
    """The tables of one finished run. Objects are numbered as in `objects.parquet`.

    Args:
        path: the RESULTS folder.

    Attributes:
        results: the results.
        version: changes when a run writes the tables again.
        objects: the table of objects without the column `nearest`, with `depth_m`.
        slides: the slides' records in the manifest.
        genera: the genera of the reference set.
        names: the genera, then the other classes that objects were compared with (classes that are not counted).
        number: the number of an object, by object id.
        boxes: int64 (N, 4), x0, y0, x1, y1, level-0 pixels of the whole slide.

    Raises:
        ResultsError: a run is writing the tables, or they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.results = Results(path)
        self.version = str(self.results.manifest.tables)[:16]
        self.slides = self.results.manifest.slides
        self.genera = list(self.results.manifest.reference.genera)
        self.objects = read_objects(self.results)
        depths = {slide.slide_id: slide.depth_m for slide in self.slides}
        self.objects["depth_m"] = self.objects["slide_id"].map(depths).astype(float)
        self.boxes: IntArray = self.objects[list(EDGES)].to_numpy(np.int64)
        self.number = {object_id: number for number, object_id in enumerate(self.objects["object_id"])}
        other_names = set(self.objects["candidate"].dropna()) - set(self.genera)
        self.names = [*self.genera, *sorted(other_names)]

    @functools.cached_property
    def usable_objects(self) -> pd.DataFrame:
        """The objects that `slidepipe review sample` draws from."""
        return usable_objects(self.objects)

    @functools.cached_property
    def genera_in_order(self) -> list[str]:
        """All genera in the order of the chart: first those found, by their highest find, then the others."""
        return genera_in_order(self.results.counts, self.results.counts_long)

    @property
    def samples(self) -> list[str]:
        """Ids of the samples that did not fail, ordered by depth."""
        counts = self.results.counts
        return [str(name) for name in counts.loc[counts["status"] != "failed", "sample_id"]]

    def slide_number(self, slide_id: str) -> int | None:
        """Return the position of a slide in `slides`; None if there is no such slide."""
        return next((number for number, slide in enumerate(self.slides) if slide.slide_id == slide_id), None)

    def nearest(self, number: int) -> list[dict[str, Any]]:
        """Return the neighbours of an object in the reference set, nearest first.

        Args:
            number: number of the object.

        Returns:
            For each neighbour `genus`, `reference` (its file) and `distance`.
        """
        object_id = str(self.objects["object_id"].iloc[number])
        return self.results.object_table.nearest([object_id]).get(object_id, [])

    def select(self, query: Query, labels: Mapping[str, str]) -> IntArray:
        """Return the numbers of the objects that a query selects, in its order.

        A genus selects the objects that the head counted as this genus, and those that a reviewer labelled as this genus.

        Args:
            query: the query.
            labels: label by object id.
        """
        objects = self.objects
        kept = np.ones(len(objects), bool)
        if query.name in STATES:
            kept &= (objects["state"] == query.name).to_numpy()
        elif query.name != ALL:
            kept &= (objects["genus"] == query.name).to_numpy()
            genus = query.name.lower()
            kept |= self._mask(object_id for object_id, label in labels.items() if label.lower() == genus)
        if query.sample_id:
            kept &= (objects["sample_id"] == query.sample_id).to_numpy()
        if query.labelled != "any":
            labelled = self._mask(labels)
            kept &= labelled if query.labelled == "yes" else ~labelled
        return self._sort(np.flatnonzero(kept).astype(np.int64), query)

    def _mask(self, object_ids: Iterable[str]) -> BoolArray:
        """Return which objects have one of these ids, bool (N,). Ids that no object has are ignored."""
        mask = np.zeros(len(self.objects), bool)
        mask[[self.number[object_id] for object_id in object_ids if object_id in self.number]] = True
        return mask

    def _sort(self, numbers: IntArray, query: Query) -> IntArray:
        if query.sort == "review":
            return self._review_order(numbers)
        if query.sort == "random":
            return np.random.default_rng(query.seed).permutation(numbers)
        column, largest_first = _SORT_COLUMNS[query.sort]
        values = self.objects[column].to_numpy(float)[numbers] * (-1.0 if largest_first else 1.0)
        # Objects of equal p-value: the most certain is the nearest to a reference, the least certain is the farthest.
        distances = self.objects["distance"].to_numpy(float)[numbers] * (-1.0 if query.sort == "uncertain" else 1.0)
        return numbers[np.lexsort((numbers, distances, values))]  # NaN comes last.

    def _review_order(self, numbers: IntArray) -> IntArray:
        """Return those of the numbers that `slidepipe review sample` drew, in the order of `review.csv`."""
        review = read_draw(self.results.path)
        kept = set(numbers.tolist())
        drawn = [] if review is None else [self.number.get(object_id, -1) for object_id in review["object_id"]]
        return np.array([number for number in drawn if number in kept], np.int64)
