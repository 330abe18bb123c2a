"""One process, local workers and a cluster started by hand give byte-identical tables."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from performance import runs
from slidepipe.config import load_config
from slidepipe.pipeline.flow import run_well

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, colour_well: Path, test_plugins: Path) -> runs.RunPlan:
    folder = tmp_path_factory.mktemp("cluster")
    settings = folder / "settings.yaml"
    settings.write_text(
        f"reference: {colour_well / 'reference'}\n"
        f"plugins: [{test_plugins}]\n"
        "backbone: {name: mean-colour, orientations: 1}\n"
        "head: {alpha: 0.05, settings: {metric: euclidean}}\n"
        "detector: {block_px: 256}\n"  # several tasks per slide
    )
    return runs.RunPlan(colour_well / "well", ("--config", str(settings)), folder / "cache")


@pytest.fixture(scope="module")
def alone(plan: runs.RunPlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the tables of a run in one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    config = load_config(Path(plan.options[1]), {"run.scheduler": "threads", "run.workers": 1})
    assert run_well(plan.well, out, config).exit_status == 0
    return runs.tables_of(out)


@pytest.mark.parametrize("workers", [2, 4])
def test_local_worker_processes(plan: runs.RunPlan, alone: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    """Worker processes of this machine give the tables of one process."""
    config = load_config(Path(plan.options[1]), {"run.scheduler": "local", "run.workers": workers})
    assert run_well(plan.well, tmp_path / "out", config).exit_status == 0
    assert runs.differing(runs.tables_of(tmp_path / "out"), alone) == []


def test_existing_cluster(
    plan: runs.RunPlan, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler and workers started separately give the tables of one process, for two runs after each other."""
    (tmp_path / "cluster").mkdir()
    with runs.separate_cluster(plan, tmp_path / "cluster", [((), "127.0.0.1")] * 3) as address:
        # The paths are relative to the folder of the run, and the workers run in another folder.
        monkeypatch.chdir(tmp_path)
        config = load_config(Path(plan.options[1]), {"run.scheduler": address})
        assert run_well(Path(os.path.relpath(plan.well)), Path("here"), config).exit_status == 0
        # A second run on the same workers, which still keep slides, detector and backbone of the first.
        by_command = replace(plan, options=(*plan.options, "--scheduler", str(tmp_path / "cluster" / "scheduler.json")))
        ended = runs.finish(by_command, tmp_path / "out", tmp_path / "log")
        assert ended.status == 0, ended.output
    assert runs.differing(runs.tables_of(Path("here")), alone) == []
    assert runs.differing(runs.tables_of(tmp_path / "out"), alone) == []
