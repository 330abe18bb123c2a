"""Where the work is done: a Dask cluster started here, one that is joined, or one that a queueing system lends."""

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

#: The resources by which Dask sends tasks that want a card to the processes that hold one, and the others past them.
GPU, CPU = "GPU", "CPU"

#: How long a queueing system may take to start the first worker.
_QUEUE_WAIT_S = 24 * 3600


@contextlib.contextmanager
def connect(
    scheduler: str,
    workers: int | None,
    gpus: Sequence[int] = (),
    dashboard: bool = False,
    jobqueue: Mapping[str, Any] | None = None,
) -> Iterator[distributed.Client]:
    """A client of the cluster that ``scheduler`` names, and that cluster while it is used.

    Args:
        scheduler: ``local`` (processes), ``threads``, ``slurm``, ``tcp://HOST:PORT`` or a scheduler file.
        workers: processes or threads started; one a core if None. One joined has the workers it has.
        gpus: numbers of the GPUs of this machine that get a worker process each ("local" only).
        dashboard: whether a cluster started here shows Dask's dashboard.
        jobqueue: settings of a job, as dask-jobqueue's ``SLURMCluster`` takes them (``slurm`` only).

    Raises:
        SettingsError: it cannot be reached or started.
    """
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": "10s",
            # A task that was on a worker that died goes to another; after the third death it is looked at alone (see Engine).
            "distributed.scheduler.allowed-failures": 2,
        }
    )
    # What fails in a task is told by the run itself, with the slide it happened to; Dask's own tracebacks would hide that.
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
            logger.info("%d jobs handed in; waiting for the first to start", count, extra={"event": "queued"})
            client.wait_for_workers(1, timeout=_QUEUE_WAIT_S)
        yield client


def _start(specs: Mapping[str, Any], dashboard: bool) -> distributed.SpecCluster:
    # The scheduler serves a page of its health in any case. All of it is for this machine alone.
    page = {"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "port": 0, **page}}
    with warnings.catch_warnings(), _interrupts_for_the_run_alone():
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        return distributed.SpecCluster(scheduler=scheduler, workers=specs, silence_logs=logging.CRITICAL)


def _worker(kind: type, threads: int, **options: Any) -> dict[str, Any]:
    own = {
        "host": "127.0.0.1",
        "nthreads": threads,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "memory_limit": 0,  # the run bounds its own memory; Dask would pause workers by guess
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
            "scheduler slurm: needs the package dask-jobqueue. Install it with: pip install 'slidepipe[slurm]'"
        ) from error
    if shutil.which("sbatch") is None:
        raise SettingsError("scheduler slurm: there is no 'sbatch' here. Start the run where jobs can be submitted")
    # Told here, since a cluster that was made by halves complains on its own when it is cleared away.
    takers = (JobQueueCluster.__init__, Job.__init__, SLURMJob.__init__)
    known = {name for taker in takers for name in inspect.signature(taker).parameters} - {"self", "kwargs"}
    wrong = sorted(set(jobqueue) - known)
    missing = [name for name in ("cores", "memory") if name not in jobqueue]
    if wrong or missing:
        problem = f"'{wrong[0]}' is unknown" if wrong else f"there is no {missing[0]}"
        raise SettingsError(f"setting 'run.jobqueue': {problem}. It takes what dask-jobqueue's SLURMCluster takes")
    try:
        cluster: Any = SLURMCluster(**jobqueue)
        cluster.scale(jobs=workers)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"setting 'run.jobqueue' does not suit dask-jobqueue's SLURMCluster: {error}") from error
    return cluster


def _join(scheduler: str) -> distributed.Client:
    address = {"scheduler_file": scheduler} if Path(scheduler).suffix == ".json" else {"address": scheduler}
    if "scheduler_file" in address and not Path(scheduler).exists():
        raise SettingsError(
            f"scheduler {scheduler}: no such file. Start one with: dask scheduler --scheduler-file {scheduler}"
        )
    try:
        return distributed.Client(**address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(
            f"scheduler {scheduler}: cannot be reached ({error}). Is 'dask scheduler' running there?"
        ) from error


def _visible_gpu(gpu: int) -> str:
    # If a queueing system has assigned some GPUs to this process, the numbers count among those.
    assigned = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return assigned[gpu] if gpu < len(assigned) else str(gpu)


@contextlib.contextmanager
def _interrupts_for_the_run_alone() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all processes, is for the run to hear: it ends the others.

    Threads and processes started meanwhile, and those they start later in place of dead ones, block it. One that comes now is
    heard when all have started.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It would unblock the signal when it starts: it starts now.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
