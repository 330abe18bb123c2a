"""The status of a run as another terminal sees it (`slidepipe status`): its progress, or its outcome."""

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from slidepipe.errors import ResultsError
from slidepipe.store.files import read_json, write_text
from slidepipe.store.lock import read_holder
from slidepipe.store.manifest import SlideRecord, read_manifest
from slidepipe.store.slide_store import SlideStore

_FILE = ".status.json"
#: The file is written at most this often.
_EVERY_S = 1.0
#: A run on another machine that has not written for this long counts as dead.
_SILENT_S = 120.0
#: The output says how old its numbers are if they are older than this.
_STALE_S = 10.0
#: A process that started this much later than the run locked its folder is another process with the same number.
_CLOCK_S = 1.0


class StatusFile:
    """The status file of a run in progress, in its RESULTS folder. It is deleted when the run ends; a killed run leaves it.

    Args:
        results: the RESULTS folder.
    """

    def __init__(self, results: Path) -> None:
        self._path = results / _FILE
        self._written = 0.0

    def write(self, status: Mapping[str, Any], now: bool = False) -> None:
        """Write the status, at most once per second. Errors of the disk are ignored here: the run itself reports them.

        Args:
            status: what to write.
            now: write even if the last time was less than a second ago.
        """
        if not now and time.monotonic() - self._written < _EVERY_S:
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError):
            write_text(self._path, json.dumps({"updated": time.time(), **status}))

    def remove(self) -> None:
        """Delete the file, because the run has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_status(results: Path) -> dict[str, Any]:
    """Return the status of the run of a RESULTS folder.

    Args:
        results: the RESULTS folder.

    Returns:
        a record with `state`: "running", "preparing" (planning, or writing the tables), "interrupted" or "finished".
        While running it holds what `slidepipe.pipeline.progress.Progress` wrote `age_s` seconds ago, with `elapsed_s` and
        `left_s` brought up to now. When finished it holds `slides`, `failed` and `partial` (ids of slides). If a later run was
        interrupted after it changed the stored results, it holds `changed` (ids of slides) and `written`, the time when the
        tables, which are older, were written.

    Raises:
        ResultsError: no run has used this folder.
    """
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder. Give the folder that a run got as --out")
    holder, status, manifest = read_holder(results), read_json(results / _FILE), read_manifest(results)
    if not (holder or status or manifest or (results / "slides").is_dir()):
        raise ResultsError(f"{results}: no run has used this folder. Give the folder that a run got as --out")
    if holder and _is_alive(holder, status):
        return {**_as_of_now(status), **holder, "state": "running" if status else "preparing"}
    if holder or status or manifest is None or manifest.tables is None:
        return {**status, "state": "interrupted"}
    records = manifest.slides
    changed = [record.slide_id for record in records if _is_changed(results, record)]
    if changed:
        return {"state": "interrupted", "changed": changed, "written": manifest.written}
    return {
        "state": "finished",
        "written": manifest.written,
        "slides": len(records),
        "objects": manifest.objects,
        "accepted": manifest.accepted,
        **{word: [record.slide_id for record in records if record.status == word] for word in ("failed", "partial")},
    }


def format_status(results: Path, status: Mapping[str, Any]) -> str:
    """Return the lines that `slidepipe status` prints.

    Args:
        results: the RESULTS folder.
        status: its status, from `read_status`.
    """
    state = status["state"]
    if state == "finished":
        lines = [
            f"finished {status['written']}: {status['slides'] - len(status['failed'])} of {status['slides']} slides analysed, "
            f"{status['objects']} objects, {status['accepted']} of a known genus"
        ]
        lines += [f"{word}: {', '.join(status[word])}" for word in ("failed", "partial") if status[word]]
        if len(lines) > 1:
            lines.append(f"The reasons are in {results / 'failures.csv'}. Fix them and run the same command again")
        return "\n".join(lines)
    if state == "interrupted" and status.get("changed"):
        return (
            f"interrupted: a later run changed the stored results of {len(status['changed'])} slides after the tables were "
            f"written ({status['written']}), and did not finish. Run the command again"
        )
    if state == "interrupted":
        done = f" with {status['finished']} of {status['slides']} slides finished" if "slides" in status else ""
        return f"interrupted{done}. Run the same command again to resume"
    who = f"process {status['pid']} on {status['host']}"
    if state == "preparing":
        return f"running ({who}): planning, or writing tables and report"
    left = "time left unknown" if status["left_s"] is None else f"about {format_seconds(status['left_s'])} left"
    lines = [
        f"running ({who}): {status['finished']} of {status['slides']} slides finished, {len(status['failed'])} failed; "
        f"{format_seconds(status['elapsed_s'])} so far, {left}"
    ]
    for stage, work in status["stages"].items():
        rate = work["done"] / max(status["elapsed_s"] - status["age_s"], 1e-3)
        lines.append(f"{stage:7}{work['done']} of {work['planned']} {work['unit']}s, {rate:.1f} per second")
    lines.append(f"{status['megapixels_per_s']:.1f} megapixels per second")
    if status["age_s"] > _STALE_S:
        lines.append(f"(no task has finished for {format_seconds(status['age_s'])}, so these numbers are that old)")
    if status.get("dashboard"):
        lines.append(f"Dask dashboard: {status['dashboard']}")
    return "\n".join(lines)


def _is_alive(holder: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return time.time() - float(status.get("updated", holder.get("since", 0))) < _SILENT_S
    try:
        process = psutil.Process(int(holder["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.create_time() <= float(holder.get("since", time.time())) + _CLOCK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it exists and belongs to another user
        return True


def _as_of_now(status: dict[str, Any]) -> dict[str, Any]:
    """Return the status with the time since it was written added. Once the estimated time left has passed, it is None."""
    if not {"updated", "elapsed_s"} <= set(status):
        return status
    age_s = max(0.0, time.time() - float(status["updated"]))  # the clock of another machine may be ahead
    left_s = status.get("left_s")
    return {
        **status,
        "age_s": age_s,
        "elapsed_s": status["elapsed_s"] + age_s,
        "left_s": left_s - age_s if left_s is not None and left_s > age_s else None,
    }


def _is_changed(results: Path, record: SlideRecord) -> bool:
    """Return whether the stored results of a slide differ from those that the tables were made from."""
    store = SlideStore.in_results(results, record.slide_id)
    return any(not store.is_done(stage, fingerprint) for stage, fingerprint in record.fingerprints.items())


def format_seconds(seconds: float) -> str:
    """Return a duration in at most two units: "3 h 20 min", "4 min 10 s", "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
