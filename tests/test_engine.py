import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slidepipe.engine import Engine, Task, Work
from slidepipe.errors import RegionError, SettingsError


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
