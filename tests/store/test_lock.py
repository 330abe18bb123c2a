import multiprocessing
import time
from pathlib import Path

import pytest

from slidepipe.errors import ResultsError
from slidepipe.store.lock import locked


def _hold(results: Path, held: object) -> None:
    with locked(results):
        held.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_second_run_is_rejected(tmp_path: Path) -> None:
    """A second run gets an error that names the process that holds RESULTS. The lock of a killed process is free."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    try:
        assert held.wait(30)
        with (
            pytest.raises(ResultsError, match=f"another run writes to it \\(process {other.pid} on"),
            locked(tmp_path),
        ):
            pass
        other.kill()
        other.join(30)
        with locked(tmp_path):
            pass
    finally:
        other.kill()
        other.join(30)
