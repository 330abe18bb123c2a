"""The lock on a RESULTS folder: only one run at a time writes to it."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from slidepipe.errors import ResultsError
from slidepipe.store.files import read_json, write_json

_HOLDER = ".lock.json"


@contextlib.contextmanager
def locked(results: Path) -> Iterator[None]:
    """Hold the lock on RESULTS. The operating system releases it when the process ends, even if the process is killed.

    Args:
        results: the RESULTS folder. It is created if it does not exist.

    Raises:
        ResultsError: the folder cannot be created or written, or another run holds it.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{results}: cannot be created ({error.strerror}). Give another folder to --out") from error
    holder_file = results / _HOLDER
    lock = filelock.FileLock(results / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        holder = read_holder(results)
        process = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        raise ResultsError(
            f"{results}: another run writes to it ({process}). Wait until it has finished, or give another folder to --out"
        ) from error
    except OSError as error:
        raise ResultsError(f"{results}: cannot be written ({error.strerror}). Give another folder to --out") from error
    try:
        write_json(holder_file, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        yield
    finally:
        holder_file.unlink(missing_ok=True)
        lock.release()


def read_holder(results: Path) -> dict[str, Any]:
    """Read which process holds RESULTS. A killed run leaves its record behind, so check that the process still exists.

    Returns:
        `pid`, `host` and `since` (seconds since 1970-01-01 UTC); an empty dictionary if there is no record.
    """
    holder = read_json(results / _HOLDER)
    return holder if {"pid", "host"} <= set(holder) else {}
