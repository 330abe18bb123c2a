"""Dask clusters: one started on this machine, an existing one, or one made of jobs of a queueing system."""

import contextlib
import inspect
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import distributed

from slidepipe.errors import SettingsError

logger = logging.getLogger("slidepipe.run")

#: Names of the Dask resources that send tasks for a GPU to the workers that have one, and other tasks to the other workers.
GPU, CPU = "GPU", "CPU"

#: Seconds that a queueing system may take to start the first worker.
_QUEUE_WAIT_S = 24 * 3600


@contextlib.contextmanager
def connect(
    scheduler: str,
    workers: int | None,
    gpus: Sequence[int] = (),
    dashboard: bool = False,
    jobqueue: Mapping[str, Any] | None = None,
) -> Iterator[distributed.Client]:
    """Connect to a cluster, or start one that lives as long as the context is open.

    Args:
        scheduler: "local" (processes), "threads", "slurm", "tcp://HOST:PORT" or a scheduler file.
        workers: number of processes, threads or jobs to start; None for one per core. An existing cluster keeps its workers.
        gpus: numbers of the GPUs of this machine that get a worker process each ("local" only).
        dashboard: whether a cluster started here serves Dask's dashboard.
        jobqueue: settings of a job, as for dask-jobqueue's `SLURMCluster` ("slurm" only).

    Yields:
        a client of the cluster.

    Raises:
        SettingsError: the cluster cannot be reached or started.
    """
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": "10s",
            # A task whose worker died goes to another worker. After the third time, the engine runs it alone.
            "distributed.scheduler.allowed-failures": 2,
        }
    )
    # The run itself reports an error of a task, with the slide. The tracebacks that Dask logs would hide that message.
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler in ("local", "threads"):
        count = workers or dask.system.CPU_COUNT
        threads = {"threads": _worker(distributed.Worker, count)}
        cluster = _start(_processes(count, gpus) if scheduler == "local" else threads, dashboard)
    elif scheduler == "slurm":
        cluster = _slurm(workers or 1, jobqueue or {})
    else:
        with _join(scheduler) as client:
            yield client
        return
    with cluster, distributed.Client(cluster) as client:
        if scheduler == "slurm":
            count = workers or 1
            logger.info("%d jobs submitted; waiting for the first to start", count, extra={"event": "queued"})
            client.wait_for_workers(1, timeout=_QUEUE_WAIT_S)
        yield client


def _start(specs: Mapping[str, Any], dashboard: bool) -> distributed.SpecCluster:
    # The scheduler always serves an HTTP page. Only this machine can reach it.
    page = {"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "port": 0, **page}}
    with warnings.catch_warnings(), _block_interrupts():
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        return distributed.SpecCluster(scheduler=scheduler, workers=specs, silence_logs=logging.CRITICAL)


def _worker(kind: type, threads: int, **options: Any) -> dict[str, Any]:
    own = {
        "host": "127.0.0.1",
        "nthreads": threads,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "memory_limit": 0,  # the run limits its memory itself; the limit of Dask would pause workers needlessly
        "silence_logs": logging.CRITICAL,
    }
    return {"cls": kind, "options": {**own, **options}}


def _processes(count: int, gpus: Sequence[int]) -> dict[str, Any]:
    own = {"resources": {CPU: 1}} if gpus else {}
    specs = {f"cpu-{number}": _worker(distributed.Nanny, 1, **own) for number in range(count)}
    for gpu in gpus:  # one process per GPU: a second one would only take memory from the first
        seen = {"CUDA_VISIBLE_DEVICES": _visible_gpu(gpu)}
        specs[f"gpu-{gpu}"] = _worker(distributed.Nanny, 1, resources={GPU: 1}, env=seen)
    return specs


def _slurm(workers: int, jobqueue: Mapping[str, Any]) -> Any:
    try:
        from dask_jobqueue.core import Job, JobQueueCluster
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    except ImportError as error:
        raise SettingsError(
            "scheduler slurm: it needs the package dask-jobqueue. Install it with: pip install 'slidepipe[slurm]'"
        ) from error
    if shutil.which("sbatch") is None:
        raise SettingsError("scheduler slurm: no command 'sbatch' here. Start the run where jobs can be submitted")
    # The settings are checked first, because a cluster that is created only in part prints errors of its own when deleted.
    takers = (JobQueueCluster.__init__, Job.__init__, SLURMJob.__init__)
    known = {name for taker in takers for name in inspect.signature(taker).parameters} - {"self", "kwargs"}
    wrong = sorted(set(jobqueue) - known)
    missing = [name for name in ("cores", "memory") if name not in jobqueue]
    if wrong or missing:
        problem = f"'{wrong[0]}' is unknown" if wrong else f"'{missing[0]}' is missing"
        raise SettingsError(f"setting 'run.jobqueue': {problem}. Use the parameters of dask-jobqueue's SLURMCluster")
    try:
        cluster: Any = SLURMCluster(**jobqueue)
        cluster.scale(jobs=workers)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"setting 'run.jobqueue': SLURMCluster rejects it ({error}). Correct the parameter"
        ) from error
    return cluster


def _join(scheduler: str) -> distributed.Client:
    address = {"scheduler_file": scheduler} if Path(scheduler).suffix == ".json" else {"address": scheduler}
    if "scheduler_file" in address and not Path(scheduler).exists():
        raise SettingsError(
            f"scheduler {scheduler}: no such file. Start a scheduler with: dask scheduler --scheduler-file {scheduler}"
        )
    try:
        return distributed.Client(**address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(
            f"scheduler {scheduler}: cannot be reached ({error}). Check that 'dask scheduler' is running there"
        ) from error


def _visible_gpu(gpu: int) -> str:
    # If a queueing system has assigned some GPUs to this process, the numbers count among those.
    assigned = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return assigned[gpu] if gpu < len(assigned) else str(gpu)


@contextlib.contextmanager
def _block_interrupts() -> Iterator[None]:
    """Block Ctrl-C in the threads and processes that start while the context is open, and in those that they start later.

    A terminal sends Ctrl-C to all processes. Only the run itself must receive it, and then stops the others. A Ctrl-C that comes
    while the context is open takes effect when it closes.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # This process of the standard library unblocks the signal when it starts, so it has to start before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
