"""The parts of ``report.html`` that are numbers and words: failures, the well at a glance, tables, how it was made."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd

from slidepipe.report.html import Html, table
from slidepipe.results import Results
from slidepipe.review.corrected_counts import WHOLE_WELL
from slidepipe.review.reviewed_counts import LABELLED, MISSED, REVIEWED

STYLE = """
.glance { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin: 16px 0; }
.glance div { border: 1px solid var(--line); border-radius: 4px; padding: 8px 12px; background: var(--tint); }
.glance b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.alert { border-left: 5px solid var(--alert); padding: 2px 14px; background: #fdf3f3; margin: 14px 0; }
.alert h2 { color: var(--alert); margin-top: .5em; }
.alert td { white-space: normal; overflow-wrap: anywhere; } .alert td:last-child { min-width: 14em; }
.alert td:first-child { min-width: 9em; }
.chart img { max-width: none; }
.wide:focus-visible, a:focus-visible { outline: 3px solid var(--mark); }
.samples th, .samples td { padding: 2px 6px; } .samples thead th { vertical-align: bottom; }
.samples th span { writing-mode: vertical-rl; transform: rotate(180deg); font-style: italic; font-weight: 500; }
.samples th:first-child, .samples td:first-child { position: sticky; left: 0; background: var(--ground); }
.samples th:first-child { z-index: 1; } .samples .none { color: var(--muted); }
.contents { columns: 15em; padding-left: 1.2em; } a { color: var(--mark); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); padding: 10px; font-size: .8rem; }
.how td { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: 10px; } .wide { margin: 0 -10px; padding: 0 10px; } }
@media print { body { max-width: none; font-size: 10pt; } .wide { overflow: visible; } .chart img { max-width: 100%; }
  h2, h3 { break-after: avoid; } .samples th:first-child, .samples td:first-child { position: static; } }
