"""Export objects as COCO annotations."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidepipe.classification.object_table import UNKNOWN, UNUSABLE
from slidepipe.results import Results
from slidepipe.store.files import write_text

_COLUMNS = (
    "object_id", "slide_id", "x0", "y0", "x1", "y1", "area_um2", "state", "genus", "detect_score", "p_value",
)  # fmt: skip


def write(results: Results, folder: Path) -> list[Path]:
    """Write coco.json: images are slides, annotations are boxes, categories are the genera, then unknown and unusable.

    A box is [x, y, width, height] in level-0 pixels of the whole slide. COCO's tools need a polygon, so the box is repeated as
    one. `area` is in pixels, `iscrowd` is 0, and `score` is the detector's.

    Args:
        results: the results to export.
        folder: an existing folder.

    Returns:
        The file written.
    """
    categories = [*results.manifest.reference.genera, UNKNOWN, UNUSABLE]
    category_ids = {name: number for number, name in enumerate(categories, start=1)}
    slides = [slide for slide in results.manifest.slides if slide.status != "failed"]
    image_ids = {slide.slide_id: number for number, slide in enumerate(slides, start=1)}
    area_px_um2 = {slide.slide_id: slide.opened.mpp_x * slide.opened.mpp_y for slide in slides}
    rows = results.object_table.rows(_COLUMNS)
    record = {
        "info": {
            "description": f"Objects of {results.manifest.well}",
            "version": results.manifest.slidepipe,
            "date_created": results.manifest.written,
        },
        "licenses": [],
        "images": [
            {
                "id": image_ids[slide.slide_id],
                "file_name": Path(slide.path).name,
                "width": slide.opened.width_px,
                "height": slide.opened.height_px,
                "slide_id": slide.slide_id,
            }
            for slide in slides
        ],
        "categories": [
            {
                "id": category_ids[name],
                "name": name,
                "supercategory": "object" if name in (UNKNOWN, UNUSABLE) else "fossil",
            }
            for name in categories
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[row["slide_id"]],
                "category_id": category_ids[row["genus"] if row["genus"] is not None else row["state"]],
                **_box(row, area_px_um2[row["slide_id"]]),
            }
            for number, row in enumerate(rows, start=1)
        ],
    }
    write_text(folder / "coco.json", json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return [folder / "coco.json"]


def _box(row: Mapping[str, Any], px_um2: float) -> dict[str, Any]:
    """Return what an annotation says of the object itself. `px_um2`: area of a level-0 pixel."""
    x, y, width, height = row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]
    box = {
        "bbox": [x, y, width, height],
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
        "area": round(row["area_um2"] / px_um2, 1),
        "iscrowd": 0,
        "score": row["detect_score"],
        "object_id": row["object_id"],
    }
    if row["p_value"] is not None and math.isfinite(row["p_value"]):
        box["p_value"] = row["p_value"]
    return box
