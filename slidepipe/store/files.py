"""Write files so that a killed process leaves no half-written file, and read and hash them.

A file is written under a temporary name in the same folder, flushed to the disk and renamed into place. A temporary file that a
killed process leaves behind is deleted by `delete_temporary_files`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")

#: Other processes write to RESULTS without its lock, for example the viewer. A temporary file there counts as abandoned after
#: this time, in seconds.
_ABANDONED_S = 3600


def fingerprint(*parts: object) -> str:
    """Return the sha256 of the JSON form of `parts`, as 64 hexadecimal digits.

    Args:
        *parts: everything that a result depends on. A value that JSON cannot hold is hashed as its `str`.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Return an empty dictionary if there is no such file or it holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all. Line ends are written as they are in `text`.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Write `value` as an indented JSON file, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all.

    Args:
        path: the file to write. An existing file is replaced.
        write: a function that receives the path of a temporary file and writes the content to it.

    Raises:
        OSError: the file cannot be written.
    """
    part = temporary_path(path)
    try:
        write(part)
        with part.open("r+b") as file:  # Windows flushes only files that are open for writing.
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """Return a new temporary name in the folder of `path`. `delete_temporary_files` recognises such names."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def delete_temporary_files(results: Path) -> None:
    """Delete the temporary files and folders that killed runs left in RESULTS. Call it only while RESULTS is locked."""
    # Only the run that holds the lock writes below slides/, so every temporary name there is a leftover.
    for leftover in (results / "slides").rglob(".*"):
        if _TEMPORARY.fullmatch(leftover.name):
            _delete(leftover)
    for leftover in results.glob(".*"):
        # A report or a label file may be written here at this moment, and its temporary file may be renamed at any time.
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(leftover.name) and time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                _delete(leftover)


def flush_tree(folder: Path) -> None:
    """Flush all files and folders below `folder` to the disk."""
    for here, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(here, name), "r+b") as file:  # noqa: PTH118, PTH123 (os.walk gives strings, and there are many)
                os.fsync(file.fileno())
        flush_folder(Path(here))


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that a rename in it survives a power failure."""
    if os.name == "nt":
        return  # Windows cannot open a folder to flush it, and keeps renames in its journal.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
