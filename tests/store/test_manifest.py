import json
from pathlib import Path
from typing import Any

import pytest

from slidepipe.errors import ResultsError
from slidepipe.store.manifest import check_same_well, known_slides, read_manifest
from tests import made_results
from tests.made_results import slide

OPENED = {
    "identity": "i", "vendor": "aperio", "width_px": 9, "height_px": 9, "mpp_x": 0.25, "mpp_y": 0.25,
    "objective_power": None, "bounds": [0, 0, 9, 9],
}  # fmt: skip
ENTRY = {"slide_id": "a", "path": "/w/a.svs", "well": "1/2-3", "depth_m": 5.0, "sample_type": "DC"}
MANIFEST: dict[str, Any] = {
    "slidepipe": "0.1.0", "well": "/w", "objects": 0, "accepted": 0, "tables": None, "slides": [{**ENTRY, **OPENED}],
}  # fmt: skip


def written(folder: Path, manifest: object) -> Path:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def test_a_whole_manifest_is_taken_and_none_is_empty(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    assert read_manifest(written(tmp_path, MANIFEST)) == MANIFEST
    failed = {**ENTRY, "depth_m": None}  # never opened: nothing is known of its pixels
    assert known_slides(tmp_path, {**MANIFEST, "slides": [failed]}) == [failed]
    check_same_well(tmp_path, [slide("a", "5")])


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        ({**MANIFEST, "slides": {}}, "'slides' is not a list"),
        ({**MANIFEST, "slides": ["a"]}, "'slides' is not a list"),
        ({**MANIFEST, "slides": [without(ENTRY, "slide_id")]}, "'slides' is not a list"),
        (without(MANIFEST, "slides"), "no 'slides'"),
        (without(MANIFEST, "objects"), "no 'objects'"),
        ({**MANIFEST, "tables": 3}, "a strange 'tables'"),
        *[({**MANIFEST, "slides": [without(ENTRY, key)]}, f"no '{key}' of slide a") for key in ("path", "well", "depth_m")],
        *[({**MANIFEST, "slides": [{**ENTRY, **without(OPENED, key)}]}, f"no '{key}' of slide a") for key in ("mpp_x", "bounds")],
    ],
)  # fmt: skip
def test_what_a_run_could_not_go_on_from_is_refused_in_one_line(tmp_path: Path, manifest: object, wrong: str) -> None:
    with pytest.raises(ResultsError, match="written by another version or damaged") as refused:
        read_manifest(written(tmp_path, manifest))
    assert wrong in str(refused.value)
    assert str(tmp_path / "manifest.json") in str(refused.value)
    assert "Give another --out, or remove this file to start over" in str(refused.value)


def test_a_manifest_without_a_well_can_be_looked_at_but_not_gone_on_from(tmp_path: Path) -> None:
    made_results.make(tmp_path / "made", {slide("a"): ["azolla"]})
    assert read_manifest(tmp_path / "made")["slides"]
    with pytest.raises(ResultsError, match="no 'well'"):
        check_same_well(tmp_path / "made", [slide("a")])
