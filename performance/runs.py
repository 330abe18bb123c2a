"""Runs as processes of their own, for measurements and tests that kill, damage or divide them."""

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
    """What is run: a well, options that follow ``slidepipe run WELL --out RESULTS``, a cache, and what stands before it all."""

    well: Path
    options: tuple[str, ...]
    cache: Path
    prefix: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        """The command that counts the well into ``out``."""
        command = [*self.prefix, sys.executable, "-m", "slidepipe.cli", "run", str(self.well), "--out", str(out)]
        return [*command, *self.options]

    def environment(self) -> dict[str, str]:
        """One thread a process, so that a run takes the cores that its workers are given; a cache of its own."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SLIDEPIPE_CACHE": str(self.cache)}


@dataclass(frozen=True)
class Ended:
    """A run that came to its own end."""

    status: int
    told: str
    seconds: float


def start(plan: RunPlan, out: Path, log: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a run in its own session; what it says goes to ``log``. ``options`` go to Popen."""
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
    """Run to the end; a run that takes longer than ``timeout_s`` is killed, and TimeoutExpired raised."""
    started = time.monotonic()
    process = start(plan, out, log, **options)
    try:
        status = process.wait(timeout_s)
    finally:
        kill_group(process)
    return Ended(status, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started)


def obey_modes() -> None:
    """For ``preexec_fn``: what is started may read no file whose mode forbids it, though it be root's (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _IGNORE_MODES:
        if os.getuid() == 0 and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the capability to read every file cannot be given up")


#: From linux/prctl.h and linux/capability.h: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_PR_CAPBSET_DROP, _IGNORE_MODES = 24, (1, 2)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL the whole run, parent and workers at once."""
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_parent(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL the parent only; its workers have to notice."""
    process.kill()
    process.wait()


def group_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """Processes of the run's group that are still alive."""
    alive = []
    for other in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(other.pid) == process.pid and other.info["status"] != psutil.STATUS_ZOMBIE:
                alive.append(other.pid)
        except ProcessLookupError:
            continue
    return alive


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The worker processes of a run, by their process ids."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(workers, key=lambda worker: worker.pid)


def wait_until(process: "subprocess.Popen[bytes]", seen: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Whether ``seen`` came true while the run was going on."""
    until = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < until:
        if seen():
            return True
        time.sleep(0.005)
    return False


def tables_of(out: Path) -> dict[str, bytes]:
    """``objects.parquet`` and every CSV of a RESULTS folder, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted([*out.glob("*.csv"), *out.glob("objects.parquet")])}


def differing(tables: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """Names of tables that are not the same in both."""
    return sorted(name for name in {*tables, *wanted} if tables.get(name) != wanted.get(name))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of the same keys as a table."""
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
    """A ``dask scheduler`` and ``dask worker`` processes, each started in a working directory of its own.

    Args:
        plan: whose environment they have.
        folder: where their working directories and logs go.
        hosts: the scheduler's, then each worker's: what stands before the command (such as ``ip netns exec NAME``), and the
            address to listen at.
        timeout_s: how long they may take to start.

    Yields:
        The scheduler's address.
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
