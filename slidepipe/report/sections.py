"""The sections of `report.html` that hold numbers and words. The viewer shows some of them too.

Each function collects the values of a section and renders the template of the same name.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from slidepipe.html import render
from slidepipe.results import Results
from slidepipe.review.corrected_counts import WHOLE_WELL
from slidepipe.review.reviewed_counts import LABELLED, MISSED, REVIEWED

_PACKAGE = "slidepipe.report"
_MAX_FAILURES = 40

#: Tables that a run may write: file, title, and a pattern of the columns that the page leaves out.
_FURTHER_TABLES = (
    ("ranges.csv", "Tops and bases", r"object_ids|sample_id"),
    ("diversity.csv", "Diversity among the trained genera", r"sample_type"),
    ("accuracy.csv", "Accuracy by review", r"^$"),
    ("corrected.csv", "Counts of the whole well, corrected by review", r"^$"),
    ("spike.csv", "Concentration by spike", r"^$"),
)
_SAMPLE_COLUMNS = ("sample_id", "status", "fossils", "unknown", "unusable")


def style() -> Markup:
    """Return the style sheet of the sections."""
    return render(_PACKAGE, "sections.css")


def subtitle(results: Results) -> str:
    """Return the line below the title: depth range, number of samples and slides, version and date."""
    manifest = results.manifest
    depths = results.counts["depth_m"].dropna()
    reach = f"{depths.min():g} to {depths.max():g} m, " if len(depths) else ""
    return (
        f"{reach}{len(results.counts)} samples, {len(manifest.slides)} slides. "
        f"slidepipe {manifest.slidepipe}, {manifest.written[:10]}"
    )


def failures(results: Results, anchors: Mapping[str, str]) -> Markup:
    """Return the section on what was not analysed; a single line if everything was.

    Args:
        results: the results of a run.
        anchors: fragment of each slide's row on the page, by `slide_id`.
    """
    rows = results.failures.astype(object).fillna("").to_dict("records")
    statuses = results.counts_slides["status"].value_counts()
    return render(
        _PACKAGE,
        "failures.html",
        rows=rows[:_MAX_FAILURES],
        more=max(0, len(rows) - _MAX_FAILURES),
        statuses=[f"{statuses[name]} {name}" for name in ("failed", "partial") if statuses.get(name)],
        anchors=anchors,
    )


def glance(results: Results) -> Markup:
    """Return the section that shows the well in a few numbers."""
    counts = results.counts
    statuses = counts["status"].value_counts()
    genera = [name for name in results.manifest.reference.genera if name in counts.columns]
    numbers = [
        (f"{statuses.get('ok', 0)} of {len(counts)}", "samples ok"),
        *((str(statuses[name]), f"samples {name}") for name in ("partial", "barren", "failed") if statuses.get(name)),
        (f"{counts[genera].sum().sum():,.0f}", "fossils of a genus"),
        (f"{int((counts[genera].sum() > 0).sum())} of {len(genera)}", "genera found"),
        (f"{counts['unknown'].sum():,.0f}", "unknown objects"),
        (f"{counts['unusable'].sum():,.0f}", "unusable objects"),
        (f"{counts['area_mm2'].sum():,.1f} mm\u00b2", "analysed"),
    ]
    return render(_PACKAGE, "glance.html", numbers=numbers)


def chart(svg: Path, well: str) -> Markup:
    """Return the section with the depth chart of a well.

    Args:
        svg: the chart's SVG file; the PDF file next to it has the same name.
        well: name of the well.
    """
    data = base64.b64encode(svg.read_bytes()).decode("ascii")
    return render(
        _PACKAGE,
        "chart.html",
        well=well,
        svg=svg.name,
        pdf=f"{svg.stem}.pdf",
        source=f"data:image/svg+xml;base64,{data}",
    )


def contents(genera: Sequence[str], specimens: Mapping[str, int], groups: int) -> Markup:
    """Return the links to the galleries.

    Args:
        genera: the genera with a gallery, in the order of the page.
        specimens: number of specimens, by genus.
        groups: number of groups of unknown objects.
    """
    links = [(genus, genus_anchor(genus), specimens[genus]) for genus in genera]
    return render(_PACKAGE, "contents.html", genera=links, groups=groups)


def sample_table(
    results: Results, genera: Sequence[str], link: Callable[[str, str], str] = lambda sample_id, genus: ""
) -> Markup:
    """Return the table of counts: one row per sample. A failed sample has empty cells, and a zero is shown as a dot.

    Args:
        results: the results of a run.
        genera: the genera, in the order of the chart.
        link: a function of a `sample_id` and a genus (or "unknown", "unusable" or another column) that returns the URL
            of the count, or an empty string for no link.
    """
    counts = results.counts
    present = [genus for genus in genera if genus in counts.columns]
    columns = [name for name in _SAMPLE_COLUMNS if name in counts.columns]
    rows = []
    for record in counts.to_dict("records"):
        sample_id = str(record["sample_id"])
        cells = []
        for name in (*columns[2:], *present):
            count = _count(record[name], dot=name in present)
            cells.append((count, link(sample_id, name) if count is not None and record[name] else ""))
        rows.append({"sample_id": sample_id, "status": record["status"], "counts": cells})
    head = [name.removesuffix("_id") for name in columns]
    return render(_PACKAGE, "samples.html", columns=head, genera=present, rows=rows)


def reviewed_counts(results: Results) -> Markup:
    """Return the section on the counts that labels and hand-drawn fossils change; nothing if nobody has labelled."""
    counts = results.counts
    names = [name for name in counts.columns if name.startswith(REVIEWED)]
    if LABELLED not in counts.columns:
        return Markup("")
    rows = []
    for record in counts[counts["status"] != "failed"].to_dict("records"):
        for name in names:
            genus = name.removeprefix(REVIEWED)
            before, after = int(record.get(genus, 0)), int(record[name])
            if before != after:
                rows.append((record["sample_id"], genus, before, after))
    return render(
        _PACKAGE,
        "reviewed.html",
        rows=rows,
        labelled=f"{counts[LABELLED].sum():.0f}",
        drawn=f"{counts[MISSED].sum():.0f}",
        prefix=REVIEWED,
    )


def further_tables(results: Results) -> Markup:
    """Return the sections with the other tables that the run wrote: ranges, diversity, accuracy, corrected counts, spike."""
    tables: list[dict[str, Any]] = []
    for name, title, hidden in _FURTHER_TABLES:
        path = results.path / name
        frame = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
        if name == "corrected.csv" and not frame.empty:  # the page shows the whole well; the file has each sample
            frame = frame[(frame["sample_id"] == WHOLE_WELL) & (frame["corrected"] != "")].drop(columns="sample_id")
        if frame.empty:
            continue
        empty = frame.columns[(frame == "").all()]
        if name == "accuracy.csv" and "labelled" in empty:
            tables.append({"title": title, "rows": None})
            continue
        hidden_columns = frame.columns[frame.columns.str.contains(hidden)].difference(frame.columns[:1], sort=False)
        frame = frame.drop(columns=[*hidden_columns, *empty.difference(hidden_columns), "well"], errors="ignore")
        tables.append(
            {
                "title": title,
                "file": name,
                "header": [column.replace("_", " ") for column in frame.columns],
                "rows": frame.to_numpy().tolist(),
                "taxa": [number for number, column in enumerate(frame.columns) if column == "genus"],
            }
        )
    return render(_PACKAGE, "tables.html", tables=tables)


def slide_table(results: Results, anchors: Mapping[str, str], links: Mapping[str, str] | None = None) -> Markup:
    """Return the table of slides: where each scan is, what was analysed of it, and its boxes for QuPath.

    Args:
        results: the results of a run.
        anchors: fragment of each slide's row on the page, by `slide_id`.
        links: URL of each slide that can be opened, by `slide_id`. If given, the column with the file of boxes is left
            out, because only a page on disk has that file next to it.
    """
    slides = []
    for slide in results.manifest.slides:
        slide_id, scan = slide.slide_id, slide.scan
        slides.append(
            {
                "anchor": anchors[slide_id],
                "target": "" if links is None else links.get(slide_id, ""),
                "slide_id": slide_id,
                "sample_id": slide.sample_id,
                "status": slide.status,
                "objects": slide.objects,
                "area": "" if slide.area_mm2 is None else f"{slide.area_mm2:.2f}",
                "size": "" if scan is None else f"{scan.width_px} x {scan.height_px} px",
                "mpp": "" if scan is None else f"{scan.mpp_x:g}",
                "boxes": "" if slide.status == "failed" else quote(f"geojson/{slide_id}.geojson"),
                "path": slide.path,
            }
        )
    return render(_PACKAGE, "slides.html", slides=slides, has_links=links is not None)


def how_made(results: Results) -> Markup:
    """Return the section on versions, weights, settings and reference set: what is needed to get the same numbers."""
    manifest = results.manifest
    backbone, reference = manifest.backbone, manifest.reference
    rows = [
        ("slidepipe", manifest.slidepipe),
        ("written", manifest.written),
        ("well folder", manifest.well),
        # The manifest calls the number of orientations "views": the key is in files that are already on disk.
        ("backbone", f"{backbone['name']} ({backbone.get('version')}), {backbone.get('views')} orientations"),
        (
            "sha256 of the weights",
            backbone.get("weights_sha256") or "none: the backbone has no weights or does not report them",
        ),
        ("source and licence of the backbone", f"{backbone.get('source')}, {backbone.get('license')}"),
        (
            "reference set",
            f"{reference.images} images of {len(reference.genera)} genera in {reference.folder}",
        ),
        ("fingerprint of the reference set", reference.fingerprint),
    ]
    settings = json.dumps(manifest.settings, indent=2, ensure_ascii=False)
    return render(_PACKAGE, "how.html", rows=rows, settings=settings)


def genus_anchor(genus: str) -> str:
    """Return the fragment of a genus's gallery on the page."""
    return "genus-" + quote(genus, safe="").replace("%", "_")


def _count(value: Any, dot: bool) -> str | None:
    """Return a count as text, "dot" for a zero if `dot` is set, and None for a cell without a value."""
    if pd.isna(value) or value == "":
        return None
    return "dot" if dot and value == 0 else f"{value:.0f}"
