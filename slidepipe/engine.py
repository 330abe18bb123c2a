"""The seam between the work and Dask: the only module that imports it.

Work on a slide is a generator that yields batches of :class:`Task` and is sent their results; :meth:`Engine.drive` runs many
such generators side by side on a Dask cluster, with a bounded number of tasks and slides in flight.
"""

import contextlib
import logging
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dask
import distributed

from slidepipe.errors import SettingsError

#: Tasks given to the cluster at a time, for each worker thread: enough that none waits for the parent, few enough to stop soon.
_TASKS_PER_THREAD = 3
#: Slides under work at a time beyond one a thread, so that workers do not idle where one slide ends.
_SLIDES_AHEAD = 2


@dataclass(frozen=True)
class Task:
    """A function of picklable arguments, to be run in a worker."""

    call: Callable[..., Any]
    args: tuple[Any, ...]


Work = Generator[list[Task], list[Any], None]


@dataclass
class _Running:
    name: str
    steps: Work
    results: list[Any]
    missing: int


class Engine:
    """A Dask cluster: started here (``local`` processes, ``threads``) or joined (``tcp://HOST:PORT``, a scheduler file)."""

    def __init__(self, scheduler: str, workers: int | None) -> None:
        self._stack = contextlib.ExitStack()
        self._client = self._stack.enter_context(_connect(scheduler, workers))
        threads = sum(self._client.nthreads().values())
        if threads == 0:
            self._stack.close()
            raise SettingsError(f"scheduler {scheduler}: it has no workers. Start some with: dask worker {scheduler}")
        self._threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def map(self, tasks: Iterable[Task]) -> list[Any]:
        """Run tasks side by side and return their results in order; the first error is raised."""
        collected: list[Any] = []

        def steps() -> Work:
            collected.extend((yield list(tasks)))

        for _, error in self.drive([("map", steps())]):
            if error is not None:
                raise error
        return collected

    def drive(
        self, works: Iterable[tuple[str, Work]], on_done: Callable[[Task, Any], None] | None = None
    ) -> Iterator[tuple[str, Exception | None]]:
        """Run named generators to their ends; yields each name as it ends, with the error that ended it or None.

        An error of a task is thrown into its generator, which may catch it. ``on_done`` hears of each task that succeeded.
        """
        waiting = iter(works)
        queue: deque[tuple[_Running, int, Task]] = deque()
        flying: dict[Any, tuple[_Running, int, Task]] = {}
        running = 0
        ended: list[tuple[str, Exception | None]] = []
        arrivals = distributed.as_completed()

        def advance(work: _Running, send: Callable[[], list[Task]]) -> None:
            nonlocal running
            try:
                tasks = send()
                while not tasks:
                    tasks = work.steps.send([])
            except StopIteration:
                running -= 1
                ended.append((work.name, None))
            except Exception as error:
                running -= 1
                ended.append((work.name, error))
            else:
                work.results, work.missing = [None] * len(tasks), len(tasks)
                queue.extend((work, index, task) for index, task in enumerate(tasks))

        try:
            while True:
                while running < self._threads + _SLIDES_AHEAD and (following := next(waiting, None)) is not None:
                    running += 1
                    work = _Running(following[0], following[1], [], 0)
                    advance(work, lambda work=work: next(work.steps))  # type: ignore[misc]  # mypy cannot infer a bound default
                while queue and len(flying) < self._threads * _TASKS_PER_THREAD:
                    work, index, task = queue.popleft()
                    future = self._client.submit(task.call, *task.args, pure=False)
                    flying[future] = (work, index, task)
                    arrivals.add(future)
                yield from ended
                ended.clear()
                if not flying:
                    if running == 0:
                        return
                    continue
                future = next(arrivals)
                work, index, flown = flying.pop(future)
                try:
                    work.results[index] = future.result()
                except Exception as error:
                    # The rest of a failed batch is of no use: what waits is dropped, what flies is let go.
                    queue = deque(entry for entry in queue if entry[0] is not work)
                    for other in [other for other, (owner, _, _) in flying.items() if owner is work]:
                        del flying[other]
                        other.cancel()
                    arrivals = _watch(flying)
                    advance(work, lambda work=work, error=error: work.steps.throw(error))  # type: ignore[misc]
                    continue
                future.release()
                if on_done is not None:
                    on_done(flown, work.results[index])
                work.missing -= 1
                if work.missing == 0:
                    advance(work, lambda work=work: work.steps.send(work.results))  # type: ignore[misc]
        finally:
            for future in flying:
                future.cancel()


def _watch(futures: Iterable[Any]) -> Any:
    arrivals = distributed.as_completed()
    for future in futures:
        arrivals.add(future)
    return arrivals


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to all: the run alone hears it, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _connect(scheduler: str, workers: int | None) -> Iterator[distributed.Client]:
    dask.config.set({"distributed.comm.timeouts.connect": "10s"})
    if scheduler in ("local", "threads"):
        processes = scheduler == "local"
        count = workers or dask.system.CPU_COUNT
        # What fails in a task is told by the run itself, with the slide it happened to; Dask's own tracebacks would hide that.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            with _interrupts_ignored():
                cluster = distributed.LocalCluster(
                    n_workers=count if processes else 1,
                    threads_per_worker=1 if processes else count,
                    processes=processes,
                    dashboard_address=None,
                    memory_limit=0,  # the run bounds its own memory; Dask would pause workers by guess
                    silence_logs=logging.CRITICAL,
                )
        with cluster, distributed.Client(cluster) as client:
            yield client
        return
    address = {"scheduler_file": scheduler} if Path(scheduler).suffix == ".json" else {"address": scheduler}
    if "scheduler_file" in address and not Path(scheduler).exists():
        raise SettingsError(
            f"scheduler {scheduler}: no such file. Start one with: dask scheduler --scheduler-file {scheduler}"
        )
    try:
        client = distributed.Client(**address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(
            f"scheduler {scheduler}: cannot be reached ({error}). Is 'dask scheduler' running there?"
        ) from error
    with client:
        yield client
