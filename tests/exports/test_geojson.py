import json
import uuid
from pathlib import Path

import numpy as np
import openslide

from slidepipe.exports.geojson import genus_colours, slide_features
from slidepipe.exports.geojson import write as write_geojson
from slidepipe.results import Results
from slidepipe.slides.reader import read_meta
from tests import drawn
from tests.synthetic import BOUNDS, make_well

DISCS = [(300, 260, 70, drawn.BROWN), (700, 420, 90, drawn.GREEN), (420, 800, 60, drawn.AMBER)]


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest_fail(name))


def pytest_fail(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_qupath_features(tmp_path: Path) -> None:
    """Features have the members that QuPath reads."""
    folder = make_well(tmp_path / "r", 3, 4, statuses={1: "failed"})
    written = write_geojson(Results(folder), folder / "geojson")
    assert len(written) == 2
    objects = Results(folder).objects.set_index("object_id")
    names = set()
    for path in written:
        collection = read(path)
        assert collection["type"] == "FeatureCollection"
        for feature in collection["features"]:
            properties = feature["properties"]
            row = objects.loc[properties["name"]]
            assert feature["type"] == "Feature"
            assert str(uuid.UUID(feature["id"])) == feature["id"]
            (ring,) = feature["geometry"]["coordinates"]
            assert feature["geometry"]["type"] == "Polygon"
            assert ring[0] == ring[-1]
            assert len(ring) == 5
            xs, ys = zip(*ring, strict=True)
            box = [min(xs) + BOUNDS[0], min(ys) + BOUNDS[1], max(xs) + BOUNDS[0], max(ys) + BOUNDS[1]]
            assert box == row[["x0", "y0", "x1", "y1"]].tolist()
            assert properties["objectType"] == "detection"
            assert properties["isLocked"] is True
            assert properties["classification"]["name"] == (row["genus"] if row["state"] == "accepted" else "unknown")
            colour = properties["classification"]["color"]
            assert len(colour) == 3
            assert all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
            assert all(isinstance(value, float) for value in properties["measurements"].values())
            assert properties["measurements"]["p_value"] == row["p_value"]
            assert all(isinstance(value, str) for value in properties["metadata"].values())
            names.add(feature["id"])
    assert len(names) == len(objects)


def test_boxes_in_cropped_scan(tmp_path: Path) -> None:
    """Boxes are relative to the bounds, to which QuPath crops a scan."""
    path = drawn.mirax(tmp_path / "1_2-3 100 mDC.mrxs", drawn.field(1024, 1024, DISCS), offset_tiles=(4, 2))
    bounds = read_meta(path, None).bounds
    assert (bounds.x0, bounds.y0) == (1024, 512)
    rows = [
        {
            "object_id": f"s:{number:05d}", "sample_id": "s", "state": "accepted", "genus": "azolla", "candidate": "azolla",
            "reason": None, "x0": x - r + 1024, "y0": y - r + 512, "x1": x + r + 1025, "y1": y + r + 513,
            **dict.fromkeys(("p_value", "distance", "detect_score", "width_um", "height_um", "area_um2"), 0.5),
        }
        for number, (x, y, r, _) in enumerate(DISCS)
    ]  # fmt: skip
    with openslide.OpenSlide(path) as slide:  # QuPath crops to the bounds
        shown = np.asarray(
            slide.read_region((bounds.x0, bounds.y0), 0, (bounds.width, bounds.height)).convert("RGB"), int
        )
    ink = np.abs(shown - np.array(drawn.FIELD)).sum(axis=2) > 60
    inside = np.zeros_like(ink)
    for feature in slide_features(rows, (bounds.x0, bounds.y0), genus_colours(["azolla"])):
        (x0, y0), _, (x1, y1), *_ = feature["geometry"]["coordinates"][0]
        part = ink[y0:y1, x0:x1]
        assert part[part.shape[0] // 2].mean() > 0.95  # the disc touches all edges of its box
        assert part[:, part.shape[1] // 2].mean() > 0.95
        inside[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = True
    assert not (ink & ~inside).any()


def test_genus_colours_differ() -> None:
    colours = genus_colours([f"g{number}" for number in range(60)])
    assert len({tuple(colour) for colour in colours.values()}) == 60


def test_non_finite_measurements() -> None:
    """Measurements that are not finite are left out."""
    row = {
        "object_id": "s:00000", "sample_id": "s", "state": "unusable", "genus": None, "candidate": None, "reason": "black",
        "x0": 0, "y0": 0, "x1": 5, "y1": 5, "p_value": None, "distance": float("nan"), "detect_score": 1.0, "width_um": 1.0,
        "height_um": 1.0, "area_um2": 1.0,
    }  # fmt: skip
    (feature,) = slide_features([row], (0, 0), {})
    assert set(feature["properties"]["measurements"]) == {"detect_score", "width_um", "height_um", "area_um2"}
    assert feature["properties"]["classification"]["name"] == "unusable"


def test_outdated_files_are_deleted(tmp_path: Path) -> None:
    """Files of slides that are no longer there are deleted; a user's files stay."""
    folder = make_well(tmp_path / "r", 2, 2)
    (first, second) = write_geojson(Results(folder), folder / "geojson")
    (folder / "geojson" / "mine.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["slides"][1]["status"] = "failed"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_geojson(Results(folder), folder / "geojson")
    assert first.exists()
    assert not second.exists()
    assert (folder / "geojson" / "mine.geojson").exists()
