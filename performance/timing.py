"""Timers: medians of alternating calls, calls in several processes at once, and whole command lines."""

import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent

#: Interval at which the resident memory of a run's processes is sampled.
_LOOK_S = 0.25


@dataclass(frozen=True)
class Timing:
    """Median wall seconds and CPU seconds (user and system) over `runs` runs."""

    wall_s: float
    cpu_s: float
    runs: int


def median(timings: Sequence[tuple[float, float]]) -> Timing:
    """Return the median of wall seconds and the median of CPU seconds."""
    walls, cpus = zip(*timings, strict=True)
    return Timing(statistics.median(walls), statistics.median(cpus), len(timings))


def clocked(call: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one call in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Time calls in turn for `repeats` rounds, so that a disturbance of the machine affects all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(clocked(call))
    return {name: median(timings) for name, timings in taken.items()}


Prepare = Callable[..., Callable[[], object]]


def at_once(prepare: Prepare, arguments: Sequence[tuple[Any, ...]], repeats: int) -> Timing:
    """Time a job in several processes that start it at the same moment.

    Args:
        prepare: a module-level function that prepares the job in its process (imports, loading) and returns it; not timed.
        arguments: the arguments of `prepare`, one tuple per process.
        repeats: number of rounds; if more than one, a first round warms up and is not counted.

    Returns:
        Wall seconds from the start to the end of the last process, and CPU seconds of all processes.
    """
    context = multiprocessing.get_context("spawn")
    barrier, output = context.Barrier(len(arguments)), context.SimpleQueue()
    processes = [
        context.Process(target=_do_at_once, args=(prepare, one, repeats + (repeats > 1), barrier, output))
        for one in arguments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(
                f"a process of {prepare.__module__}.{prepare.__qualname__} ended with {process.exitcode}"
            )
    by_process: list[list[tuple[float, float, float]]] = [output.get() for _ in processes]
    rounds = list(zip(*by_process, strict=True))[1 if repeats > 1 else 0 :]
    return median(
        [
            (max(end for _, end, _ in one) - min(start for start, _, _ in one), sum(cpu for _, _, cpu in one))
            for one in rounds
        ]
    )


def _do_at_once(prepare: Prepare, arguments: tuple[Any, ...], rounds: int, barrier: Barrier, output: Any) -> None:
    try:
        job = prepare(*arguments)
        taken = []
        for _ in range(rounds):
            barrier.wait()
            cpu, start = (
                time.process_time(),
                time.monotonic(),
            )  # the monotonic clock is the same for all processes of a machine
            job()
            taken.append((start, time.monotonic(), time.process_time() - cpu))
        output.put(taken)
    except BaseException:
        barrier.abort()  # otherwise the other processes wait forever
        raise


@dataclass(frozen=True)
class Ran:
    """A finished command: seconds of all its processes, and the peak resident memory of the parent and of its largest child."""

    wall_s: float
    cpu_s: float
    parent_peak_mb: float
    worker_peak_mb: float


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process so far; on systems other than Linux, its current memory."""
    status = Path(f"/proc/{pid}/status")
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else int(psutil.Process(pid).memory_info().rss)


def run_slidepipe(arguments: Sequence[str | Path], cache: Path, watch: bool = False) -> Ran:
    """Run `slidepipe` with `arguments` in a separate process, with its cache folder at `cache`.

    Raises:
        RuntimeError: the command failed; the message contains its stderr.
    """
    command = [sys.executable, "-m", "slidepipe.cli", *map(str, arguments)]
    paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "SLIDEPIPE_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    parent, children = 0, dict[int, int]()
    with tempfile.TemporaryFile(
        "w+", encoding="utf-8"
    ) as output:  # a pipe that nobody reads would block a run with many messages
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=output, cwd=ROOT)
        while watch and process.poll() is None:
            try:
                parent = max(parent, peak_bytes(process.pid))
                for child in psutil.Process(process.pid).children(recursive=True):
                    children[child.pid] = max(children.get(child.pid, 0), peak_bytes(child.pid))
            except psutil.NoSuchProcess:
                continue
            time.sleep(_LOOK_S)
        process.wait()
        wall = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text.strip()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(wall, cpu, parent / 1e6, max(children.values(), default=0) / 1e6)
