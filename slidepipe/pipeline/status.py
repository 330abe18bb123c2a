"""``slidepipe status``: how a run fares, seen from another terminal, and how an ended one ended."""

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
from slidepipe.store.manifest import MANIFEST, read_manifest
from slidepipe.store.slide_store import SlideStore

_FILE = ".status.json"
#: The file is written at most this often, and a run on another machine that has not written for long is taken for dead.
_EVERY_S, _SILENT_S = 1.0, 120.0
#: News older than this is said to be.
_NEWS_S = 10.0
#: A process that began this much later than the run took its folder is another one, which got the same number.
_CLOCK_S = 1.0


class StatusFile:
    """The status of a run under way, in its RESULTS folder. It goes when the run ends; a killed run leaves it behind."""

    def __init__(self, results: Path) -> None:
        self._path = results / _FILE
        self._written = 0.0

    def write(self, status: Mapping[str, Any], now: bool = False) -> None:
        """Write the status, if it is time or ``now``. A disk that takes no more is the run's own to notice."""
        if not now and time.monotonic() - self._written < _EVERY_S:
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError):
            write_text(self._path, json.dumps({"updated": time.time(), **status}))

    def remove(self) -> None:
        """The run has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_status(results: Path) -> dict[str, Any]:
    """How the run of a RESULTS folder fares.

    Returns:
        ``state``: ``running``, ``preparing`` (no slide is under work yet, or the tables are being written), ``cut short`` or
        ``finished``; while it runs what :class:`~slidepipe.pipeline.progress.Progress` wrote
        ``age_s`` seconds ago, with ``elapsed_s`` and
        ``left_s`` as of now; afterwards ``slides``, ``failed`` and ``partial``, ids of slides. Where a run was cut short that
        had made slides anew, ``changed`` are their ids, and ``written`` is when the tables were, which are of before.

    Raises:
        ResultsError: no run has been here.
    """
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder. Give the folder that a run was given with --out")
    holder, status, manifest = read_holder(results), read_json(results / _FILE), read_manifest(results)
    if not (holder or status or manifest or (results / "slides").is_dir()):
        raise ResultsError(f"{results}: no run has been here. Give the folder that a run was given with --out")
    if holder and _is_alive(holder, status):
        return {**_as_of_now(status), **holder, "state": "running" if status else "preparing"}
    if holder or status or not manifest or manifest.get("tables") is None:
        return {**status, "state": "cut short"}
    entries = manifest["slides"]
    changed = [entry["slide_id"] for entry in entries if _is_changed(results, entry)]
    if changed:
        return {"state": "cut short", "changed": changed, "written": manifest["written"]}
    return {
        "state": "finished",
        "written": manifest["written"],
        "slides": len(entries),
        "objects": manifest["objects"],
        "accepted": manifest["accepted"],
        **{word: [entry["slide_id"] for entry in entries if entry["status"] == word] for word in ("failed", "partial")},
    }


def tell_status(results: Path, status: Mapping[str, Any]) -> str:
    """The lines that ``slidepipe status`` prints."""
    state = status["state"]
    if state == "finished":
        lines = [
            f"finished {status['written']}: {status['slides'] - len(status['failed'])} of {status['slides']} slides analysed, "
            f"{status['objects']} objects, {status['accepted']} of a known genus"
        ]
        lines += [f"{word}: {', '.join(status[word])}" for word in ("failed", "partial") if status[word]]
        if len(lines) > 1:
            lines.append(f"reasons in {results / 'failures.csv'}; mend them and give the same run command again")
        return "\n".join(lines)
    if state == "cut short" and status.get("changed"):
        return (
            f"cut short: settings changed since the tables were written ({status['written']}), or slides were tried again, and "
            f"that run did not end ({len(status['changed'])} slides are not as in the tables): give the run command again"
        )
    if state == "cut short":
        done = f" with {status['finished']} of {status['slides']} slides finished" if "slides" in status else ""
        return f"cut short{done}: give the same run command again to go on (settings in {MANIFEST} once it has ended)"
    who = f"process {status['pid']} on {status['host']}"
    if state == "preparing":
        return f"running ({who}): planning, or writing tables and report"
    left = "time left not known" if status["left_s"] is None else f"about {format_seconds(status['left_s'])} left"
    lines = [
        f"running ({who}): {status['finished']} of {status['slides']} slides finished, {len(status['failed'])} failed; "
        f"{format_seconds(status['elapsed_s'])} so far, {left}"
    ]
    for stage, work in status["stages"].items():
        rate = work["done"] / max(status["elapsed_s"] - status["age_s"], 1e-3)
        lines.append(f"{stage:7}{work['done']} of {work['planned']} {work['unit']}s known, {rate:.1f} a second")
    lines.append(f"{status['megapixels_per_s']:.1f} megapixels a second")
    if status["age_s"] > _NEWS_S:
        lines.append(f"(no task has ended for {format_seconds(status['age_s'])}: these numbers are that old)")
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
    except psutil.AccessDenied:  # it is there, and another user's
        return True


def _as_of_now(status: dict[str, Any]) -> dict[str, Any]:
    """A status with the time since it was written counted in. Time left that has run out says nothing any more: None."""
    if not {"updated", "elapsed_s"} <= set(status):
        return status
    age_s = max(0.0, time.time() - float(status["updated"]))  # another machine's clock may be ahead
    left_s = status.get("left_s")
    return {
        **status,
        "age_s": age_s,
        "elapsed_s": status["elapsed_s"] + age_s,
        "left_s": left_s - age_s if left_s is not None and left_s > age_s else None,
    }


def _is_changed(results: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the store holds something else of a slide than the tables were made from. Of one that failed they hold nothing."""
    wanted, store = entry.get("fingerprints") or {}, SlideStore.in_results(results, entry["slide_id"])
    return any(not store.is_done(stage, fingerprint) for stage, fingerprint in wanted.items())


def format_seconds(seconds: float) -> str:
    """Return a duration in at most two units: "3 h 20 min", "4 min 10 s", "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
