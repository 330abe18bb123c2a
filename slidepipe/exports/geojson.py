"""Export objects as QuPath detections: one GeoJSON FeatureCollection per slide.

QuPath 0.4 and later (class `QuPathTypeAdapters`) reads these members of a feature: `id` (a UUID); `geometry`, in pixels of the
image as QuPath shows it; and under `properties` the members `objectType`, `name`, `classification` (`name`, and `color` as three
integers), `isLocked`, `measurements` (names to numbers) and `metadata` (names to text). QuPath crops a scan to its bounds, so the
corner of the bounds is subtracted from the boxes, which are in level-0 pixels of the whole slide.
"""

import colorsys
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slidepipe.classification.object_table import UNKNOWN, UNUSABLE
from slidepipe.results import Results
from slidepipe.store.files import write_text

#: Colours of unknown objects (amber) and unusable objects (grey), [red, green, blue] from 0 to 255.
STATE_COLOURS = {UNKNOWN: [230, 159, 0], UNUSABLE: [128, 128, 128]}
_MEASURED = ("p_value", "distance", "detect_score", "width_um", "height_um", "area_um2")
_COLUMNS = (
    "object_id", "x0", "y0", "x1", "y1", "state", "genus", "candidate", "reason", *_MEASURED,
)  # fmt: skip

#: The first member of every file written here. It identifies files that slidepipe may delete when they are outdated.
_GENERATOR = "slidepipe"
_NAMESPACE = uuid.UUID("5f0c1c1e-6d0b-5c1c-9a54-0b7b9f3a2c11")


def genus_colours(genera: Sequence[str]) -> dict[str, list[int]]:
    """Return a colour for each genus, [red, green, blue] from 0 to 255.

    Hues are a golden angle apart and alternate between two lightnesses, in alphabetical order of the genera.
    """
    colours = {}
    for number, genus in enumerate(sorted(genera)):
        red, green, blue = colorsys.hls_to_rgb((number * 0.61803398875) % 1, 0.35 + 0.2 * (number % 2), 0.85)
        colours[genus] = [round(255 * red), round(255 * green), round(255 * blue)]
    return colours


def slide_features(
    objects: Sequence[Mapping[str, Any]], offset: tuple[int, int], colours: Mapping[str, list[int]]
) -> Iterator[dict[str, Any]]:
    """Yield one GeoJSON feature per object.

    Args:
        objects: rows of the object table.
        offset: x and y of the upper left corner of the slide's bounds, in level-0 pixels.
        colours: by genus. Unknown and unusable objects have colours of their own, `STATE_COLOURS`.
    """
    for row in objects:
        x0, x1 = row["x0"] - offset[0], row["x1"] - offset[0]
        y0, y1 = row["y0"] - offset[1], row["y1"] - offset[1]
        name = row["genus"] if row["genus"] is not None else row["state"]
        metadata = {key: row[key] for key in ("state", "candidate", "reason") if row[key] is not None}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, row["object_id"])),
            "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
            "properties": {
                "objectType": "detection",
                "name": row["object_id"],
                "classification": {"name": name, "color": colours.get(name, STATE_COLOURS.get(name, [0, 0, 0]))},
                "isLocked": True,
                "measurements": {
                    key: row[key] for key in _MEASURED if row[key] is not None and math.isfinite(row[key])
                },
                "metadata": metadata,
            },
        }


def write(results: Results, folder: Path) -> list[Path]:
    """Write `SLIDE_ID.geojson` for every analysed slide, and delete files of earlier exports whose slide is no longer there.

    Args:
        results: the results to export.
        folder: an existing folder.

    Returns:
        The files written.
    """
    colours = genus_colours(results.manifest.reference.genera)
    written = []
    for slide in results.manifest.slides:
        if slide.status == "failed":
            continue
        rows = results.object_table.rows(_COLUMNS, slide.slide_id)
        x, y = slide.opened.bounds[:2]
        features = ",\n".join(
            json.dumps(feature, ensure_ascii=False, allow_nan=False)
            for feature in slide_features(rows, (x, y), colours)
        )
        path = folder / f"{slide.slide_id}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f'{{"generator": "{_GENERATOR}", "type": "FeatureCollection", "features": ['
        write_text(path, f"{head}\n{features}\n]}}\n")
        written.append(path)
    for path in sorted(set(folder.rglob("*.geojson")) - set(written)):
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.read(40).startswith(f'{{"generator": "{_GENERATOR}"'):
                path.unlink()
    return written
