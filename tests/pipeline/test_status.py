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
from slidepipe.pipeline.status import StatusFile, format_seconds, read_status, tell_status
from slidepipe.store.files import write_json
from slidepipe.store.lock import locked
from slidepipe.store.slide_store import STAGE_NAMES, SlideStore
from tests import drawn

PLAN = RunPlan(slides=4, finished=1, blocks=10, megapixels=50.0, threads=2, dashboard="http://127.0.0.1:1/status")


class Block:
    def __init__(self, objects: int) -> None:
        self.table = [None] * objects


def detected(progress: Progress, blocks: int, objects: int) -> None:
    for _ in range(blocks):
        progress.task_done(Task(print, (), counts_for="detect"), Block(objects), 2.0)


def test_time_left_follows_from_what_each_unit_has_cost_so_far(tmp_path: Path) -> None:
    progress = Progress()
    with progress.of(PLAN):
        assert progress.seconds_left() is None
        detected(progress, 5, 4)
        progress.planned("crop", 20)
        progress.planned("embed", 20)
        assert progress.seconds_left() is None  # nothing has been embedded: nobody knows what that costs
        progress.task_done(Task(print, (), counts_for="crop"), 20, 2.0)
        progress.task_done(Task(print, (), counts_for="embed"), 10, 5.0)
        # 5 blocks of 2 s; 40 objects are to be expected: 20 more to crop at 0.1 s, 30 to embed at 0.5 s; two at a time.
        assert progress.seconds_left() == pytest.approx((5 * 2 + 20 * 0.1 + 30 * 0.5) / 2)
    assert [format_seconds(value) for value in (12.2, 250, 12000)] == ["12 s", "4 min 10 s", "3 h 20 min"]


def test_another_terminal_is_told_how_the_run_fares(tmp_path: Path) -> None:
    progress = Progress(status=StatusFile(tmp_path))
    with locked(tmp_path):
        assert read_status(tmp_path)["state"] == "preparing"
        with progress.of(PLAN):
            detected(progress, 5, 4)
            progress.slide_done("a", None, {"objects": 20, "area_mm2": 1.0})
            progress.slide_done("b", "gone", {})
            told = tell_status(tmp_path, read_status(tmp_path))
    assert f"running (process {os.getpid()} on {socket.gethostname()}): 2 of 4 slides finished, 1 failed" in told
    assert "detect 5 of 10 blocks known" in told
    assert "Dask dashboard: http://127.0.0.1:1/status" in told


def test_slides_that_failed_are_told_of_from_the_opening_on_and_never_counted_as_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slidepipe.run")
    progress = Progress(status=StatusFile(tmp_path))
    plan = RunPlan(slides=5, finished=2, blocks=0, megapixels=0.0, threads=1, failed={"bad": "not a slide"})

    def counted() -> tuple[int, list[str]]:
        status = read_status(tmp_path)
        return status["finished"], status["failed"]

    with locked(tmp_path), progress.of(plan):
        assert counted() == (1, ["bad"])
        progress.slide_done("a", None, {})
        progress.slide_done("b", "torn", {})
        progress.slide_done("c", "away", {})
        assert counted() == (2, ["bad", "b", "c"])
        progress.retrying(1)
        progress.slide_done("c", None, {})
        assert counted() == (3, ["bad", "b"])
    lines = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "slide"]
    assert lines[0] == "[2/5] bad: failed: not a slide"
    assert lines[-1].startswith("[5/5] c: 0 objects")


def test_a_run_on_another_machine_is_alive_while_it_writes(tmp_path: Path) -> None:
    StatusFile(tmp_path).write({"slides": 4, "finished": 1}, now=True)
    write_json(tmp_path / ".lock.json", {"pid": 1, "host": "elsewhere", "since": time.time()})
    assert read_status(tmp_path)["state"] == "running"
    write_json(tmp_path / ".status.json", {"slides": 4, "finished": 1, "updated": time.time() - 3600})
    assert read_status(tmp_path)["state"] == "cut short"


def test_elapsed_and_left_go_on_between_tasks_and_old_news_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(status=StatusFile(tmp_path))
    with locked(tmp_path), progress.of(PLAN):
        detected(progress, 5, 0)
        progress.slide_done("a", None, {})
        fresh = read_status(tmp_path)
        assert "no task has ended" not in tell_status(tmp_path, fresh)
        assert fresh["left_s"] == pytest.approx(5.0, abs=0.5)
        now = time.time()
        for later, left in ((3.0, 2.0), (63.0, None)):
            monkeypatch.setattr("slidepipe.pipeline.status.time.time", lambda later=later: now + later)
            status = read_status(tmp_path)
            assert status["elapsed_s"] == pytest.approx(fresh["elapsed_s"] + later, abs=0.5)
            assert status["left_s"] == (None if left is None else pytest.approx(left, abs=0.5))
        told = tell_status(tmp_path, status)
    assert "1 min 3 s so far, time left not known" in told
    assert "no task has ended for 1 min 3 s" in told


def test_a_process_that_got_the_number_of_a_killed_run_is_not_that_run(tmp_path: Path) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    for since, state in ((time.time(), "preparing"), (psutil.Process().create_time() - 60, "cut short")):
        write_json(tmp_path / ".lock.json", {**holder, "since": since})
        assert read_status(tmp_path)["state"] == state
    write_json(tmp_path / ".lock.json", {**holder, "pid": 2**22 + 1, "since": time.time()})  # beyond any number
    assert read_status(tmp_path)["state"] == "cut short"


def test_a_store_that_a_later_run_changed_and_left_is_not_finished(tmp_path: Path) -> None:
    store = SlideStore.in_results(tmp_path, "a")
    marks = {stage: f"first {stage}" for stage in STAGE_NAMES}
    for stage in STAGE_NAMES:
        store.publish(stage, marks[stage], {}, lambda group: None)
    entries = [
        {"slide_id": "a", "status": "ok", "fingerprints": marks},
        {"slide_id": "b", "status": "failed"},  # has nothing in the store
    ]
    write_json(
        tmp_path / "manifest.json",
        {"slidepipe": "t", "written": "2026-01-01", "tables": "x", "objects": 0, "accepted": 0, "slides": entries},
    )
    assert read_status(tmp_path)["state"] == "finished"
    store.publish("embeddings", "of another backbone", {}, lambda group: None)
    status = read_status(tmp_path)
    assert (status["state"], status["changed"]) == ("cut short", ["a"])
    told = tell_status(tmp_path, status)
    assert told.startswith("cut short: settings changed since the tables were written (2026-01-01)")
    assert "give the run command again" in told


def test_where_no_run_has_been_that_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ResultsError, match="Give the folder that a run was given"):
            read_status(folder)


def test_a_real_run_is_seen_running_then_cut_short_then_finished(
    tmp_path: Path, colour_well: Path, test_plugins: Path
) -> None:
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
        told = ""
        while time.monotonic() < deadline and process.poll() is None:
            told = cli.invoke(main, ["status", str(out)]).stdout
            if told.startswith("running") and "slides finished" in told:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert told.startswith(f"running (process {process.pid}")
    assert "of 3 slides finished" in told
    cut = cli.invoke(main, ["status", str(out)])
    assert cut.exit_code == 0
    assert cut.stdout.startswith("cut short")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr
    assert cli.invoke(main, ["status", str(out)]).stdout.startswith("finished 20")
    lines = [line for line in finished.stderr.splitlines() if "objects on" in line]
    assert lines
    assert lines[-1].startswith("slidepipe: [3/3] 1_2-3")
    assert not (out / ".status.json").exists()
    assert json.loads((out / "manifest.json").read_text())["objects"] > 100
