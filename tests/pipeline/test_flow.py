"""Whole runs of a small well: tables, traceability, what is used again, partial and failed slides, bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import slidepipe
from slidepipe.config import Config, parse_config
from slidepipe.embedding.embed import embed_crops, join_embeddings
from slidepipe.errors import ReferenceSetError, ResolutionError, ResultsError, SettingsError, SlidepipeError, WellError
from slidepipe.pipeline.flow import run_well
from slidepipe.pipeline.summary import RunSummary
from slidepipe.pipeline.tables import TABLES
from slidepipe.search.index import embed_image
from slidepipe.store.slide_store import SlideStore, StageName
from slidepipe_plugins.descriptors import DescriptorBackbone
from slidepipe_plugins.descriptors.features import DIM
from tests import drawn
from tests.plugins_for_tests import MeanColour


def run(well: Path, out: Path, config: dict[str, Any], **changes: Any) -> RunSummary:
    return run_well(well, out, parse_config({**config, **changes}, "test"))


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, colour_well: Path, test_plugins: Path) -> Path:
    out = tmp_path_factory.mktemp("finished") / "results"
    settings = {
        "reference": str(colour_well / "reference"),
        "plugins": [str(test_plugins)],
        "backbone": {"name": "mean-colour", "orientations": 1, "companion": None},
        "head": {"alpha": 0.05, "settings": {"metric": "euclidean"}},
        "run": {"scheduler": "local", "workers": 2},
    }
    assert run(colour_well / "well", out, settings).exit_status == 0
    return out


def test_counts_per_sample(finished: Path) -> None:
    """The counts of each sample are exact: columns, order, totals and genera."""
    counts = pd.read_csv(finished / "counts.csv")
    assert counts["sample_id"].tolist() == ["1/2-3 100 mDC", "1/2-3 200.5 mC", "1/2-3 300 mSWC"]
    assert counts["depth_m"].tolist() == [100, 200.5, 300]
    assert counts["status"].tolist() == ["ok", "ok", "ok"]
    assert list(counts.columns[:10]) == [
        "sample_id", "well", "depth_m", "sample_type", "slides", "status", "area_mm2", "amberina", "brunella", "viridia",
    ]  # fmt: skip
    assert counts["total"].tolist() == [16, 5, 6]
    # The genera differ in colour, so each fossil is counted as its own genus.
    genera = counts[["amberina", "brunella", "viridia", "unknown"]].to_numpy().tolist()
    assert genera == [
        [6, 5, 5, 0],
        [2, 2, 1, 0],
        [2, 2, 2, 0],
    ]


def test_counts_follow_from_objects(finished: Path) -> None:
    """Every number of the count tables can be computed from objects.parquet."""
    objects = pd.read_parquet(finished / "objects.parquet")
    for table, key in (("counts.csv", "sample_id"), ("counts_slides.csv", "slide_id")):
        for row in pd.read_csv(finished / table).to_dict("records"):
            mine = objects[objects[key] == row[key]]
            assert row["total"] == len(mine)
            assert row["unknown"] == (mine["state"] == "unknown").sum()
            assert row["unusable"] == (mine["state"] == "unusable").sum()
            for genus in ("amberina", "brunella", "viridia"):
                assert row[genus] == ((mine["state"] == "accepted") & (mine["genus"] == genus)).sum()
    assert objects["genus"].notna().equals(objects["state"] == "accepted")
    assert objects["object_id"].is_unique


def test_objects_are_traceable(finished: Path) -> None:
    """Every object leads to its box within the scan, its crop, its embedding and its neighbours."""
    results = slidepipe.open_results(finished)
    x0, y0, x1, y1 = results.manifest.slides_by_id["1_2-3 300 mSWC"].opened.bounds
    assert (x0, y0) == (1024, 512)
    for row in results.objects[results.objects["slide_id"] == "1_2-3 300 mSWC"].to_dict("records"):
        assert x0 <= row["x0"] < row["x1"] <= x1
        assert y0 <= row["y0"] < row["y1"] <= y1
        crop = results.crop(row["object_id"])
        assert max(crop.shape) <= 256
        assert results.embedding(row["object_id"]).shape == (6,)
        assert {neighbour["genus"] for neighbour in row["nearest"]} <= {"amberina", "brunella", "viridia"}
    with pytest.raises(ResultsError, match="no such object"):
        results.crop("1_2-3 300 mSWC:99999")


def test_rerun_is_no_op_and_other_head_only_classifies(
    finished: Path, tmp_path: Path, colour_well: Path, config: dict[str, Any]
) -> None:
    """The same command again writes nothing; another head leaves the stored stages as they are."""
    out = tmp_path / "results"
    shutil.copytree(finished, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    summary = run(colour_well / "well", out, config)
    assert not summary.redone
    assert {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"
    } == before
    stages = {path: mtime for path, mtime in before.items() if "slides" in path.relative_to(out).parts}
    summary = run(colour_well / "well", out, config, head={"name": "logistic", "alpha": 0.05})
    assert summary.redone
    assert {path: path.stat().st_mtime_ns for path in stages} == stages


def test_tables_do_not_depend_on_workers_or_blocks(
    finished: Path, tmp_path: Path, colour_well: Path, config: dict[str, Any]
) -> None:
    """Schedulers, numbers of workers and block sizes give byte-identical tables."""
    changed: list[dict[str, Any]] = [
        {"run": {"scheduler": "threads", "workers": 1}},
        {"detector": {"block_px": 256}},
        {"run": {"scheduler": "local", "workers": 3}},
    ]
    for index, changes in enumerate(changed):
        out = tmp_path / str(index)
        run(colour_well / "well", out, config, **changes)
        assert contents(out) == contents(finished)


def test_other_backbone_uses_stored_crops(
    finished: Path, tmp_path: Path, colour_well: Path, config: dict[str, Any]
) -> None:
    """Another backbone setting keeps the stored boxes and crops."""
    out = tmp_path / "results"
    shutil.copytree(finished, out)
    kept = [SlideStore.in_results(out, "1_2-3 100 mDC").folder / stage / "zarr.json" for stage in ("boxes", "crops")]
    before = [path.stat().st_mtime_ns for path in kept]
    run(colour_well / "well", out, config, backbone={"name": "mean-colour", "orientations": 8})
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert slidepipe.open_results(out).manifest.settings["backbone"]["orientations"] == 8


def test_isolate_and_orientations(finished: Path, tmp_path: Path, colour_well: Path, config: dict[str, Any]) -> None:
    """The stored embeddings are those of the settings isolate and orientations."""
    out = tmp_path / "results"
    shutil.copytree(finished, out)
    backbone, slide = MeanColour().load("cpu"), "1_2-3 200,5 mC"
    crops = [slidepipe.open_results(out).crop(f"{slide}:{row:05d}") for row in range(5)]
    for changes in ({}, {"isolate": False}, {"orientations": 8}, {"isolate": False, "orientations": 8}):
        assert run(colour_well / "well", out, config, backbone={**config["backbone"], **changes}).redone == bool(
            changes
        )
        results, alone = slidepipe.open_results(out), changes.get("isolate", True)
        assert results.manifest.backbone["isolate"] is alone
        expected = embed_crops(backbone, crops, ["x"] * 5, changes.get("orientations", 1), 32, alone)
        np.testing.assert_allclose(results.embeddings(slide)[...], expected, rtol=1e-6)


def test_slide_shift_changes_classification_only(
    finished: Path, tmp_path: Path, colour_well: Path, config: dict[str, Any]
) -> None:
    """The setting slide_shift changes the distances and no stored stage."""
    out = tmp_path / "results"
    shutil.copytree(finished, out)
    stages = {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*") if path.is_file()}
    before = slidepipe.open_results(out).objects
    assert run(colour_well / "well", out, config, head={**config["head"], "slide_shift": False}).redone
    assert {path: path.stat().st_mtime_ns for path in stages} == stages
    after = slidepipe.open_results(out).objects
    assert (before["x0"] == after["x0"]).all()
    assert (before["distance"] != after["distance"]).mean() > 0.9


def copied_well(colour_well: Path, tmp_path: Path) -> Path:
    well = tmp_path / "well"
    shutil.copytree(colour_well / "well", well)
    return well


def test_companion_backbone(colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """The embedding of a companion is concatenated for objects, references and search queries."""
    out = tmp_path / "out"
    backbone = {**config["backbone"], "batch": 4}
    run(colour_well / "well", out, config, backbone={**backbone, "companion": None})
    results = slidepipe.open_results(out)
    alone = {slide: np.asarray(results.embeddings(slide)[...]) for slide in results.objects["slide_id"].unique()}
    assert run(colour_well / "well", out, config, backbone={**backbone, "companion": "descriptors"}).redone
    results = slidepipe.open_results(out)
    assert results.manifest.backbone["beside"]["name"] == "descriptors"
    for slide, own in alone.items():
        joined = np.asarray(results.embeddings(slide)[...])
        assert joined.shape == (len(own), own.shape[1] + DIM)
        crops = [results.crop(f"{slide}:{row:05d}") for row in range(len(own))]
        companion = embed_crops(DescriptorBackbone().load("cpu"), crops, ["x"] * len(crops), 1, 32, isolated=True)
        np.testing.assert_allclose(joined, join_embeddings(own, companion), rtol=1e-5, atol=1e-6)
    image = sorted((colour_well / "reference").glob("*/*"))[0]
    query = embed_image(results, image, "cpu")
    assert query.shape == (own.shape[1] + DIM,)


def test_slide_that_cannot_be_opened(finished: Path, colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A slide that cannot be opened has failed, the others are counted, and a corrected file is picked up."""
    well = copied_well(colour_well, tmp_path)
    (well / "1_2-3 100 mDC.svs").write_bytes(b"not a slide")
    summary = run(well, tmp_path / "results", config)
    assert summary.exit_status == 1
    assert summary.failed == ("1_2-3 100 mDC",)
    counts, whole = (
        pd.read_csv(folder / "counts.csv").set_index("sample_id") for folder in (tmp_path / "results", finished)
    )
    assert counts.loc["1/2-3 100 mDC", "status"] == "failed"
    assert counts.loc["1/2-3 100 mDC", ["amberina", "unknown", "total", "area_mm2"]].isna().all()
    pd.testing.assert_series_equal(counts.loc["1/2-3 200.5 mC"], whole.loc["1/2-3 200.5 mC"], check_dtype=False)
    failures = pd.read_csv(tmp_path / "results" / "failures.csv")
    assert failures.to_dict("records")[0]["stage"] == "open"
    assert "not a slide that OpenSlide can open" in failures["reason"][0]
    # Once the file is correct, the same command does what is missing.
    shutil.copy(colour_well / "well" / "1_2-3 100 mDC.svs", well)
    assert run(well, tmp_path / "results", config).exit_status == 0
    assert contents(tmp_path / "results") == contents(finished)


