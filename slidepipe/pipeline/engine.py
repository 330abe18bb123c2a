"""Running tasks on a Dask cluster. Only this module and `slidepipe.pipeline.cluster` import Dask.

The work on a slide is a generator that yields batches of `Task` and receives their results. `Engine.drive` runs many such
generators at the same time, with a limited number of tasks and slides in progress.
"""

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, Self

import distributed

from slidepipe.errors import ClusterError, SettingsError, WorkerDiedError
from slidepipe.paths import relocate
from slidepipe.pipeline.cluster import CPU as CPU_ONLY
from slidepipe.pipeline.cluster import GPU, connect

logger = logging.getLogger(__name__)

#: Tasks submitted per worker thread: enough that no worker waits for this process, and few enough to stop soon.
_TASKS_PER_THREAD = 3
#: Slides in progress beyond one per thread, so that no worker is idle when a slide ends.
_SLIDES_AHEAD = 2
#: Seconds between two looks at the size of the cluster, which may grow or shrink.
_SIZE_EVERY_S = 10.0
#: Seconds that a cluster may be without workers before the run gives up.
_WITHOUT_WORKERS_S = 600.0
#: Seconds between two checks for finished tasks; much shorter than any task.
_POLL_S = 0.01


@dataclass(frozen=True)
class Task:
    """A function call to run in a worker.

    Attributes:
        call: the function.
        args: its arguments, which can be pickled.
        gpu: run it in a worker that has a GPU, if there is one.
        counts_for: name of the stage whose progress the task counts for; empty if it counts for none.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...]
    gpu: bool = False
    counts_for: str = ""


Work = Generator[list[Task], list[Any], None]
#: Receives each task that succeeded: the task, its result, and the seconds that it took in the worker.
OnDone = Callable[[Task, Any, float], None]


class Engine:
    """Runs tasks on a Dask cluster.

    Args:
        scheduler: which cluster; see `slidepipe.pipeline.cluster.connect`.
        workers: number of processes or threads to start; None for one per core.
        paths: folders of this machine, and where the workers have the same folders. Paths in the arguments of tasks are
            replaced accordingly.
        options: further arguments of `slidepipe.pipeline.cluster.connect`.

    Raises:
        SettingsError: the cluster cannot be used, or it has no workers.
    """

    def __init__(
        self, scheduler: str, workers: int | None, paths: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self._scheduler, self._paths = scheduler, dict(paths or {})
        self._shown = bool(options.get("dashboard")) or scheduler not in ("local", "threads")
        self._stack = contextlib.ExitStack()
        self._client = self._stack.enter_context(connect(scheduler, workers, **options))
        self._measured, self._without_workers_since = 0.0, math.inf
        self._threads, self._lanes = 0, {False: 0, True: 0}
        self._measure()
        if self._threads == 0:
            self._stack.close()
            where = f"--scheduler-file {scheduler}" if scheduler.endswith(".json") else scheduler
            raise SettingsError(f"scheduler {scheduler}: it has no workers. Start a worker with: dask worker {where}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect from the cluster, and stop it if this engine started it. It can be called twice."""
        self._stack.close()

    @property
    def threads(self) -> int:
        """Number of tasks that the cluster can run at once."""
        return self._threads

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard, or None if there is none."""
        return str(self._client.dashboard_link) if self._shown else None

    def map(self, tasks: Iterable[Task]) -> list[Any]:
        """Run tasks at the same time and return their results in order. The error of the earliest failed task is raised."""
        collected: list[Any] = []

        def steps() -> Work:
            collected.extend((yield list(tasks)))

        for _, error in self.drive([("map", steps())]):
            if error is not None:
                raise error
        return collected

    def run_on_every_worker(self, call: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Call a function in every worker.

        Args:
            call: the function.
            args: its arguments; paths are replaced by the workers' own.

        Returns:
            the results by the worker's address.
        """
        moved = [relocate(value, self._paths) for value in args]
        return dict(self._client.run(call, *moved))

    def drive(
        self, works: Iterable[tuple[str, Work]], on_done: OnDone | None = None
    ) -> Iterator[tuple[str, Exception | None]]:
        """Run named generators to their ends, and yield each name as it ends, with its error or None.

        An error of a task is thrown into its generator, which may catch it. If several tasks of a batch fail, it is the error
        of the earliest one, whichever worker was faster, so that a run reports the same error every time.

        Args:
            works: names and generators; each generator is started when a worker is free.
            on_done: receives each task that succeeded.

        Raises:
            ClusterError: the cluster is lost.
        """
        yield from _Drive(self, works, on_done).run()

    def submit(self, task: Task) -> Any:
        """Submit one task to the cluster, and return the future of its result and its duration in seconds."""
        resource = {}
        if self._lanes[True]:  # some workers have a GPU, and only those get the tasks that use one
            resource = {"resources": {GPU if task.gpu else CPU_ONLY: 1}} if task.gpu or self._has_cpu_lane else {}
        args = tuple(relocate(value, self._paths) for value in task.args)
        return self._client.submit(_timed, task.call, args, pure=False, **resource)

    def slots(self, gpu: bool) -> int:
        """Return how many tasks of a lane may be submitted at once. It follows the size of the cluster.

        Args:
            gpu: the lane of the GPUs, or the common one.
        """
        self.check_size()
        return max(1, self._lanes[gpu]) * _TASKS_PER_THREAD

    def check_size(self) -> None:
        """Measure the size of the cluster, at most every ten seconds.

        Raises:
            ClusterError: the cluster has had no workers for ten minutes.
        """
        if monotonic() - self._measured < _SIZE_EVERY_S:
            return
        self._measure()
        if self._threads:
            self._without_workers_since = math.inf
        elif self._without_workers_since == math.inf:
            self._without_workers_since = monotonic()
            logger.warning("scheduler %s has no workers left; waiting for new ones", self._scheduler)
        elif monotonic() - self._without_workers_since > _WITHOUT_WORKERS_S:
            raise ClusterError(
                f"scheduler {self._scheduler} has had no workers for {_WITHOUT_WORKERS_S / 60:.0f} minutes. Start one and run "
                "the same command again: finished work is kept"
            )

    def lane(self, task: Task) -> bool:
        """Return the lane of a task: that of the GPUs (True) if there are any, or the common one (False)."""
        return task.gpu and self._lanes[True] > 0

    def _measure(self) -> None:
        workers = self._client.scheduler_info()["workers"].values()
        self._threads = sum(int(worker["nthreads"]) for worker in workers)
        gpus = sum(int(worker["resources"].get(GPU, 0)) for worker in workers)
        self._has_cpu_lane = any(CPU_ONLY in worker["resources"] for worker in workers)
        self._lanes = {True: gpus, False: self._threads - (gpus if self._has_cpu_lane else 0)}
        self._measured = monotonic()


