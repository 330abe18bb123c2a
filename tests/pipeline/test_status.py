"""The progress of a run, the status file, and what `slidepipe status` prints."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from slidepipe.cli import main
from slidepipe.errors import ResultsError
from slidepipe.pipeline.engine import Task
from slidepipe.pipeline.progress import Progress, RunPlan
from slidepipe.pipeline.status import StatusFile, format_seconds, format_status, read_status
from slidepipe.store.files import write_json
from slidepipe.store.lock import locked
from slidepipe.store.manifest import read_manifest
from slidepipe.store.slide_store import SlideStore
from tests import drawn, made_results

PLAN = RunPlan(slides=4, finished=1, blocks=10, megapixels=50.0, threads=2, dashboard="http://127.0.0.1:1/status")


class Block:
    def __init__(self, objects: int) -> None:
        self.table = [None] * objects


def detected(progress: Progress, blocks: int, objects: int) -> None:
    for _ in range(blocks):
        progress.task_done(Task(print, (), counts_for="detect"), Block(objects), 2.0)


def test_estimated_time_left() -> None:
    """The estimate follows from the time per unit so far, and is unknown while a stage has no finished unit."""
    progress = Progress()
    with progress.reporting(PLAN):
        assert progress.seconds_left() is None
        detected(progress, 5, 4)
        progress.add_planned("crop", 20)
        progress.add_planned("embed", 20)
        assert progress.seconds_left() is None  # nothing has been embedded yet
        progress.task_done(Task(print, (), counts_for="crop"), 20, 2.0)
        progress.task_done(Task(print, (), counts_for="embed"), 10, 5.0)
        # 5 blocks of 2 s; 40 objects are expected: 20 more to crop at 0.1 s each, 30 to embed at 0.5 s each; two at a time.
        assert progress.seconds_left() == pytest.approx((5 * 2 + 20 * 0.1 + 30 * 0.5) / 2)
    assert [format_seconds(value) for value in (12.2, 250, 12000)] == ["12 s", "4 min 10 s", "3 h 20 min"]


def test_status_of_running_run(tmp_path: Path) -> None:
    """The status of a run shows the finished slides, the stages and the dashboard."""
    progress = Progress(status=StatusFile(tmp_path))
    with locked(tmp_path):
        assert read_status(tmp_path)["state"] == "preparing"
        with progress.reporting(PLAN):
            detected(progress, 5, 4)
            progress.slide_done("a", None, {"objects": 20, "area_mm2": 1.0})
            progress.slide_done("b", "gone", {})
            output = format_status(tmp_path, read_status(tmp_path))
    assert f"running (process {os.getpid()} on {socket.gethostname()}): 2 of 4 slides finished, 1 failed" in output
    assert "detect 5 of 10 blocks, " in output
    assert "Dask dashboard: http://127.0.0.1:1/status" in output


def test_failed_slides_in_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Failed slides are reported from the start of the run, and never counted as finished."""
    caplog.set_level(logging.INFO, "slidepipe.run")
    progress = Progress(status=StatusFile(tmp_path))
    plan = RunPlan(slides=5, finished=2, blocks=0, megapixels=0.0, threads=1, failed={"bad": "not a slide"})

    def counted() -> tuple[int, list[str]]:
        status = read_status(tmp_path)
        return status["finished"], status["failed"]

    with locked(tmp_path), progress.reporting(plan):
        assert counted() == (1, ["bad"])
        progress.slide_done("a", None, {})
        progress.slide_done("b", "torn", {})
        progress.slide_done("c", "away", {})
        assert counted() == (2, ["bad", "b", "c"])
        progress.report_retry(1)
        progress.slide_done("c", None, {})
        assert counted() == (3, ["bad", "b"])
    lines = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "slide"]
    assert lines[0] == "[2/5] bad: failed: not a slide"
    assert lines[-1].startswith("[5/5] c: 0 objects")


def test_status_of_run_on_another_machine(tmp_path: Path) -> None:
    """A run on another machine counts as running while it writes its status file."""
    StatusFile(tmp_path).write({"slides": 4, "finished": 1}, now=True)
    write_json(tmp_path / ".lock.json", {"pid": 1, "host": "elsewhere", "since": time.time()})
    assert read_status(tmp_path)["state"] == "running"
    write_json(tmp_path / ".status.json", {"slides": 4, "finished": 1, "updated": time.time() - 3600})
    assert read_status(tmp_path)["state"] == "interrupted"