def test_slide_with_bad_tile_is_partial(
    finished: Path, colour_well: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    """A slide with an unreadable tile is partial, and its area does not include the tile."""
    well = copied_well(colour_well, tmp_path)
    image = drawn.field(4096, 4096, [(3000, 3000, 90, drawn.BROWN), (700, 700, 90, drawn.AMBER)])
    path = drawn.svs(well / "1_2-3 400 mC.svs", image, factors=(1,))
    drawn.break_tile(path, 0)
    summary = run(well, tmp_path / "results", config)
    assert summary.partial == ("1_2-3 400 mC",)
    assert summary.exit_status == 1
    row = pd.read_csv(tmp_path / "results" / "counts.csv").set_index("sample_id").loc["1/2-3 400 mC"]
    assert row["status"] == "partial"
    assert row["total"] == 1
    assert row["area_mm2"] == pytest.approx(1.048576 - 0.262144, abs=1e-3)
    assert pd.read_csv(tmp_path / "results" / "failures.csv")["stage"].tolist() == ["detect"]


def test_slide_without_readable_tile_fails(colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A slide that opens and has no readable tile has failed."""
    path = drawn.svs(tmp_path / "1_2-3 7 mC.svs", drawn.field(512, 512), factors=(1,))
    data = path.read_bytes()
    at = data.find(b"\xff\xd8\xff")
    while at >= 0:
        data = data[:at] + bytes(16) + data[at + 16 :]
        at = data.find(b"\xff\xd8\xff")
    path.write_bytes(data)
    summary = run(path, tmp_path / "results", config)
    assert summary.failed == ("1_2-3 7 mC",)
    assert pd.read_csv(tmp_path / "results" / "counts.csv")["status"].tolist() == ["failed"]


def test_two_slides_of_one_sample_and_barren_sample(colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """Slides of one sample are summed, and a sample without fossils is barren."""
    well = tmp_path / "well"
    drawn.svs(well / "a" / "1_2-3 5 mC.svs", drawn.field(1024, 1024, [(300, 300, 90, drawn.BROWN)]))
    drawn.svs(well / "b" / "1_2-3 5 mC.svs", drawn.field(1024, 1024, [(600, 600, 90, drawn.BROWN)]))
    drawn.svs(well / "1_2-3 9 mDC.svs", drawn.field(1024, 1024))
    run(well, tmp_path / "results", config)
    counts = pd.read_csv(tmp_path / "results" / "counts.csv")
    assert counts["slides"].tolist() == [2, 1]
    assert counts["brunella"].tolist() == [2, 0]
    assert counts["status"].tolist() == ["ok", "barren"]
    slides = pd.read_csv(tmp_path / "results" / "counts_slides.csv")
    assert slides["slide_id"].tolist() == ["a/1_2-3 5 mC", "b/1_2-3 5 mC", "1_2-3 9 mDC"]
    assert slides["brunella"].tolist() == [1, 1, 0]


def test_detector_that_raises(colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """An error in a plugin fails the slides, with its message as the reason; with on_error=stop it ends the run."""
    plugin = tmp_path / "breaks.py"
    plugin.write_text(
        "from slidepipe.interfaces import Detector\n"
        "class Breaks(Detector):\n"
        "    name = 'breaks'\n    mpp = 1.0\n    halo_um = 10.0\n    align_px = 64\n"
        "    def detect(self, region):\n        raise ZeroDivisionError('by my own mistake')\n"
        "PLUGINS = [Breaks]\n"
    )
    summary = run(
        colour_well / "well",
        tmp_path / "results",
        config,
        plugins=[*config["plugins"], str(plugin)],
        detector={"name": "breaks"},
    )
    assert len(summary.failed) == 3
    failures = pd.read_csv(tmp_path / "results" / "failures.csv")
    assert set(failures["stage"]) == {"detect"}
    assert failures["reason"].str.contains("ZeroDivisionError: by my own mistake").all()
    with pytest.raises(SlidepipeError, match="stopped at detect"):
        run(
            colour_well / "well",
            tmp_path / "other",
            config,
            plugins=[*config["plugins"], str(plugin)],
            detector={"name": "breaks"},
            run={"scheduler": "threads", "on_error": "stop"},
        )


def test_bad_input_is_reported_before_work(
    colour_well: Path, tmp_path: Path, finished: Path, config: dict[str, Any]
) -> None:
    """Bad input and settings are one-line errors that come before any work."""
    well, out = colour_well / "well", tmp_path / "results"
    (tmp_path / "empty").mkdir()
    one = drawn.reference(tmp_path / "one", 3)
    for index in (1, 2):
        (one / "viridia" / f"{index:03d}.jpg").unlink()
    total = drawn.reference(tmp_path / "total", 3)
    (total / "viridia").rename(total / "total")
    no_mpp = drawn.svs(tmp_path / "no-mpp" / "1_2-3 5 mC.svs", drawn.field(256, 256), mpp=None).parent
    other = drawn.svs(tmp_path / "other" / "9_9-9 5 mC.svs", drawn.field(256, 256)).parent
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.docx").write_text("x")
    (tmp_path / "file").write_text("x")
    cases: list[tuple[Path, Path, dict[str, Any], type[SlidepipeError], str]] = [
        (tmp_path / "empty", out, {}, WellError, "no slides in this folder"),
        (tmp_path / "nowhere", out, {}, WellError, "no such file or folder"),
        (well, out, {"reference": None}, SettingsError, "no reference set: give --reference"),
        (well, out, {"reference": str(tmp_path / "empty")}, ReferenceSetError, "no images in it"),
        (well, out, {"reference": str(one)}, ReferenceSetError, "viridia: 1 image; a genus needs at least 2"),
        (well, out, {"reference": str(total)}, ReferenceSetError, "'total' is a column of the count tables"),
        (well, out, {"head": {"name": "knn", "alpha": 0.001}}, SettingsError, "alpha"),
        (well, out, {"backbone": {"name": "men-colour"}}, SlidepipeError, "mean-colour"),
        (well, out, {"detector": {"name": "density", "settings": {"mmp": 1}}}, SettingsError, "mmp"),
        (no_mpp, out, {}, ResolutionError, r"1_2-3 5 mC.svs.*--mpp"),
        (other, finished, {}, ResultsError, "another well"),
        (well, tmp_path / "foreign", {}, ResultsError, "thesis.docx"),
        (well, tmp_path / "file" / "out", {}, ResultsError, "cannot be created"),
    ]
    for source, target, changes, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            run(source, target, config, **changes)
        assert "\n" not in str(caught.value)


def test_full_disk_keeps_finished_work(
    finished: Path, colour_well: Path, tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is a one-line error, and the same command resumes later."""
    out = tmp_path / "results"
    real = SlideStore.publish

    def full(store: SlideStore, stage: StageName, *args: Any) -> None:
        if stage == "embeddings":
            raise OSError(28, "No space left on device", str(store.folder))
        real(store, stage, *args)

    monkeypatch.setattr(SlideStore, "publish", full)
    with pytest.raises(ResultsError, match="no space left on its disk"):
        run(colour_well / "well", out, config)
    monkeypatch.undo()
    run(colour_well / "well", out, config)
    assert contents(out) == contents(finished)


def test_the_manifest_tells_how_it_was_made(finished: Path, colour_well: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["slidepipe"] == slidepipe.__version__
    assert manifest["backbone"]["name"] == "mean-colour"
    assert manifest["backbone"]["license"] == "Apache-2.0"
    assert manifest["reference"]["genera"] == ["amberina", "brunella", "viridia"]
    assert Config.model_validate(manifest["settings"]).head.alpha == 0.05
    for slide in manifest["slides"]:
        assert slide["status"] == "ok"
        assert set(slide["seconds"]) == {"boxes", "crops", "embeddings"}
        np.testing.assert_allclose(
            slide["area_mm2"], 0.147456 if "mSWC" not in slide["slide_id"] else 0.139264, rtol=1e-3
        )
