"""Stages that are used again and stages that are run again: missing slides, crops that are not kept, unreadable parts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slidepipe.config import Config, load_config, parse_config
from slidepipe.errors import RegionError, ResultsError, SettingsError, WellError
from slidepipe.pipeline import stages
from slidepipe.pipeline.engine import Work
from slidepipe.pipeline.flow import run_well
from slidepipe.pipeline.jobs import SlideState
from slidepipe.pipeline.stages import STAGES
from slidepipe.pipeline.stages.stage import Expect, Stage
from slidepipe.pipeline.summary import RunSummary
from slidepipe.pipeline.tables import TABLES
from slidepipe.report import write_report
from slidepipe.results import Results
from slidepipe.slides.handles import _handles
from slidepipe.slides.openslide_reader import OpenSlideReader
from slidepipe.slides.reader import SlideReader
from slidepipe.store.arrays import write_embeddings
from slidepipe.store.slide_store import SlideStore
from tests import drawn

#: The names of the stages in the store.
STAGE_NAMES = ("boxes", "crops", "embeddings")

SLIDES = ("1_2-3 100 mDC", "1_2-3 200,5 mC", "1_2-3 300 mSWC")


def run(well: Path, out: Path, config: dict[str, Any], **changes: Any) -> RunSummary:
    return run_well(well, out, load_config({**config, **changes}))


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture
def well(colour_well: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_well / "well", tmp_path / "well"))


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["the folder", "the scans"])
def test_other_backbone_without_slides(
    well: Path, tmp_path: Path, config: dict[str, Any], gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another backbone or head works from the stored results if the slides are missing; another detector is an error."""
    out, fresh = tmp_path / "results", tmp_path / "fresh"
    eight = {"backbone": {"name": "mean-colour", "orientations": 8, "companion": None}}
    run(well, out, config)
    run(well, fresh, config, **eight)
    if gone == "the folder":
        shutil.move(well, tmp_path / "away")
    else:
        for path in [*well.glob("*.svs"), *well.glob("*.mrxs")]:
            path.unlink()
    assert run(well, out, config, **eight).exit_status == 0
    assert tables(out) == tables(fresh)
    assert "no slides found in" in caplog.text
    assert not run(well, out, config, **eight).redone
    assert run(well, out, config, **eight, head={"name": "logistic", "alpha": 0.05}).redone
    # Another detector or resolution needs the slides. The tables stay as they are.
    for settings in ({"detector": {"settings": {"min_size_um": 11.0}}}, {"mpp": 0.5}):
        with pytest.raises(ResultsError, match=r"its slides are missing.*not enough for these settings \(3 slides\)"):
            run(well, out, config, **eight, **settings)
    # With the earlier settings the stored results are still enough.
    assert run(well, out, config, **eight).exit_status == 0
    assert tables(out) == tables(fresh)