def test_status_between_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times are brought up to now, and old numbers are marked as old."""
    progress = Progress(status=StatusFile(tmp_path))
    with locked(tmp_path), progress.reporting(PLAN):
        detected(progress, 5, 0)
        progress.slide_done("a", None, {})
        fresh = read_status(tmp_path)
        assert "no task has finished" not in format_status(tmp_path, fresh)
        assert fresh["left_s"] == pytest.approx(5.0, abs=0.5)
        now = time.time()
        for later, left in ((3.0, 2.0), (63.0, None)):
            monkeypatch.setattr("slidepipe.pipeline.status.time.time", lambda later=later: now + later)
            status = read_status(tmp_path)
            assert status["elapsed_s"] == pytest.approx(fresh["elapsed_s"] + later, abs=0.5)
            assert status["left_s"] == (None if left is None else pytest.approx(left, abs=0.5))
        output = format_status(tmp_path, status)
    assert "1 min 3 s so far, time left unknown" in output
    assert "no task has finished for 1 min 3 s" in output


def test_status_when_process_number_is_reused(tmp_path: Path) -> None:
    """Another process that got the number of a killed run does not count as that run."""
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    for since, state in ((time.time(), "preparing"), (psutil.Process().create_time() - 60, "interrupted")):
        write_json(tmp_path / ".lock.json", {**holder, "since": since})
        assert read_status(tmp_path)["state"] == state
    write_json(
        tmp_path / ".lock.json", {**holder, "pid": 2**22 + 1, "since": time.time()}
    )  # larger than any process number
    assert read_status(tmp_path)["state"] == "interrupted"


def test_status_of_results_changed_by_interrupted_run(tmp_path: Path) -> None:
    """Results whose stored stages were changed by a later, interrupted run are not finished."""
    store = SlideStore.in_results(tmp_path, "a")
    marks = {stage: f"first {stage}" for stage in ("boxes", "crops", "embeddings")}
    for stage in ("boxes", "crops", "embeddings"):
        store.publish(stage, marks[stage], {}, lambda group: None)
    made_results.make(tmp_path / "made", {made_results.slide("a"): ["azolla"], made_results.slide("b"): None})
    manifest = read_manifest(tmp_path / "made")
    assert manifest is not None
    record = manifest.slides_by_id["a"].model_copy(update={"fingerprints": marks})
    manifest.model_copy(update={"slides": [record, manifest.slides_by_id["b"]]}).write(tmp_path)
    assert read_status(tmp_path)["state"] == "finished"
    store.publish("embeddings", "of another backbone", {}, lambda group: None)
    status = read_status(tmp_path)
    assert (status["state"], status["changed"]) == ("interrupted", ["a"])
    output = format_status(tmp_path, status)
    assert output.startswith("interrupted: a later run changed the stored results of 1 slides after the tables were")
    assert "Run the command again" in output


def test_status_of_other_folder(tmp_path: Path) -> None:
    """A folder that no run has used is an error."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ResultsError, match="Give the folder that a run got as --out"):
            read_status(folder)


@pytest.mark.slow
def test_status_of_killed_and_resumed_run(tmp_path: Path, colour_well: Path, test_plugins: Path) -> None:
    """A real run is running, then killed and interrupted, then resumed and finished."""
    for number in range(3):
        discs = [(x, y, 80, drawn.AMBER) for x in range(300, 6000, 700) for y in range(300, 6000, 700)]
        drawn.svs(tmp_path / "well" / f"1_2-3 {number}00 mC.svs", drawn.field(6144, 6144, discs))
    out = tmp_path / "results"
    command = [
        sys.executable, "-m", "slidepipe.cli", "run", str(tmp_path / "well"), "--out", str(out), "--reference",
        str(colour_well / "reference"), "--plugin", str(test_plugins), "--backbone", "mean-colour", "--workers", "1",
    ]  # fmt: skip
    cli = CliRunner()
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        output = ""
        while time.monotonic() < deadline and process.poll() is None:
            output = cli.invoke(main, ["status", str(out)]).stdout
            if output.startswith("running") and "slides finished" in output:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert output.startswith(f"running (process {process.pid}")
    assert "of 3 slides finished" in output
    cut = cli.invoke(main, ["status", str(out)])
    assert cut.exit_code == 0
    assert cut.stdout.startswith("interrupted")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr
    assert cli.invoke(main, ["status", str(out)]).stdout.startswith("finished 20")
    lines = [line for line in finished.stderr.splitlines() if "objects on" in line]
    assert lines
    assert lines[-1].startswith("slidepipe: [3/3] 1_2-3")
    assert not (out / ".status.json").exists()
    assert json.loads((out / "manifest.json").read_text())["objects"] > 100
