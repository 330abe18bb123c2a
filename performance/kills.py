"""Runs killed at random moments: `python performance/kills.py [--count 30] [--seed 1] [--out FILE.json]`.

Counts the sample well once without interruption. Then, each time in a new folder:

* sends SIGKILL to the whole run (parent and workers) at `--count` moments spread over its duration, and runs the command again;
* kills only the parent, at a third as many moments, and runs the command again immediately, while old workers may still be
  alive;
* kills two workers at random moments of a run, which must end by itself;
* fills the disk: the results lie on a small tmpfs or, where none can be mounted, the size of files is limited (RLIMIT_FSIZE).
  The run must report it in one line, and the same command must resume once there is space.

Each time `objects.parquet` and every CSV must be byte-identical to those of the uninterrupted run.
"""

import argparse
import contextlib
import functools
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from performance import runs  # noqa: E402  # it is no installed package

#: Seconds after the death of the parent within which its workers must have ended.
_ORPHANS_GONE_S = 60


class Trials:
    """Interrupted runs of one well, each compared with the uninterrupted one."""

    def __init__(self, plan: runs.RunPlan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.rows: list[dict[str, Any]] = []
        out = folder / "unbroken"
        ended = runs.finish(replace(plan, cache=folder / "cache-unbroken"), out, folder / "unbroken.log")
        if ended.status:
            raise SystemExit(f"the uninterrupted run ended with status {ended.status}: {ended.output}")
        self.seconds = ended.seconds
        self.wanted = runs.tables_of(out)
        self.stored_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())

    def _new(self) -> tuple[runs.RunPlan, Path, Path]:
        # A new cache as well, so that some kills happen while the reference set is embedded.
        name = f"trial-{len(self.rows):03d}"
        return replace(self.plan, cache=self.folder / name / "cache"), self.folder / name / "out", self._log(name)

    def _log(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name / "log"

    def _record(self, mode: str, at_s: float, ended: runs.Ended, out: Path, **more: Any) -> None:
        differ = runs.differing(runs.tables_of(out), self.wanted)
        same = ended.status == 0 and not differ
        row = {"mode": mode, "at_s": round(at_s, 2), "status": ended.status, "same": same, **more}
        self.rows.append({**row, "differ": ",".join(differ), "message": "" if same else ended.output[-500:]})
        print(f"{len(self.rows):>3} {mode} at {at_s:.1f} s: {'the same' if same else 'DIFFERENT'}", flush=True)
        if same:
            shutil.rmtree(out.parent, ignore_errors=True)

    def kill_run(self, at_s: float, parent_only: bool) -> bool:
        """Kill a run after `at_s` seconds and run the command again; return False if the run had already ended."""
        plan, out, log = self._new()
        process = runs.start(plan, out, log)
        time.sleep(at_s)
        if process.poll() is not None:
            shutil.rmtree(out.parent)
            return False
        (runs.kill_parent if parent_only else runs.kill_group)(process)
        killed = time.monotonic()
        done = sum(1 for _ in out.glob("slides/**/zarr.json"))
        ended = runs.finish(plan, out, log)
        more: dict[str, Any] = {"groups_kept": done}
        if parent_only:
            while runs.group_of(process) and time.monotonic() - killed < _ORPHANS_GONE_S:
                time.sleep(0.2)
            more["orphans"] = len(runs.group_of(process))
            runs.kill_group(process)
        self._record("parent killed" if parent_only else "run killed", at_s, ended, out, **more)
        return True

    def kill_workers(self, moments_s: tuple[float, float], draw: random.Random) -> bool:
        """Kill one worker at each of two moments of a run; return False if the run had already ended."""
        plan, out, log = self._new()
        started = time.monotonic()
        process = runs.start(plan, out, log)
        killed = 0
        for at_s in sorted(moments_s):
            time.sleep(max(0.0, at_s - (time.monotonic() - started)))
            if process.poll() is None and (workers := runs.workers_of(process)):
                draw.choice(workers).kill()
                killed += 1
        status = process.wait(600)
        runs.kill_group(process)
        if killed < len(moments_s):
            shutil.rmtree(out.parent)
            return False
        ended = runs.Ended(status, log.read_text(errors="replace"), time.monotonic() - started)
        self._record("two workers killed", moments_s[0], ended, out)
        return True

    def fill_disk(self, share: float) -> None:
        """Run with disk space for the fraction `share` of the stored bytes, then with enough space."""
        plan, out, log = self._new()
        with _small_disk(out.parent / "disk", max(2**18, int(self.stored_bytes * share))) as disk:
            if disk is None:
                limit = max(4096, int(share * max(path.stat().st_size for path in self.folder.glob("unbroken/**/*"))))
                limits = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
                first = runs.finish(plan, out, log, preexec_fn=limits)
                mode = "RLIMIT_FSIZE"
            else:
                out = out.parent / "disk" / "out"
                first = runs.finish(plan, out, log)
                subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
                mode = "tmpfs full"
            lines = first.output.strip().splitlines() or [""]
            message = first.status == 2 and "no space left" in lines[-1] and "Traceback" not in first.output
            ended = runs.finish(plan, out, log)
            self._record(mode, share, ended, out, message=message, full_status=first.status)
            if not message:
                self.rows[-1].update(same=False, message=first.output[-500:])


@contextlib.contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[Path | None]:
    """Mount a tmpfs of this size at `folder`; yield None if that is not permitted."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


MODES = ("run", "parent", "workers", "disk")


def measure(trials: Trials, modes: Sequence[str], count: int, draw: random.Random) -> None:
    """Run the trials of `modes`; a kill after the end of a run is repeated at an earlier moment."""
    for index in range(count if "run" in modes else 0):
        at_s = (index + draw.random()) / count * trials.seconds
        while not trials.kill_run(at_s, parent_only=False):
            at_s *= 0.9
    fewer = max(1, count // 3)
    for index in range(fewer if "parent" in modes else 0):
        at_s = (index + draw.random()) / fewer * trials.seconds
        while not trials.kill_run(at_s, parent_only=True):
            at_s *= 0.9
    for _ in range(fewer if "workers" in modes else 0):
        scale = trials.seconds
        while not trials.kill_workers((draw.uniform(0.25, 0.9) * scale, draw.uniform(0.25, 0.9) * scale), draw):
            scale *= 0.9
    for share in (0.1, 0.4, 0.7, 0.95) if "disk" in modes else ():
        trials.fill_disk(share)


def summary(rows: list[dict[str, Any]]) -> list[Mapping[str, object]]:
    """Return one row per mode."""
    lines: list[Mapping[str, object]] = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        mine = [row for row in rows if row["mode"] == mode]
        orphans = sum(row.get("orphans", 0) for row in mine)
        same = sum(row["same"] for row in mine)
        lines.append({"mode": mode, "trials": len(mine), "the same tables": same, "orphans left": orphans})
    return lines


def main() -> None:
    """Measure and print; exit status 1 if any run gave different tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="number of kills of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="kinds of interruption [default: all]")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the figures there (JSON)")
    options = parser.parse_args()
    more = ("--reference", str(ROOT / "sample_slides" / "reference"), "--workers", str(options.workers))
    with tempfile.TemporaryDirectory() as folder:
        plan = runs.RunPlan(ROOT / "sample_slides" / "well", more, Path(folder) / "cache")
        trials = Trials(plan, Path(folder))
        print(f"uninterrupted: {trials.seconds:.1f} s, {trials.stored_bytes / 1e6:.1f} MB", flush=True)
        measure(trials, options.modes, options.count, random.Random(options.seed))
    runs.print_table(summary(trials.rows))
    for row in trials.rows:
        if not row["same"]:
            print(row)
    if options.out:
        figures = {"unbroken_s": trials.seconds, "stored_bytes": trials.stored_bytes, "trials": trials.rows}
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if all(row["same"] for row in trials.rows) else 1)


if __name__ == "__main__":
    main()
