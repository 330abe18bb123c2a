"""``report.html``: a well on one page that opens from disk, from the depth chart down to the pictures behind each number."""

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from slidepipe.classification.object_table import ACCEPTED, UNKNOWN, UNUSABLE
from slidepipe.exports.geojson import write_geojson
from slidepipe.report import sections
from slidepipe.report.chart import chart_samples, draw_chart, genera_in_order, write_chart
from slidepipe.report.chart_parts import Link
from slidepipe.report.clusters import MOST_CLUSTERED, Group, group_alike
from slidepipe.report.gallery import STYLE as GALLERY_STYLE
from slidepipe.report.gallery import (
    Frame,
    Shelf,
    all_ids,
    choose,
    range_shelves,
    read_nearest,
    read_objects,
    shelf_length,
)
from slidepipe.report.html import page, table
from slidepipe.results import Results
from slidepipe.store.files import write_text

_GROUP_PICTURES, _UNUSABLE_PICTURES = 12, 12


def write_all(results_path: Path) -> None:
    """Write the charts, the GeoJSON of all slides, and the page, from one reading of the results."""
    results = Results(results_path)
    write_geojson(results, results_path / "geojson")
    charts = write_charts(results)
    write_text(results_path / "report.html", report_page(results, charts))


def write_charts(results: Results) -> dict[str, str]:
    """Write chart.svg and chart.pdf, of several wells one a well, numbered from the second. Returns the file names by well."""
    names = {}
    for number, (well, figure) in enumerate(draw_charts(results), start=1):
        name = "chart" if number == 1 else f"chart-{number}"
        write_chart(figure, results.path, name)
        names[well] = f"{name}.svg"
    return names


def draw_charts(results: Results, link: Link | None = None) -> Iterator[tuple[str, Figure]]:
    """Each well and its chart; ``link``: see :func:`~slidepipe.report.chart.draw_chart`."""
    for well in dict.fromkeys(results.counts["well"].astype(str)):
        own = results.counts[results.counts["well"].astype(str) == well]
        long = results.counts_long[results.counts_long["sample_id"].isin(own["sample_id"])]
        yield well, draw_chart(f"Well {well}", *chart_samples(own, long), link)


def report_page(results: Results, charts: Mapping[str, str]) -> str:
    """The page of a well as HTML. ``charts``: the SVG in the RESULTS folder of each well."""
    objects = read_objects(results)
    anchors = {str(slide["slide_id"]): f"slide-{number}" for number, slide in enumerate(results.manifest["slides"], 1)}
    by_genus = dict(list(objects[objects["state"] == ACCEPTED].groupby("genus", sort=True)))
    names = [genus for genus in genera_in_order(results.counts, results.counts_long) if genus in by_genus]
    each = shelf_length(len(names))
    ranges = _ranges(results)
    shelves = {
        genus: [
            *choose(by_genus[genus], each, genus),
            *(shelf for ends in ranges.get(genus, []) for shelf in range_shelves(by_genus[genus], ends)),
        ]
        for genus in names
    }
    groups, sampled = _unknown_groups(results, objects)
    unusable = objects[objects["state"] == UNUSABLE].iloc[:_UNUSABLE_PICTURES]
    shown = [
        *shelves.values(),
        [Shelf("", group_objects.iloc[:_GROUP_PICTURES]) for _, group_objects in groups],
        [Shelf("", unusable)],
    ]
    frame = Frame(results, anchors, read_nearest(results, set(all_ids(shown))))
    title = "Well " + ", ".join(charts)
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(sections.subtitle(results))}</p></header>',
        sections.failures(results, anchors),
        sections.glance(results),
        *(_chart(results.path / name, well) for well, name in charts.items()),
        sections.contents(names, {genus: len(by_genus[genus]) for genus in names}, len(groups)),
        sections.sample_table(results, genera_in_order(results.counts, results.counts_long)),
        sections.reviewed_counts(results),
        sections.further_tables(results),
        *(_genus_section(results, genus, by_genus[genus], shelves[genus], frame) for genus in names),
        _unknown_section(objects, groups, sampled, frame),
        _unusable_section(objects, unusable, frame),
        sections.slide_table(results, anchors),
        sections.how_made(results),
    ]
    return page(title, "\n".join(parts), GALLERY_STYLE + sections.STYLE)


def _ranges(results: Results) -> dict[str, list[dict[Any, Any]]]:
    """The rows of ranges.csv by genus (one a well), where the run wrote it."""
    path = results.path / "ranges.csv"
    if not path.exists():
        return {}
    rows: dict[str, list[dict[Any, Any]]] = {}
    for row in pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"):
        rows.setdefault(str(row["genus"]), []).append(row)
    return rows


