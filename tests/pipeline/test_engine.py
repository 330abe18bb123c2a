"""The engine: order, errors, dead workers, GPUs, paths and the size of the cluster."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slidepipe.errors import ClusterError, RegionError, SettingsError, WorkerDiedError
from slidepipe.pipeline.engine import Engine, Task, Work


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise RegionError(f"cannot read {number}")


def process_id(wait_s: float) -> int:
    time.sleep(wait_s)
    return os.getpid()


def die_once(mark: str) -> str:
    path = Path(mark)
    if not path.exists():
        path.touch()
        os._exit(9)  # as if the kernel killed the worker
    return "done"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("threads", 2) as started:
        yield started


def test_map_keeps_order(engine: Engine) -> None:
    """The results of `map` have the order of the tasks."""
    assert engine.map(Task(square, (number,)) for number in range(40)) == [number * number for number in range(40)]
    assert engine.map([]) == []


def test_drive_many_generators(engine: Engine) -> None:
    """Generators run at the same time, and each receives the results of its own tasks."""
    got: dict[str, list[int]] = {}

    def work(name: str, count: int) -> Work:
        first = yield [Task(square, (number,)) for number in range(count)]
        nothing = yield []
        second = yield [Task(square, (number,)) for number in first]
        got[name] = nothing + second

    done: list[int] = []
    works = [(f"w{count}", work(f"w{count}", count)) for count in range(9)]
    ended = dict(engine.drive(works, lambda task, result, seconds: done.append(result)))
    assert ended == {f"w{count}": None for count in range(9)}
    assert got == {f"w{count}": [number**4 for number in range(count)] for count in range(9)}
    assert len(done) == 2 * sum(range(9))


def test_error_ends_only_its_generator(engine: Engine) -> None:
    """An error of a task ends its generator, unless that catches it, and no other generator."""

    def good() -> Work:
        yield [Task(square, (3,))]

    def bad() -> Work:
        yield [Task(square, (1,)), Task(fail, (7,)), *(Task(square, (number,)) for number in range(20))]

    def caught() -> Work:
        try:
            yield [Task(fail, (8,))]
        except RegionError:
            yield [Task(square, (2,))]

    ended = dict(engine.drive([("bad", bad()), ("good", good()), ("caught", caught())]))
    assert ended["good"] is None
    assert ended["caught"] is None
    assert isinstance(ended["bad"], RegionError)
    assert "cannot read 7" in str(ended["bad"])
    with pytest.raises(RegionError):
        engine.map([Task(fail, (1,))])


def test_local_processes_and_killed_worker(tmp_path: Path) -> None:
    """Tasks run in worker processes, and a task whose worker dies once is run again."""
    with Engine("local", 2) as engine:
        workers = set(engine.map(Task(process_id, (0.2,)) for _ in range(8)))
        assert len(workers) == 2
        assert os.getpid() not in workers
        marks = [Task(die_once, (str(tmp_path / "mark"),)), Task(square, (5,))]
        assert engine.map(marks) == ["done", 25]


@pytest.mark.slow
def test_missing_scheduler(tmp_path: Path) -> None:
    """A scheduler file or address that does not exist is an error that names it."""
    with pytest.raises(SettingsError, match=r"none.json: no such file"):
        Engine(str(tmp_path / "none.json"), None)
    with pytest.raises(SettingsError, match=r"tcp://127.0.0.1:1: cannot be reached"):
        Engine("tcp://127.0.0.1:1", None)


def die(number: int) -> int:
    os._exit(9)


def fail_after(wait_s: float, number: int) -> int:
    time.sleep(wait_s)
    raise RegionError(f"cannot read {number}")


@pytest.mark.slow
def test_task_that_kills_workers() -> None:
    """A task that kills every worker fails, and the tasks that were on the same workers do not."""

    def work(call: Callable[[int], int], numbers: range) -> Work:
        assert (yield [Task(call, (number,)) for number in numbers]) == [number * number for number in numbers]

    with Engine("local", 1) as engine:
        ended = dict(engine.drive([("deadly", work(die, range(1))), ("good", work(square, range(6)))]))
    assert ended["good"] is None
    assert isinstance(ended["deadly"], WorkerDiedError)
    assert str(ended["deadly"]) == "the worker process died each time it ran this task (out of memory?)"


def test_earliest_error_is_reported(engine: Engine) -> None:
    """If several tasks of a batch fail, the error of the earliest task is reported, whichever worker was faster."""

    def work() -> Work:
        yield [Task(square, (1,)), Task(fail_after, (0.5, 2)), Task(fail_after, (0.0, 3)), Task(fail, (4,))]

    assert "cannot read 2" in str(dict(engine.drive([("work", work())]))["work"])


def test_gpu_tasks_run_in_gpu_workers() -> None:
    """Tasks for a GPU run in the workers that have one, and other tasks in the other workers."""
    with Engine("local", 1, gpus=(0, 1)) as engine:
        tasks = [Task(os.getenv, ("CUDA_VISIBLE_DEVICES", "none"), gpu=bool(number % 2)) for number in range(16)]
        seen = engine.map(tasks)
    assert set(seen[0::2]) == {os.environ.get("CUDA_VISIBLE_DEVICES", "none")}
    assert set(seen[1::2]) <= {"0", "1"}


def test_paths_are_relocated(tmp_path: Path) -> None:
    """Paths in the arguments of tasks are replaced by those of the workers."""
    with Engine("threads", 1, {str(tmp_path): "/elsewhere"}) as engine:
        assert engine.map([Task(str, (tmp_path / "a",)), Task(str, (Path("/other"),))]) == ["/elsewhere/a", "/other"]
        assert list(engine.run_on_every_worker(str, tmp_path).values()) == ["/elsewhere"]


def test_local_cluster_listens_on_loopback() -> None:
    """Only this machine can reach a cluster that was started here."""
    with Engine("local", 1, dashboard=True) as engine, Engine("threads", 1) as quiet:
        address = engine.dashboard
        assert address is not None
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as page:  # noqa: S310  # the address is on the loopback
            assert page.status == 200
        assert quiet.dashboard is None
        own = psutil.Process()
        places = [
            place for process in (own, *own.children(recursive=True)) for place in process.net_connections("inet")
        ]
        listening = {place.laddr.ip for place in places if place.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_ctrl_c_while_cluster_starts() -> None:
    """Ctrl-C during the start of the cluster stops the run, and workers, also restarted ones, never receive it."""
    code = (
        "import os, signal, threading\n"
        "from slidepipe.pipeline.engine import Engine, Task\n"
        "if __name__ == '__main__':\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        Engine('local', 1)\n"
        "        print('ignored')\n"
        "    except KeyboardInterrupt:\n"
        "        print('received')\n"
        "    with Engine('local', 1) as engine:\n"
        "        (pid,) = set(engine.map([Task(os.getpid, ())]))\n"
        "        os.kill(pid, signal.SIGKILL)\n"
        "        print(engine.map([Task(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.splitlines()[0] == "received", result.stderr
    assert "SIGINT" in result.stdout.splitlines()[1]


def test_cluster_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with an error if the cluster has had no workers for some time."""
    monkeypatch.setattr("slidepipe.pipeline.engine._SIZE_EVERY_S", 0.1)
    monkeypatch.setattr("slidepipe.pipeline.engine._WITHOUT_WORKERS_S", 1.0)
    with Engine("local", 1) as engine:
        engine._client.cluster.scale(0)
        with pytest.raises(ClusterError, match="has had no workers for"):
            engine.map([Task(square, (3,))])