def _timed(call: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, float]:
    started = perf_counter()
    return call(*args), perf_counter() - started


@dataclass
class _Running:
    """A generator in progress.

    Attributes:
        name: its name.
        steps: the generator.
        results: the results of its batch so far.
        missing: number of results still missing.
        failed: index and error of the earliest task of the batch that has failed so far, or None.
    """

    name: str
    steps: Work
    results: list[Any] = field(default_factory=list)
    missing: int = 0
    failed: tuple[int, Exception] | None = None


@dataclass(frozen=True)
class _Entry:
    """A task of a generator's batch, with its index in the batch."""

    work: _Running
    index: int
    task: Task


class _Drive:
    """One call of `Engine.drive`."""

    def __init__(self, engine: Engine, works: Iterable[tuple[str, Work]], on_done: OnDone | None) -> None:
        self._engine, self._waiting, self._on_done = engine, iter(works), on_done
        self._queues: dict[bool, deque[_Entry]] = {False: deque(), True: deque()}
        self._submitted: dict[Any, _Entry] = {}
        # Dask cannot tell which task killed a worker, so every task that was on it is a candidate. Each of them is run again
        # with nothing else on the cluster.
        self._candidates: deque[_Entry] = deque()
        self._running_alone: Any = None
        self._running = 0
        self._ended: list[tuple[str, Exception | None]] = []
        self._arrivals = distributed.as_completed()

    def run(self) -> Iterator[tuple[str, Exception | None]]:
        """Run all generators, and yield the name of each as it ends, with its error or None."""
        try:
            while True:
                self._start_works()
                self._submit()
                yield from self._ended
                self._ended.clear()
                if self._submitted:
                    while not self._arrivals.has_ready():
                        sleep(_POLL_S)
                        self._engine.check_size()
                    self._receive(next(self._arrivals))
                elif self._running == 0:
                    return
        finally:
            for future in self._submitted:
                future.cancel()

    def _start_works(self) -> None:
        while (
            self._running < self._engine.threads + _SLIDES_AHEAD
            and (following := next(self._waiting, None)) is not None
        ):
            self._running += 1
            work = _Running(*following)
            self._advance(work, lambda work=work: next(work.steps))  # type: ignore[misc]  # mypy cannot infer a bound default

    def _submit(self) -> None:
        if self._candidates:
            if not self._submitted:
                self._running_alone = self._submit_entry(self._candidates.popleft())
            return
        if self._running_alone is not None:
            return
        for gpu, queue in self._queues.items():
            submitted = sum(self._engine.lane(entry.task) == gpu for entry in self._submitted.values())
            while queue and submitted < self._engine.slots(gpu):
                self._submit_entry(queue.popleft())
                submitted += 1

    def _submit_entry(self, entry: _Entry) -> Any:
        future = self._engine.submit(entry.task)
        self._submitted[future] = entry
        self._arrivals.add(future)
        return future

    def _receive(self, future: Any) -> None:
        entry = self._submitted.pop(future)
        work, alone = entry.work, future is self._running_alone
        if alone:
            self._running_alone = None
        try:
            result, seconds = future.result()
        except distributed.KilledWorker:
            if not alone:
                self._candidates.append(entry)
                return
            self._fail(entry, WorkerDiedError("the worker process died each time it ran this task (out of memory?)"))
        except distributed.client.FutureCancelledError as error:
            raise ClusterError(
                "the connection to the Dask scheduler is lost. Start it again and run the same command: finished work is kept"
            ) from error
        except Exception as error:
            self._fail(entry, error)
        else:
            work.results[entry.index] = result
            if self._on_done is not None:
                self._on_done(entry.task, result, seconds)
            work.missing -= 1
        future.release()
        self._settle(work)

    def _fail(self, entry: _Entry, error: Exception) -> None:
        work = entry.work
        if work.failed is None or entry.index < work.failed[0]:
            work.failed = entry.index, error
        # Later tasks of a failed batch are not needed. Earlier ones are: if one of them fails too, its error is reported.
        last = work.failed[0]
        for queue in (*self._queues.values(), self._candidates):
            kept = [other for other in queue if other.work is not work or other.index < last]
            queue.clear()
            queue.extend(kept)
        late = [future for future, other in self._submitted.items() if other.work is work and other.index > last]
        for future in late:
            del self._submitted[future]
            future.cancel()
        if late:
            self._arrivals = distributed.as_completed()
            for future in self._submitted:
                self._arrivals.add(future)

    def _settle(self, work: _Running) -> None:
        if work.failed is not None:
            entries = (*self._submitted.values(), *self._candidates, *self._queues[False], *self._queues[True])
            if not any(entry.work is work for entry in entries):
                error = work.failed[1]
                work.failed = None
                self._advance(work, lambda: work.steps.throw(error))
        elif work.missing == 0:
            self._advance(work, lambda: work.steps.send(work.results))

    def _advance(self, work: _Running, send: Callable[[], Sequence[Task]]) -> None:
        try:
            tasks = send()
            while not tasks:
                tasks = work.steps.send([])
        except StopIteration:
            self._running -= 1
            self._ended.append((work.name, None))
        except Exception as error:
            self._running -= 1
            self._ended.append((work.name, error))
        else:
            work.results, work.missing = [None] * len(tasks), len(tasks)
            for index, task in enumerate(tasks):
                self._queues[self._engine.lane(task)].append(_Entry(work, index, task))
