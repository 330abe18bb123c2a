"""Runs in separate processes, for measurements and tests that kill, damage or distribute them."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class RunPlan:
    """A run: the well, the options after `slidepipe run WELL --out RESULTS`, the cache folder, and a prefix of the command."""

    well: Path
    options: tuple[str, ...]
    cache: Path
    prefix: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        """Return the command that counts the well into `out`."""
        command = [*self.prefix, sys.executable, "-m", "slidepipe.cli", "run", str(self.well), "--out", str(out)]
        return [*command, *self.options]

    def environment(self) -> dict[str, str]:
        """Return the environment variables: one thread per process, so that a run uses one core per worker, and its own cache."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SLIDEPIPE_CACHE": str(self.cache)}


@dataclass(frozen=True)
class Ended:
    """A run that ended by itself."""

    status: int
    output: str
    seconds: float


def start(plan: RunPlan, out: Path, log: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a run in its own session; its output goes to `log`. `options` are passed to Popen."""
    with log.open("wb") as file:
        return subprocess.Popen(
            plan.command(out),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=plan.environment(),
            start_new_session=True,
            **options,
        )


def finish(plan: RunPlan, out: Path, log: Path, timeout_s: float = 600, **options: Any) -> Ended:
    """Run to the end.

    Raises:
        TimeoutExpired: the run took longer than `timeout_s` and was killed.
    """
    started = time.monotonic()
    process = start(plan, out, log, **options)
    try:
        status = process.wait(timeout_s)
    finally:
        kill_group(process)
    return Ended(status, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started)


def obey_modes() -> None:
    """Drop the right of root to ignore file modes (Linux); for `preexec_fn`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _IGNORE_MODES:
        if os.getuid() == 0 and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the capability to read every file cannot be given up")


#: From linux/prctl.h and linux/capability.h: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_PR_CAPBSET_DROP, _IGNORE_MODES = 24, (1, 2)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to the whole run, parent and workers at once."""
    with contextlib.suppress(ProcessLookupError):  # all processes have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_parent(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to the parent only; its workers must notice and end."""
    process.kill()
    process.wait()


def group_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """Return the processes of the run's group that are still alive."""
    alive = []
    for other in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(other.pid) == process.pid and other.info["status"] != psutil.STATUS_ZOMBIE:
                alive.append(other.pid)
        except ProcessLookupError:
            continue
    return alive


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return the worker processes of a run, sorted by process id."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(workers, key=lambda worker: worker.pid)


def wait_until(process: "subprocess.Popen[bytes]", seen: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Return whether `seen` became true while the run was in progress."""
    until = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < until:
        if seen():
            return True
        time.sleep(0.005)
    return False


def tables_of(out: Path) -> dict[str, bytes]:
    """Return the bytes of `objects.parquet` and every CSV of a RESULTS folder, by name."""
    return {path.name: path.read_bytes() for path in sorted([*out.glob("*.csv"), *out.glob("objects.parquet")])}


def differing(tables: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """Return the names of tables that differ."""
    return sorted(name for name in {*tables, *wanted} if tables.get(name) != wanted.get(name))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows that have the same keys as a table."""
    if not rows:
        return
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def separate_cluster(
    plan: RunPlan, folder: Path, hosts: Sequence[tuple[Sequence[str], str]], timeout_s: float = 60
) -> Iterator[str]:
    """Start a `dask scheduler` and `dask worker` processes, each in its own working directory.

    Args:
        plan: the run whose environment variables they get.
        folder: parent of their working directories and logs.
        hosts: first the scheduler's, then each worker's prefix of the command (such as `ip netns exec NAME`) and the
            address to listen on.
        timeout_s: largest number of seconds until they have started.

    Yields:
        The address of the scheduler.
    """
    file = folder / "scheduler.json"
    (before, address), *workers = hosts
    commands = [[*before, sys.executable, "-m", "dask", "scheduler", "--host", address, "--port", "0"]]
    commands[0] += ["--no-dashboard", "--scheduler-file", str(file)]
    for prefix, own in workers:
        command = [*prefix, sys.executable, "-m", "dask", "worker", "--scheduler-file", str(file), "--host", own]
        commands.append([*command, "--nthreads", "1", "--no-dashboard", "--local-directory", "."])
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            here = folder / f"cwd-{number}"
            here.mkdir()
            with (here / "log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=here, env=plan.environment(), stdout=log, stderr=log, start_new_session=True
                    )
                )
        until = time.monotonic() + timeout_s
        while not all(
            (folder / f"cwd-{number + 1}" / "log").read_text().count("Registered to") for number in range(len(workers))
        ):
            if time.monotonic() > until or any(process.poll() is not None for process in processes):
                logs = [(folder / f"cwd-{number}" / "log").read_text()[-500:] for number in range(len(processes))]
                raise RuntimeError(f"the cluster does not start: {logs}")
            time.sleep(0.1)
        yield str(json.loads(file.read_text())["address"])
    finally:
        for process in processes:
            kill_group(process)
