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
        os._exit(9)  # as the kernel kills a worker
    return "done"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("threads", 2) as started:
        yield started


def test_map_keeps_the_order(engine: Engine) -> None:
    assert engine.map(Task(square, (number,)) for number in range(40)) == [number * number for number in range(40)]
    assert engine.map([]) == []


def test_many_works_run_side_by_side_and_get_their_own_results(engine: Engine) -> None:
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


def test_an_error_ends_its_own_work_only(engine: Engine) -> None:
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


def test_processes_do_the_work_and_a_dead_one_is_made_up_for(tmp_path: Path) -> None:
    with Engine("local", 2) as engine:
        workers = set(engine.map(Task(process_id, (0.2,)) for _ in range(8)))
        assert len(workers) == 2
        assert os.getpid() not in workers
        marks = [Task(die_once, (str(tmp_path / "mark"),)), Task(square, (5,))]
        assert engine.map(marks) == ["done", 25]


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.json: no such file"):
        Engine(str(tmp_path / "none.json"), None)
    with pytest.raises(SettingsError, match=r"tcp://127.0.0.1:1: cannot be reached"):
        Engine("tcp://127.0.0.1:1", None)


def die(number: int) -> int:
    os._exit(9)


def fail_after(wait_s: float, number: int) -> int:
    time.sleep(wait_s)
    raise RegionError(f"cannot read {number}")


def test_a_task_that_kills_every_worker_is_found_and_its_neighbours_are_not_blamed() -> None:
    def work(call: Callable[[int], int], numbers: range) -> Work:
        assert (yield [Task(call, (number,)) for number in numbers]) == [number * number for number in numbers]

    with Engine("local", 1) as engine:
        ended = dict(engine.drive([("deadly", work(die, range(1))), ("good", work(square, range(6)))]))
    assert ended["good"] is None
    assert isinstance(ended["deadly"], WorkerDiedError)
    assert str(ended["deadly"]) == "the worker process died each time it worked on this (out of memory?)"


def test_of_several_errors_the_earliest_task_s_is_told_whichever_worker_was_quicker(engine: Engine) -> None:
    def work() -> Work:
        yield [Task(square, (1,)), Task(fail_after, (0.5, 2)), Task(fail_after, (0.0, 3)), Task(fail, (4,))]

    assert "cannot read 2" in str(dict(engine.drive([("work", work())]))["work"])


def test_tasks_for_a_card_go_to_the_process_that_holds_it_and_the_others_past_it() -> None:
    with Engine("local", 1, gpus=(0, 1)) as engine:
        tasks = [Task(os.getenv, ("CUDA_VISIBLE_DEVICES", "none"), gpu=bool(number % 2)) for number in range(16)]
        seen = engine.map(tasks)
    assert set(seen[0::2]) == {os.environ.get("CUDA_VISIBLE_DEVICES", "none")}
    assert set(seen[1::2]) <= {"0", "1"}


def test_paths_are_told_as_the_workers_see_them(tmp_path: Path) -> None:
    with Engine("threads", 1, {str(tmp_path): "/elsewhere"}) as engine:
        assert engine.map([Task(str, (tmp_path / "a",)), Task(str, (Path("/other"),))]) == ["/elsewhere/a", "/other"]
        assert list(engine.everywhere(str, tmp_path).values()) == ["/elsewhere"]


def test_a_cluster_started_here_is_seen_by_this_machine_alone() -> None:
    with Engine("local", 1, dashboard=True) as engine, Engine("threads", 1) as quiet:
        address = engine.dashboard
        assert address is not None
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as page:  # noqa: S310  # the loopback
            assert page.status == 200
        assert quiet.dashboard is None
        own = psutil.Process()
        places = [
            place for process in (own, *own.children(recursive=True)) for place in process.net_connections("inet")
        ]
        listening = {place.laddr.ip for place in places if place.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_ctrl_c_while_the_cluster_starts_is_heard_and_workers_never_hear_it() -> None:
    code = (
        "import os, signal, threading\n"
        "from slidepipe.pipeline.engine import Engine, Task\n"
        "if __name__ == '__main__':\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        Engine('local', 1)\n"
        "        print('not heard')\n"
        "    except KeyboardInterrupt:\n"
        "        print('heard')\n"
        "    with Engine('local', 1) as engine:\n"
        "        (pid,) = set(engine.map([Task(os.getpid, ())]))\n"
        "        os.kill(pid, signal.SIGKILL)\n"
        "        print(engine.map([Task(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))]))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert told.stdout.splitlines()[0] == "heard", told.stderr
    assert "SIGINT" in told.stdout.splitlines()[1]


def test_a_cluster_without_workers_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidepipe.pipeline.engine._SIZE_EVERY_S", 0.1)
    monkeypatch.setattr("slidepipe.pipeline.engine._ALONE_S", 1.0)
    with Engine("local", 1) as engine:
        engine._client.cluster.scale(0)
        with pytest.raises(ClusterError, match="has had no workers for"):
            engine.map([Task(square, (3,))])
