"""The sections of `report.html` that hold pictures: one gallery per genus, the groups of unknown objects, the unusable ones."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from slidepipe.classification.object_table import ACCEPTED, UNKNOWN, UNUSABLE
from slidepipe.html import render
from slidepipe.interfaces import Float32Array
from slidepipe.report.clusters import MAX_GROUPED, Group, group_similar
from slidepipe.report.gallery import (
    GalleryRenderer,
    GalleryRow,
    choose_specimens,
    object_ids,
    range_rows,
    read_nearest,
    specimens_per_row,
)
from slidepipe.report.sections import genus_anchor
from slidepipe.results import Results
from slidepipe.store.object_id import rows_of

_PACKAGE = "slidepipe.report"
_PICTURES_PER_GROUP, _UNUSABLE_PICTURES = 12, 12


class Specimens:
    """The objects that a report shows.

    Attributes:
        by_genus: the rows of the object table that are counted, by genus.
        genera: the genera found, in the order of the chart.
        rows: the rows of each genus's gallery, by genus.
        groups: the groups of unknown objects, each with its rows of the object table, most typical first.
    """

    def __init__(self, results: Results, objects: pd.DataFrame, genera: Sequence[str]) -> None:
        """Choose the objects.

        Args:
            results: the results of a run.
            objects: the object table.
            genera: all genera, in the order of the chart.
        """
        self._results = results
        self.by_genus: dict[Any, pd.DataFrame] = dict(
            list(objects[objects["state"] == ACCEPTED].groupby("genus", sort=True))
        )
        self.genera = [genus for genus in genera if genus in self.by_genus]
        count = specimens_per_row(len(self.genera))
        ranges = _read_ranges(results)
        self.rows: dict[str, list[GalleryRow]] = {
            genus: [
                *choose_specimens(self.by_genus[genus], count, genus),
                *(row for ends in ranges.get(genus, []) for row in range_rows(self.by_genus[genus], ends)),
            ]
            for genus in self.genera
        }
        self._unknown = objects[objects["state"] == UNKNOWN]
        self._unusable = objects[objects["state"] == UNUSABLE]
        self.groups = _group_unknown(results, self._unknown)

    def sections(self, slide_anchors: dict[str, str]) -> list[Markup]:
        """Return the sections with pictures, in the order of the page.

        Args:
            slide_anchors: fragment of each slide's row on the page, by `slide_id`.
        """
        shown = [
            *self.rows.values(),
            [GalleryRow("", objects.iloc[:_PICTURES_PER_GROUP]) for _, objects in self.groups],
            [GalleryRow("", self._unusable.iloc[:_UNUSABLE_PICTURES])],
        ]
        nearest = read_nearest(self._results, set(object_ids(shown)))
        renderer = GalleryRenderer(self._results, slide_anchors, nearest)
        sections = [self._genus_section(genus, renderer) for genus in self.genera]
        sections.append(self._unknown_section(renderer))
        if not self._unusable.empty:
            sections.append(self._unusable_section(renderer))
        return sections

    def _genus_section(self, genus: str, renderer: GalleryRenderer) -> Markup:
        objects, counts = self.by_genus[genus], self._results.counts
        depths = counts.set_index("sample_id")["depth_m"].reindex(objects["sample_id"].unique()).dropna()
        return render(
            _PACKAGE,
            "genus.html",
            genus=genus,
            anchor=genus_anchor(genus),
            specimens=len(objects),
            samples=objects["sample_id"].nunique(),
            all_samples=len(counts),
            depths_m=(depths.min(), depths.max()) if len(depths) else None,
            rows=[(row.title, renderer.render(row.objects)) for row in self.rows[genus]],
        )

    def _unknown_section(self, renderer: GalleryRenderer) -> Markup:
        groups = [
            {
                "objects": len(objects),
                "samples": objects["sample_id"].nunique(),
                "similarity": group.similarity,
                "nearest": objects["candidate"].value_counts(sort=True).index[0],
                "gallery": renderer.render(objects.iloc[:_PICTURES_PER_GROUP]),
            }
            for group, objects in self.groups
        ]
        grouped = sum(len(objects) for _, objects in self.groups)
        return render(_PACKAGE, "unknown.html", total=len(self._unknown), grouped=grouped, groups=groups)

    def _unusable_section(self, renderer: GalleryRenderer) -> Markup:
        reasons = self._unusable["reason"].fillna("no reason given").value_counts()
        gallery = renderer.render(self._unusable.iloc[:_UNUSABLE_PICTURES])
        return render(_PACKAGE, "unusable.html", reasons=list(reasons.items()), gallery=gallery)


def _read_ranges(results: Results) -> dict[str, list[dict[Any, Any]]]:
    """Return the rows of `ranges.csv` by genus, one per well; nothing if the run did not write the file."""
    path = results.path / "ranges.csv"
    if not path.exists():
        return {}
    rows: dict[str, list[dict[Any, Any]]] = {}
    for row in pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"):
        rows.setdefault(str(row["genus"]), []).append(row)
    return rows


def _group_unknown(results: Results, unknown: pd.DataFrame) -> list[tuple[Group, pd.DataFrame]]:
    """Return groups of unknown objects that look alike, each with its rows of the object table, most typical first."""
    if len(unknown) > MAX_GROUPED:
        kept = np.sort(np.random.default_rng(0).choice(len(unknown), MAX_GROUPED, replace=False))
        unknown = unknown.iloc[kept]
    parts = list(_embeddings_by_slide(results, unknown))
    if not parts:
        return []
    rows = pd.concat([part for part, _ in parts])
    groups = group_similar(np.concatenate([embeddings for _, embeddings in parts]))
    return [(group, rows.iloc[group.members]) for group in groups]


def _embeddings_by_slide(results: Results, objects: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Float32Array]]:
    """Yield the objects of each slide with their embeddings, float32 (N, D)."""
    for slide_id, part in objects.groupby("slide_id", sort=True):
        rows = rows_of(part["object_id"])
        yield part, np.asarray(results.embeddings(str(slide_id))[...], np.float32)[rows]
