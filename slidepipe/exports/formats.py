"""Results in the forms that other programs read: CSV for R, Parquet, COCO JSON, GeoJSON for QuPath."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slidepipe.classification.object_table import OBJECTS_FILE
from slidepipe.errors import SettingsError
from slidepipe.exports.geojson import write_geojson
from slidepipe.results import Results
from slidepipe.review.reviewed_counts import LABELLED, MISSED, REVIEWED
from slidepipe.store.files import write_file, write_text

_COCO_COLUMNS = [
    "object_id", "slide_id", "x0", "y0", "x1", "y1", "area_um2", "state", "genus", "detect_score", "p_value",
]  # fmt: skip

_LONG_COLUMNS = {"well": "location", "genus": "param", "depth_m": "depth"}


def export(results_path: Path, form: str, folder: Path | None = None) -> list[Path]:
    """Write results in one form.

    Args:
        results_path: a finished RESULTS folder.
        form: one of :data:`FORMS`.
        folder: where to; None is ``exports/`` in RESULTS, for GeoJSON ``geojson/``.

    Returns:
        The files written.

    Raises:
        SettingsError: no such form.
        ResultsError: the folder holds no finished results.
    """
    if form not in FORMS:
        raise SettingsError(f"format '{form}' is not known; use one of {', '.join(FORMS)}")
    results = Results(results_path)
    if form == "geojson":
        return write_geojson(results, folder or results_path / "geojson")
    folder = folder or results_path / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    return FORMS[form](results, folder)


def write_csv(results: Results, folder: Path) -> list[Path]:
    """Write counts_wide.csv for rioja, and counts_tidy.csv for tidypaleo. Samples that were not analysed are in neither.

    Wide: a row a sample, depth ascending; the columns ``sample_id``, ``well``, ``depth_m``, ``sample_type``, ``status``, then one
    a genus with its count and nothing else, so that ``strat.plot(d[, -(1:5)], yvar = d$depth_m, y.rev = TRUE)`` draws it.
    Long: a row a sample and genus, ``location`` (the well), ``param`` (the genus), ``depth``, then ``sample_id``,
    ``sample_type``, ``status``, ``count``, ``rel_abund`` (percent) and its 95 % interval ``low``, ``high``, with further
    columns as in counts_long.csv.
    """
    genera = results.manifest["reference"]["genera"]
    counts = results.counts[results.counts["status"] != "failed"]
    samples = counts[["sample_id", "well", "depth_m", "sample_type", "status"]]
    wide = samples.join(counts[genera].astype("Int64"))
    long = results.counts_long.merge(
        samples, on="sample_id", how="inner", validate="many_to_one", suffixes=("", "_sample")
    )
    long = long.rename(columns=_LONG_COLUMNS).rename(columns={"percent": "rel_abund"})
    first = ["location", "param", "depth", "sample_id", "sample_type", "status", "count", "rel_abund", "low", "high"]
    long = long[[*first, *(name for name in long.columns if name not in first and not name.endswith("_sample"))]]
    written = []
    for name, frame in (("counts_wide.csv", wide), ("counts_tidy.csv", long)):
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
        written.append(folder / name)
    return written


def write_parquet(results: Results, folder: Path) -> list[Path]:
    """Write counts.parquet and counts_long.parquet, typed (counts are integers, null where nothing was analysed), and objects."""
    genera = results.manifest["reference"]["genera"]
    counts = results.counts.copy()
    whole = [name for name in (*genera, "unknown", "unusable", "total", "fossils") if name in counts.columns]
    whole += [name for name in counts.columns if name in (LABELLED, MISSED) or name.startswith(REVIEWED)]
    counts[whole] = counts[whole].astype("Int64")
    counts["depth_m"] = counts["depth_m"].astype("float64")
    written = []
    for name, frame in (("counts.parquet", counts), ("counts_long.parquet", results.counts_long)):
        write_file(folder / name, functools.partial(frame.to_parquet, index=False))
        written.append(folder / name)
    write_file(folder / OBJECTS_FILE, results.object_table.copy)
    return [*written, folder / OBJECTS_FILE]


def write_coco(results: Results, folder: Path) -> list[Path]:
    """Write coco.json: images are slides, annotations boxes, categories the genera, then unknown and unusable.

    A box is [x, y, width, height] in level-0 pixels of the whole slide, with the box as its polygon (COCO's tools ask for one),
    ``area`` in pixels and ``iscrowd`` 0; ``score`` is the detector's.
    """
    categories = [*results.manifest["reference"]["genera"], "unknown", "unusable"]
    category_ids = {name: number for number, name in enumerate(categories, start=1)}
    slides = [slide for slide in results.manifest["slides"] if slide["status"] != "failed"]
    image_ids = {slide["slide_id"]: number for number, slide in enumerate(slides, start=1)}
    by_slide = {slide["slide_id"]: slide for slide in slides}
    annotations: list[dict[str, Any]] = []
    for row in results.object_table.rows(_COCO_COLUMNS):
        slide = by_slide[row["slide_id"]]
        x, y, width, height = row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]
        annotation = {
            "id": len(annotations) + 1,
            "image_id": image_ids[row["slide_id"]],
            "category_id": category_ids[row["genus"] if row["genus"] is not None else row["state"]],
            "bbox": [x, y, width, height],
            "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
            "area": round(row["area_um2"] / (slide["mpp_x"] * slide["mpp_y"]), 1),
            "iscrowd": 0,
            "score": row["detect_score"],
            "object_id": row["object_id"],
        }
        if row["p_value"] is not None and math.isfinite(row["p_value"]):
            annotation["p_value"] = row["p_value"]
        annotations.append(annotation)
    record = {
        "info": {
            "description": f"Objects of {results.manifest['well']}",
            "version": results.manifest["slidepipe"],
            "date_created": results.manifest["written"],
        },
        "licenses": [],
        "images": [
            {
                "id": image_ids[slide["slide_id"]],
                "file_name": Path(slide["path"]).name,
                "width": slide["width_px"],
                "height": slide["height_px"],
                "slide_id": slide["slide_id"],
            }
            for slide in slides
        ],
        "categories": [
            {
                "id": category_ids[name],
                "name": name,
                "supercategory": "object" if name in ("unknown", "unusable") else "fossil",
            }
            for name in categories
        ],
        "annotations": annotations,
    }
    write_text(folder / "coco.json", json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return [folder / "coco.json"]


#: The forms of :func:`export`, and what writes each into a folder.
FORMS: dict[str, Callable[[Results, Path], list[Path]]] = {
    "geojson": write_geojson,
    "csv": write_csv,
    "parquet": write_parquet,
    "coco": write_coco,
}