def test_unknown_well_is_error(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A missing well that the results do not belong to is an error."""
    run(well, tmp_path / "results", config)
    with pytest.raises(WellError, match="no such file or folder"):
        run(tmp_path / "nowhere", tmp_path / "results", config)


@pytest.mark.slow
def test_removed_slide_leaves_tables(
    well: Path, tmp_path: Path, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A slide that was removed from the well leaves the tables with a warning, and its stored stages are used when it is back."""
    out = tmp_path / "results"
    run(well, out, config)
    (well / f"{SLIDES[0]}.svs").rename(tmp_path / "aside.svs")
    run(well, out, config)
    assert f"{SLIDES[0]} was in these results and is no longer in the well" in caplog.text
    assert set(pd.read_csv(out / "counts_slides.csv")["slide_id"]) == set(SLIDES[1:])
    (tmp_path / "aside.svs").rename(well / f"{SLIDES[0]}.svs")
    parts = [SlideStore.in_results(out, SLIDES[0]).folder / stage / "zarr.json" for stage in STAGE_NAMES]
    before = [part.stat().st_mtime_ns for part in parts]
    run(well, out, config)
    assert [part.stat().st_mtime_ns for part in parts] == before  # its stored stages are used again


@pytest.mark.slow
def test_crops_none(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """With crops=none the tables are the same, less is stored, and crops are cut from the slides while these exist."""
    kept, none = tmp_path / "kept", tmp_path / "none"
    run(well, kept, config)
    run(well, none, config, crops="none")
    assert tables(none) == tables(kept)
    assert not run(well, none, config, crops="none").redone
    stored = sum(path.stat().st_size for path in (none / "slides").rglob("*") if path.is_file())
    assert stored < 0.5 * sum(path.stat().st_size for path in (kept / "slides").rglob("*") if path.is_file())
    # Crops are cut from the slides while these exist.
    with_crops, without = Results(kept), Results(none)
    for object_id in with_crops.objects["object_id"]:
        assert without.jpeg(object_id) == with_crops.jpeg(object_id)
    # Another backbone needs the crops again, and with crops=jpeg they are stored again.
    eight = {"backbone": {"name": "mean-colour", "orientations": 8, "companion": None}}
    run(well, none, config, crops="none", **eight)
    run(well, kept, config, **eight)
    assert tables(none) == tables(kept)
    run(well, none, config, **eight)
    assert tables(none) == tables(kept)
    assert all(SlideStore.in_results(none, slide).crops().jpeg(0) for slide in SLIDES)
    run(well, none, config, crops="none", **eight)
    shutil.move(well, tmp_path / "away")
    assert not run(well, none, config, crops="none", **eight).redone
    _handles.open.clear()  # an open file can still be read after it was moved
    gone = Results(none)
    assert gone.jpeg(gone.objects["object_id"][0]) == b""
    with pytest.raises(ResultsError, match="has no crop"):
        gone.crop(gone.objects["object_id"][0])
    write_report(none)
    with pytest.raises(ResultsError, match="not enough for these settings"):
        run(well, none, config, crops="none")


def failing(times: int, when: Callable[[SlideReader, tuple[Any, ...]], bool]) -> tuple[Any, list[int]]:
    """Return an `OpenSlideReader.read` that fails the first `times` times that `when` holds, and the list of failures."""
    real, failures = OpenSlideReader.read, []

    def read(self: SlideReader, *where: Any) -> Any:
        if len(failures) < times and when(self, where):
            failures.append(1)
            raise RegionError(f"{self.meta.path}: the drive is away")
        return real(self, *where)

    return read, failures


def of_second_slide(slide: SlideReader, where: tuple[Any, ...]) -> bool:
    return "200,5" in slide.meta.path.name


@pytest.mark.slow
def test_temporary_read_errors(
    well: Path, tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regions that fail once are read again within the run, and the tables are complete."""
    run(well, tmp_path / "whole", config)
    read, failures = failing(3, of_second_slide)
    monkeypatch.setattr(OpenSlideReader, "read", read)
    assert run(well, tmp_path / "results", config).exit_status == 0
    assert len(failures) == 3
    assert tables(tmp_path / "results") == tables(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["detect", "crop"])
def test_lost_parts_are_retried_by_next_run(
    well: Path, tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The next run tries again what could not be read, and does only that slide again."""
    discs = [(x, y, 80, drawn.AMBER) for x in range(300, 4000, 900) for y in range(300, 4000, 900)]
    drawn.svs(well / "1_2-3 400 mC.svs", drawn.field(4096, 4096, discs))
    run(well, tmp_path / "whole", config)
    out = tmp_path / "results"

    def corner(slide: SlideReader, where: tuple[Any, ...]) -> bool:
        level, x, y = where[:3]
        scale = level.downsample
        inside = 0 <= x * scale < 1000 and 0 <= y * scale < 1000
        return "400" in slide.meta.path.name and inside and (scale > 1) == (stage == "detect")

    slides = [*SLIDES, "1_2-3 400 mC"]
    read, failures = failing(10**9, corner)
    with monkeypatch.context() as patch:
        patch.setattr(OpenSlideReader, "read", read)
        summary = run(well, out, config)
        assert failures
        assert summary.partial == ("1_2-3 400 mC",)
        assert set(pd.read_csv(out / "failures.csv")["stage"]) == {stage}
        assert set(pd.read_csv(out / "failures.csv")["reason"]) == {"the drive is away"}
        regions = {"detect": ["0,0,4096,4096"], "crop": ["1_2-3 400 mC:00003"]}
        assert pd.read_csv(out / "failures.csv")["region"].tolist() == regions[stage]
        stored = [SlideStore.in_results(out, slide).folder / "boxes" / "zarr.json" for slide in slides]
        before = [path.stat().st_mtime_ns for path in stored]
        assert not run(well, out, config).redone  # it still cannot be read, so nothing is done again
        assert [path.stat().st_mtime_ns for path in stored] == before
    assert run(well, out, config).exit_status == 0
    assert tables(out) == tables(tmp_path / "whole")
    after = [path.stat().st_mtime_ns for path in stored]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, True, True, stage == "crop"]


def test_failed_slide_is_retried_at_end(
    well: Path, tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide that failed is tried once more at the end of the run."""
    run(well, tmp_path / "whole", config)
    real, opened = OpenSlideReader._open, []

    def away(self: SlideReader) -> Any:
        opened.append(self._path.name)
        # The slide is opened first to plan the run, and then by a worker.
        if "200,5" in self._path.name and opened.count(self._path.name) == 2:
            raise OSError(116, "Stale file handle")
        return real(self)

    monkeypatch.setattr(OpenSlideReader, "_open", away)
    assert run(well, tmp_path / "results", config).exit_status == 0
    assert tables(tmp_path / "results") == tables(tmp_path / "whole")


def test_unpublish_deletes_later_stages_and_parts(tmp_path: Path) -> None:
    """Stages that are unpublished are gone with their parts, and parts of other settings can be deleted."""
    store = SlideStore(tmp_path)
    for stage in STAGE_NAMES:
        store.publish(stage, "f", {}, lambda group: group.create_array("x", data=np.zeros(2)))
    store.save_part("embeddings", "f", 0, x=np.zeros(1))
    store.unpublish("crops", "embeddings")
    assert [store.is_done(stage, "f") for stage in STAGE_NAMES] == [True, False, False]
    assert not store.part_path("embeddings", "f", 0).exists()
    store.save_part("crops", "old", 0, x=np.zeros(1))
    store.save_part("crops", "new", 0, x=np.zeros(1))
    store.delete_other_parts({"crops": "new"})
    assert [path.name for path in (tmp_path / ".parts").iterdir()] == ["crops-new"]


def test_slide_named_like_a_stage(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A slide whose store would be inside a stage of another slide is an error."""
    (well / SLIDES[0]).mkdir()
    shutil.copy(well / f"{SLIDES[0]}.svs", well / SLIDES[0] / "boxes.svs")
    (well / "samples.csv").write_text(f"slide,well,depth_m\n{SLIDES[0]}/boxes,1/2-3,7\n")
    with pytest.raises(WellError, match="Rename this slide"):
        run(well, tmp_path / "results", config)


def test_results_with_stage_of_other_run(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """Stored embeddings that the tables were not made from are an error when they are read."""
    out = tmp_path / "results"
    run(well, out, config)
    store = SlideStore.in_results(out, SLIDES[0])
    store.publish(
        "embeddings", "of another run", {}, lambda group: write_embeddings(group, np.zeros((16, 2), np.float32))
    )
    results = Results(out)
    with pytest.raises(ResultsError, match=r"embeddings of 1_2-3 100 mDC do not belong to the tables"):
        results.embedding(f"{SLIDES[0]}:00000")
    assert results.embedding(f"{SLIDES[1]}:00000").shape == (6,)


def test_corrected_well_name(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A well name corrected in samples.csv is accepted for the same RESULTS folder."""
    out = tmp_path / "results"
    run(well, out, config)
    rows = "".join(f'"{slide}",9/9-9\n' for slide in SLIDES)
    (well / "samples.csv").write_text(f"slide,well\n{rows}")
    assert run(well, out, config).redone
    assert set(pd.read_csv(out / "counts.csv")["well"]) == {"9/9-9"}


def test_names_that_look_like_numbers(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A slide named 0012 and a well named NA stay text in the tables."""
    out = tmp_path / "results"
    (well / f"{SLIDES[0]}.svs").rename(well / "0012.svs")
    (well / "samples.csv").write_text(
        "slide,well,depth_m\n0012,NA,5\n" + "".join(f'"{name}",NA,\n' for name in SLIDES[1:])
    )
    run(well, out, config)
    results = Results(out)
    assert set(results.counts_slides["slide_id"]) == {"0012", *SLIDES[1:]}
    assert set(results.counts["well"]) == {"NA"}
    assert results.counts["depth_m"].tolist() == [5, 200.5, 300]


def test_setting_paths(well: Path, colour_well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """Workers find the slides where the setting paths says, and a folder that they cannot see is an error before the work."""
    run(well, tmp_path / "whole", config)
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(colour_well, here)
    there.symlink_to(here, target_is_directory=True)
    moved = {"reference": str(here / "reference"), "paths": {str(here): str(there)}}
    assert run(here / "well", here / "results", config, **moved).exit_status == 0
    assert tables(here / "results") == tables(tmp_path / "whole")
    with pytest.raises(SettingsError, match=r"cannot see /nowhere/.* in the setting 'paths'"):
        run(here / "well", here / "more", config, **{**moved, "paths": {str(here): "/nowhere"}})
    with pytest.raises(SettingsError, match="'relative' is not an absolute path"):
        parse_config({"paths": {"/here": "relative"}}, "test")


def test_corrected_samples_csv_without_slides(well: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """A corrected samples.csv changes the tables even if the slides are missing."""
    out = tmp_path / "results"
    run(well, out, config)
    for path in [*well.glob("*.svs"), *well.glob("*.mrxs")]:
        path.unlink()
    (well / "samples.csv").write_text(f"slide,depth_m,exclude\n{SLIDES[0]},70,\nlong gone,,yes\n")
    assert run(well, out, config).redone
    assert pd.read_csv(out / "counts.csv")["depth_m"].tolist() == [70, 200.5, 300]


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_damaged_stage_is_run_again(well: Path, tmp_path: Path, config: dict[str, Any], harm: str) -> None:
    """A stage with a missing or truncated file is an error when it is read, and the next run does it again."""
    out = tmp_path / "results"
    run(well, out, config)
    before = tables(out)
    chunk = SlideStore.in_results(out, SLIDES[0]).folder / "embeddings" / "embeddings" / "c" / "0" / "0"
    if harm == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ResultsError, match="Run the same command again"):
        Results(out).embedding(f"{SLIDES[0]}:00000")
    assert run(well, out, config, head={"name": "logistic", "alpha": 0.05}).exit_status == 0
    run(well, out, config)
    assert tables(out) == before


def test_workers_see_other_file_under_same_name(
    well: Path, colour_well: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    """A slide whose file differs on the worker's machine fails."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(well, here)
    shutil.copytree(well, there)
    drawn.svs(there / f"{SLIDES[0]}.svs", drawn.field(1536, 1536))
    summary = run(here, tmp_path / "results", config, paths={str(here): str(there)})
    assert summary.failed == (SLIDES[0],)
    assert "is not the file that the run was planned with" in summary.reason


def test_stages_in_order() -> None:
    """The tuple of stages gives the names in messages, the names in the store, and the units of progress."""
    assert [(stage.name, stage.stored, stage.unit) for stage in STAGES] == [
        ("detect", "boxes", "block"),
        ("crop", "crops", "object"),
        ("embed", "embeddings", "object"),
    ]


def test_new_stage_follows_from_tuple(
    well: Path, tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that is added to the tuple is run, stored, fingerprinted and used again, without any other change."""

    def work(state: SlideState, config: Config, expect: Expect) -> Work:
        job = state.job_with_slide()
        job.store.publish("counts", job.fingerprints["counts"], {"objects": state.count_objects()}, lambda group: None)
        yield []

    added = Stage("count", "counts", 1, "slide", lambda job, meta, before: (before,), work)
    monkeypatch.setattr(stages, "STAGES", (*STAGES, added))
    out = tmp_path / "results"
    run(well, out, config)
    store = SlideStore.in_results(out, SLIDES[0])
    assert store.attributes("counts")["objects"] == 16
    written = (store.folder / "counts" / "zarr.json").stat().st_mtime_ns
    run(well, out, config)
    assert (store.folder / "counts" / "zarr.json").stat().st_mtime_ns == written
