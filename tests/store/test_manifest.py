"""The manifest: reading, writing and checking."""

import json
from pathlib import Path
from typing import Any

import pytest

from slidepipe.errors import ResultsError
from slidepipe.store.manifest import check_same_well, read_manifest
from tests import made_results
from tests.made_results import slide

OPENED = {
    "identity": "i", "vendor": "aperio", "objective_power": None, "width_px": 9, "height_px": 9, "mpp_x": 0.25, "mpp_y": 0.25,
    "bounds": [0, 0, 9, 9],
}  # fmt: skip
ANALYSED = {
    "objects": 3, "area_mm2": 1.5, "lost_mm2": 0.0, "seconds": {"boxes": 1.5, "crops": None}, "fingerprints": {"boxes": "f"},
}  # fmt: skip
ENTRY = {
    "slide_id": "a", "path": "/w/a.svs", "sample_id": "1/2-3 5 mDC", "well": "1/2-3", "depth_m": 5.0, "sample_type": "DC",
    "spike": None, "given_mpp": None, "status": "ok",
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "slidepipe": "0.1.0", "written": "2026-01-01T00:00:00+00:00", "well": "/w", "settings": {}, "backbone": {"name": "b"},
    "reference": {"folder": "/r", "fingerprint": "f", "images": 5, "genera": ["azolla"]}, "objects": 3, "accepted": 0,
    "slides": [{**ENTRY, **OPENED, **ANALYSED}], "tables": None,
}  # fmt: skip


def written(folder: Path, manifest: object) -> Path:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def test_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    "entry",
    [
        {**ENTRY, **OPENED, **ANALYSED},
        {**ENTRY, **OPENED, "status": "failed"},
        {**ENTRY, "depth_m": None, "status": "failed"},
        {**ENTRY, "spike": {"tablets": 1.0, "spores_per_tablet": 9666.0, "spores_sd": 671.0, "grams": 20.0}},
    ],
    ids=["analysed", "opened", "not opened", "spiked"],
)
def test_read_and_write_keep_the_file(tmp_path: Path, entry: dict[str, Any]) -> None:
    """Keys, their order and values stay, so that a manifest of 0.1.0 is read and written without a change."""
    manifest = {**MANIFEST, "slides": [entry]}
    read = read_manifest(written(tmp_path, manifest))
    assert read is not None
    assert (read.slides[0].scan is not None) == ("identity" in entry)
    read.write(tmp_path)
    again = json.loads((tmp_path / "manifest.json").read_text())
    assert again == manifest
    assert list(again["slides"][0]) == list(entry)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    """A manifest of a later release can be read."""
    later = {**MANIFEST, "depth_unit": "m", "slides": [{**ENTRY, "focal_planes": 3}]}
    read = read_manifest(written(tmp_path, later))
    assert read is not None
    assert read.slides_by_id["a"].sample_id == "1/2-3 5 mDC"


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        ([], "a wrong 'slides'"),
        ({**MANIFEST, "slides": {}}, "a wrong 'slides'"),
        ({**MANIFEST, "slides": ["a"]}, "a wrong 'slides'"),
        ({**MANIFEST, "slides": [without(ENTRY, "slide_id")]}, "no 'slide_id' of slide 0"),
        (without(MANIFEST, "slides"), "no 'slides'"),
        (without(MANIFEST, "objects"), "no 'objects'"),
        ({**MANIFEST, "tables": 3}, "a wrong 'tables'"),
        ({**MANIFEST, "slides": [{**ENTRY, "status": "fine"}]}, "a wrong 'status' of slide a"),
        *[({**MANIFEST, "slides": [without(ENTRY, key)]}, f"no '{key}' of slide a") for key in ("path", "well", "depth_m")],
        *[({**MANIFEST, "slides": [{**ENTRY, **without(OPENED, key)}]}, f"no '{key}' of slide a") for key in ("mpp_x", "bounds")],
    ],
)  # fmt: skip
def test_damaged_manifest(tmp_path: Path, manifest: object, wrong: str) -> None:
    with pytest.raises(ResultsError, match="written by another version or damaged") as error:
        read_manifest(written(tmp_path, manifest))
    assert wrong in str(error.value)
    assert str(tmp_path / "manifest.json") in str(error.value)
    assert "Give another --out, or remove this file to start over" in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"slidepipe": ')
    with pytest.raises(ResultsError, match=r"manifest\.json: cannot be read"):
        read_manifest(tmp_path)


def test_check_same_well(tmp_path: Path) -> None:
    made_results.make(tmp_path / "made", {slide("a"): ["azolla"]})
    check_same_well(tmp_path / "made", [slide("a")])
    with pytest.raises(ResultsError, match=r"results of another well \(1/2-3\)"):
        check_same_well(tmp_path / "made", [slide("a", well="7/8-9")])
    with pytest.raises(ResultsError, match="results of other slides of 1/2-3"):
        check_same_well(tmp_path / "made", [slide("b")])