"""

#: Tables that a run may have written, their titles, and columns that are for machines.
_FURTHER = (
    ("ranges.csv", "Tops and bases", r"object_ids|sample_id"),
    ("diversity.csv", "Diversity among the trained genera", r"sample_type"),
    ("accuracy.csv", "Accuracy by review", r"^$"),
    ("corrected.csv", "Counts of the whole well, corrected by review", r"^$"),
    ("spike.csv", "Concentration by spike", r"^$"),
)
_NO_REVIEW = (
    "<section><h2>Accuracy by review</h2><p>Nobody has reviewed these counts yet: how many of the objects counted as a genus "
    "are of it is not known. <code>slidepipe review sample RESULTS</code> draws objects to check.</p></section>"
)
_SAMPLE_COLUMNS = ("sample_id", "status", "fossils", "unknown", "unusable")


def subtitle(results: Results) -> str:
    """One line under the title: how deep, how many slides, when and by what."""
    manifest = results.manifest
    depths = results.counts["depth_m"].dropna()
    reach = f"{depths.min():g} to {depths.max():g} m, " if len(depths) else ""
    return (
        f"{reach}{len(results.counts)} samples, {len(manifest['slides'])} slides. "
        f"slidepipe {manifest['slidepipe']}, {manifest['written'][:10]}"
    )


def failures(results: Results, anchors: Mapping[str, str]) -> str:
    """What was not analysed, before everything else; one line where all was."""
    rows = results.failures.astype(object).fillna("").to_dict("records")
    if not rows:
        return "<p>Every slide was analysed in full.</p>"
    statuses = results.counts_slides["status"].value_counts()
    told = ", ".join(f"{statuses[name]} {name}" for name in ("failed", "partial") if statuses.get(name))
    most = 40
    cells = [[_slide_link(row["slide_id"], anchors), row["stage"], row["region"], row["reason"]] for row in rows[:most]]
    more = f"<p>and {len(rows) - most} more in failures.csv</p>" if len(rows) > most else ""
    return (
        f'<section class="alert" id="failures"><h2>Not analysed</h2><p>Slides: {escape(told)}. Their counts are missing or '
        f"too low, and are marked so below.</p>{table(['slide', 'stage', 'region', 'reason'], cells)}{more}</section>"
    )


def glance(results: Results) -> str:
    """The well in a few numbers."""
    counts = results.counts
    statuses = counts["status"].value_counts()
    genera = [name for name in results.manifest["reference"]["genera"] if name in counts.columns]
    cards = [
        (f"{statuses.get('ok', 0)} of {len(counts)}", "samples ok"),
        *((str(statuses[name]), f"samples {name}") for name in ("partial", "barren", "failed") if statuses.get(name)),
        (f"{counts[genera].sum().sum():,.0f}", "fossils of a genus"),
        (f"{int((counts[genera].sum() > 0).sum())} of {len(genera)}", "genera found"),
        (f"{counts['unknown'].sum():,.0f}", "unknown objects"),
        (f"{counts['unusable'].sum():,.0f}", "unusable objects"),
        (f"{counts['area_mm2'].sum():,.1f} mm\u00b2", "analysed"),
    ]
    return '<div class="glance">' + "".join(f"<div><b>{escape(n)}</b>{escape(t)}</div>" for n, t in cards) + "</div>"


def contents(genera: Sequence[str], numbers: Mapping[str, int], groups: int) -> str:
    """Links to the galleries."""
    items = [
        f'<li><a href="#{genus_anchor(genus)}"><i>{escape(genus)}</i></a> {numbers[genus]}</li>' for genus in genera
    ]
    items.append(f'<li><a href="#unknown">Unknown objects</a>, {groups} groups</li>')
    items += ['<li><a href="#slides">Slides</a></li>', '<li><a href="#how">How this was made</a></li>']
    return f'<nav><h2>Specimens</h2><ul class="contents">{"".join(items)}</ul></nav>'


def sample_table(
    results: Results, genera: Sequence[str], link: Callable[[str, str], str] = lambda sample_id, genus: ""
) -> str:
    """Counts, a row a sample, genera in the order of the chart. A sample that failed has empty cells, a zero is a dot.

    ``link``: where the count of a sample's genus leads to, or of its unknown and unusable objects; nowhere if not given.
    """
    counts = results.counts
    present = [genus for genus in genera if genus in counts.columns]
    columns = [name for name in _SAMPLE_COLUMNS if name in counts.columns]
    head = "".join(f"<th>{escape(name.removesuffix('_id'))}</th>" for name in columns)
    head += "".join(f"<th class=number><span>{escape(genus)}</span></th>" for genus in present)
    rows = []
    for record in counts.to_dict("records"):
        cells = [f"<td>{escape(str(record[name]))}</td>" for name in columns[:2]]
        for name in (*columns[2:], *present):
            shown = _count(record[name], dot=name in present)
            target = link(str(record["sample_id"]), name) if shown.isdigit() and record[name] else ""
            if target:
                shown = f'<a href="{escape(target)}">{shown}</a>'
            cells.append(f"<td class=number>{shown}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return (
        f'<section id="samples"><h2>Samples</h2><p class="muted">Specimens counted: detections as classified, not corrected by a '
        "review. A dot is none found, an empty cell "
        "not analysed. Percentages with their intervals are in counts_long.csv.</p>"
        '<div class="wide samples" tabindex="0" role="region" aria-label="counts by sample"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def reviewed_counts(results: Results) -> str:
    """The counts that labels and drawn fossils have changed, as they were and as they are; empty where nobody has labelled."""
    counts = results.counts
    names = [name for name in counts.columns if name.startswith(REVIEWED)]
    if LABELLED not in counts.columns:
        return ""
    rows = []
    for record in counts[counts["status"] != "failed"].to_dict("records"):
        for name in names:
            genus = name.removeprefix(REVIEWED)
            before, after = int(record.get(genus, 0)), int(record[name])
            if before != after:
                rows.append([record["sample_id"], Html(f"<i>{escape(genus)}</i>"), before, after])
    told = f"{counts[LABELLED].sum():.0f} objects have a label, {counts[MISSED].sum():.0f} fossils were drawn by hand"
    changed = (
        table(["sample", "genus", "counted", "reviewed"], rows, {2, 3}) if rows else "<p>They change no count.</p>"
    )
    return (
        f'<section id="reviewed"><h2>Reviewed counts</h2><p>{told}. With each label in the place of what the head said, '
        f"and the drawn fossils added, these counts change; all are in the columns {REVIEWED}GENUS of counts.csv. "
        "They are no estimate: what "
        f"nobody has looked at is counted as it was.</p>{changed}</section>"
    )


def further_tables(results: Results) -> str:
    """The other tables that the run wrote, where it did."""
    parts = []
    for name, title, hidden in _FURTHER:
        path = results.path / name
        frame = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
        if name == "corrected.csv" and not frame.empty:  # the samples one by one are in the file
            frame = frame[(frame["sample_id"] == WHOLE_WELL) & (frame["corrected"] != "")].drop(columns="sample_id")
        if frame.empty:
            continue
        empty = frame.columns[(frame == "").all()]
        if name == "accuracy.csv" and "labelled" in empty:
            parts.append(_NO_REVIEW)
            continue
        hidden_columns = frame.columns[frame.columns.str.contains(hidden)].difference(frame.columns[:1], sort=False)
        frame = frame.drop(columns=[*hidden_columns, *empty.difference(hidden_columns), "well"], errors="ignore")
        head = [column.replace("_", " ") for column in frame.columns]
        parts.append(
            f"<section><h2>{title}</h2>{table(head, frame.to_numpy().tolist())}"
            f'<p class="muted">From <a href="{name}">{name}</a>.</p></section>'
        )
    return "".join(parts)


def slide_table(results: Results, anchors: Mapping[str, str], links: Mapping[str, str] | None = None) -> str:
    """The slides: where each scan is, what was analysed of it, and its boxes for QuPath.

    ``links``: where a slide's name leads to. With them the file of boxes, which lies beside a page on disk, is left out.
    """
    rows = []
    for slide in results.manifest["slides"]:
        slide_id = str(slide["slide_id"])
        name = escape(slide_id)
        if links is not None and slide_id in links:
            name = f'<a href="{escape(links[slide_id])}">{name}</a>'
        place = Html(f'<span id="{anchors[slide_id]}">{name}</span>')
        boxes = "" if slide["status"] == "failed" else f"geojson/{slide_id}.geojson"
        size = f"{slide['width_px']} x {slide['height_px']} px" if "width_px" in slide else ""
        mpp = f"{slide['mpp_x']:g}" if "mpp_x" in slide else ""
        area = "" if slide.get("area_mm2") is None else f"{slide['area_mm2']:.2f}"
        link = Html(f'<a href="{quote(boxes)}">boxes</a>') if boxes else ""
        files = [link, slide["path"]] if links is None else [slide["path"]]
        rows.append([place, slide["sample_id"], slide["status"], slide.get("objects"), area, size, mpp, *files])
    head = ["slide", "sample", "status", "objects", "area mm\u00b2", "size", "\u00b5m a pixel", "QuPath", "scan"]
    said = "Coordinates under the pictures are level-0 pixels of the whole slide. "
    said += "The boxes open in QuPath, where a scan begins at its bounds."
    if links is not None:
        head.remove("QuPath")
        said = "A slide's name opens its scan."
    return f'<section id="slides"><h2>Slides</h2><p class="muted">{said}</p>{table(head, rows, {3, 4})}</section>'


def how_made(results: Results) -> str:
    """Versions, weights, settings and reference set: what the same numbers need."""
    manifest = results.manifest
    backbone, reference = manifest["backbone"], manifest["reference"]
    rows = [
        ["slidepipe", manifest["slidepipe"]],
        ["written", manifest["written"]],
        ["well folder", manifest["well"]],
        ["backbone", f"{backbone['name']} ({backbone.get('version')}), {backbone.get('views')} views"],
        ["weights sha256", backbone.get("weights_sha256") or "none: this backbone has no weights, or does not tell"],
        ["backbone's source and licence", f"{backbone.get('source')}, {backbone.get('license')}"],
        [
            "reference set",
            f"{reference.get('images')} images of {len(reference['genera'])} genera in {reference.get('folder')}",
        ],
        ["reference fingerprint", reference.get("fingerprint")],
    ]
    settings = escape(json.dumps(manifest["settings"], indent=2, ensure_ascii=False))
    return (
        f'<section id="how" class="how"><h2>How this was made</h2>{table(["what", "which"], rows)}'
        f"<h3>Settings</h3><pre>{settings}</pre></section>"
    )


def genus_anchor(genus: str) -> str:
    """The fragment of a genus's gallery."""
    return "genus-" + quote(genus, safe="").replace("%", "_")


def _slide_link(slide_id: object, anchors: Mapping[str, str]) -> Html | str:
    name = str(slide_id)
    return Html(f'<a href="#{anchors[name]}">{escape(name)}</a>') if name in anchors else name


def _count(value: Any, dot: bool = False) -> str:
    if pd.isna(value) or value == "":
        return ""
    return '<span class="none" title="none found">&middot;</span>' if dot and value == 0 else f"{value:.0f}"