def _chart(path: Path, well: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = escape(path.name)
    return (
        f'<section class="chart"><h2>Depth chart of {escape(well)}</h2>'
        f'<p class="muted">The same as <a href="{name}">{name}</a> and, for print, '
        f'<a href="{escape(path.stem)}.pdf">{escape(path.stem)}.pdf</a>. The numbers are in the table of samples below.</p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="depth chart"><img src="data:image/svg+xml;base64,{data}" '
        f'alt="Depth chart of well {escape(well)}: a panel a genus, percent of each sample by depth"></div></section>'
    )


def _genus_section(results: Results, genus: str, objects: pd.DataFrame, shelves: list[Shelf], frame: Frame) -> str:
    samples = objects["sample_id"].nunique()
    depths = results.counts.set_index("sample_id")["depth_m"].reindex(objects["sample_id"].unique()).dropna()
    reach = f", {depths.min():g} to {depths.max():g} m" if len(depths) else ""
    plural = "s" if len(objects) != 1 else ""
    rows = "".join(f"<h3>{escape(shelf.title)}</h3>\n{frame.gallery(shelf.objects)}" for shelf in shelves)
    return (
        f'<section id="{sections.genus_anchor(genus)}"><h2><i>{escape(genus)}</i></h2>'
        f"<p>{len(objects)} specimen{plural} in {samples} of {len(results.counts)} samples{reach}.</p>\n{rows}</section>"
    )


def _unknown_groups(results: Results, objects: pd.DataFrame) -> tuple[list[tuple[Group, pd.DataFrame]], int]:
    """The unknown objects in groups that look alike, each with its rows, most typical first; and of how many they are."""
    unknown = objects[objects["state"] == UNKNOWN]
    if len(unknown) > MOST_CLUSTERED:
        kept = np.sort(np.random.default_rng(0).choice(len(unknown), MOST_CLUSTERED, replace=False))
        unknown = unknown.iloc[kept]
    parts = list(_slide_embeddings(results, unknown))
    if not parts:
        return [], 0
    rows = pd.concat([part for part, _ in parts])
    groups = group_alike(np.concatenate([embeddings for _, embeddings in parts]))
    return [(group, rows.iloc[group.members]) for group in groups], len(rows)


def _slide_embeddings(results: Results, objects: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    for slide_id, part in objects.groupby("slide_id", sort=True):
        rows = part["object_id"].str.rpartition(":")[2].astype(int).to_numpy()
        yield part, np.asarray(results.embeddings(str(slide_id))[...], np.float32)[rows]


def _unknown_section(
    objects: pd.DataFrame, groups: list[tuple[Group, pd.DataFrame]], sampled: int, frame: Frame
) -> str:
    total = int((objects["state"] == UNKNOWN).sum())
    if not groups:
        return '<section id="unknown"><h2>Unknown objects</h2><p>None.</p></section>'
    drawn = "" if sampled == total else f" {sampled} of them, drawn at random, are grouped here."
    parts = [
        f'<section id="unknown"><h2>Unknown objects</h2><p>{total} objects are like none of the reference genera well '
        f"enough.{drawn} They are grouped by how alike they look; a kind met often, such as a genus that the reference set "
        "lacks, comes first. Likeness is 1 where all are the same, 0 where they are as mixed as all together. "
        "Most unknown objects of a slide are debris.</p>"
    ]
    for number, (group, rows) in enumerate(groups, start=1):
        share = 100 * len(rows) / sampled
        guesses = rows["candidate"].value_counts(sort=True)
        parts.append(
            f"<h3>Group {number}: {len(rows)} objects ({share:.0f} %) in {rows['sample_id'].nunique()} samples, likeness "
            f"{group.likeness:.2f}, most often nearest to {escape(str(guesses.index[0]))}</h3>\n"
            + frame.gallery(rows.iloc[:_GROUP_PICTURES])
        )
    return "".join(parts) + "</section>"


def _unusable_section(objects: pd.DataFrame, shown: pd.DataFrame, frame: Frame) -> str:
    unusable = objects[objects["state"] == UNUSABLE]
    if unusable.empty:
        return ""
    reasons = unusable["reason"].fillna("no reason given").value_counts()
    told = table(["reason", "objects"], list(reasons.items()), {1})
    return f'<section id="unusable"><h2>Unusable objects</h2>{told}{frame.gallery(shown)}</section>'
