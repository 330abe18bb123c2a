"""The RESULTS folder on disk: one Zarr group a slide, published stage by stage, so that a killed run loses little and lies never.

``slides/SLIDE_ID/`` is a Zarr group with a group a finished stage: ``boxes``, ``crops``, ``embeddings``. A stage is written under
a temporary name, flushed, and renamed into place whole; its fingerprint (of everything it depends on) travels in its
attributes. A stage is done if it is there with the fingerprint wanted. Parts of a stage wait in ``.parts/`` until all are there.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import numpy.typing as npt
import zarr

from slidepipe.errors import ResultsError
from slidepipe.interfaces import Float32Array, IntArray, UInt8Array

Stage = Literal["boxes", "crops", "embeddings"]
STAGES: tuple[Stage, ...] = ("boxes", "crops", "embeddings")

#: JPEG bytes of a chunk (what one look at a crop reads) and of a shard (what one file holds).
_JPEG_CHUNK, _JPEG_SHARD = 256 * 1024, 16 * 2**20
_EMBEDDING_ROWS = 1024

_HOLDER = ".lock.json"

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")
#: A temporary file this old, beside the tables, is nobody's.
_ABANDONED_S = 3600


def fingerprint(*parts: object) -> str:
    """sha256 over the JSON form of what a stage depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none or it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def slide_folder(results: Path, slide_id: str) -> Path:
    """The Zarr group of one slide."""
    return results / "slides" / slide_id


def stage_attributes(folder: Path, stage: Stage) -> dict[str, Any]:
    """The attributes of a published stage; empty where it is not published or its record cannot be read."""
    attributes = read_json(folder / stage / "zarr.json").get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def is_done(folder: Path, stage: Stage, wanted: str) -> bool:
    """Whether the stage is published with the fingerprint ``wanted``, and its files are all there in their sizes.

    Zarr reads a chunk that is missing as zeros: a stage that lost one must not pass for done.
    """
    attributes = stage_attributes(folder, stage)
    sizes = attributes.get("files")
    if attributes.get("fingerprint") != wanted or not isinstance(sizes, dict):
        return False
    try:
        return all((folder / stage / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def publish(
    folder: Path, stage: Stage, wanted: str, attributes: Mapping[str, Any], write: Callable[[zarr.Group], None]
) -> None:
    """Write a stage under a temporary name with ``write``, flush it, and rename it into place."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "zarr.json").exists():
        write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
    part = _temporary(folder / stage)
    try:
        group = zarr.open_group(part, mode="w-", zarr_format=3)
        write(group)
        files = {
            path.relative_to(part).as_posix(): path.stat().st_size for path in sorted(part.rglob("*")) if path.is_file()
        }
        del files["zarr.json"]  # which this record is in
        group.attrs.put({**attributes, "fingerprint": wanted, "files": files})
        _flush_tree(part)
        target = folder / stage
        if target.exists():
            old = _temporary(target)
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            part.rename(target)
        _flush_folder(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


# -- parts: one file a task, joined when all are there ------------------------------------------------------------------


def part_path(folder: Path, stage: Stage, wanted: str, part: int) -> Path:
    """Where part number ``part`` of a stage under work is kept."""
    return folder / ".parts" / f"{stage}-{wanted[:16]}" / f"{part:05d}.npz"


def save_part(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write one part, flushed and renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_part(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a part."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def drop_parts(folder: Path, stage: Stage, wanted: str) -> None:
    """Remove the parts of a stage that has been published."""
    shutil.rmtree(part_path(folder, stage, wanted, 0).parent, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / ".parts").rmdir()


def drop_other_parts(folder: Path, wanted: Mapping[Stage, str]) -> None:
    """Remove parts made for other settings than those ``wanted`` now."""
    kept = {part_path(folder, stage, mark, 0).parent.name for stage, mark in wanted.items()}
    for parts in (folder / ".parts").glob("*"):
        if parts.name not in kept:
            shutil.rmtree(parts, ignore_errors=True)


def retract(folder: Path, *stages: Stage) -> None:
    """Take published stages away, and the parts of them, since what they were made from is made anew."""
    for stage in stages:
        for parts in (folder / ".parts").glob(f"{stage}-*"):
            shutil.rmtree(parts, ignore_errors=True)
        if (folder / stage).exists():
            # By rename first: a stage half removed would pass for a whole one.
            old = _temporary(folder / stage)
            (folder / stage).rename(old)
            _flush_folder(folder)
            shutil.rmtree(old, ignore_errors=True)


# -- the arrays of the stages -------------------------------------------------------------------------------------------


def write_jpegs(group: zarr.Group, parts: Iterator[UInt8Array], total_bytes: int, ends: IntArray) -> None:
    """Write crops: ``jpeg``, all JPEG bytes in a row, and ``ends``, int64 (N,), where each ends (a lost crop has no bytes)."""
    chunk = min(_JPEG_CHUNK, max(1, total_bytes))
    shard = chunk * max(1, min(_JPEG_SHARD, total_bytes) // chunk)
    array = group.create_array(
        "jpeg", shape=(total_bytes,), dtype="uint8", chunks=(chunk,), shards=(shard,), compressors=None, filters=None
    )
    # One writer a shard, whole shards at a time: a shard written twice is read, changed and written again.
    waiting: list[UInt8Array] = []
    held = written = 0
    for data in parts:
        waiting.append(data)
        held += len(data)
        while held >= shard:
            joined = np.concatenate(waiting)
            array[written : written + shard] = joined[:shard]
            written += shard
            waiting, held = [joined[shard:]], held - shard
    if held:
        array[written:] = np.concatenate(waiting)
    group.create_array("ends", data=ends)


def write_embeddings(group: zarr.Group, embeddings: Float32Array) -> None:
    """Write ``embeddings``, float32 (N, D)."""
    write_embedding_parts(group, iter([embeddings]), len(embeddings))


def write_embedding_parts(group: zarr.Group, parts: Iterator[Float32Array], rows: int) -> None:
    """Write ``embeddings``, float32 (rows, D), from parts in order, with no more than a chunk and a part in memory."""
    first = next(parts, np.zeros((0, 0), np.float32))
    dim = first.shape[1]
    chunk = max(1, min(rows, _EMBEDDING_ROWS))
    array = group.create_array("embeddings", shape=(rows, dim), dtype="float32", chunks=(chunk, max(1, dim)))
    written, waiting = 0, first
    for part in itertools.chain(parts, [None]):
        while len(waiting) >= chunk or (part is None and len(waiting)):
            array[written : written + len(waiting[:chunk])] = waiting[:chunk]
            written += len(waiting[:chunk])
            waiting = waiting[chunk:]
        if part is not None:
            waiting = np.concatenate([waiting, part])


def read_stage(folder: Path, stage: Stage) -> zarr.Group:
    """A published stage, read only."""
    try:
        return zarr.open_group(folder / stage, mode="r", zarr_format=3)
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{folder / stage}: cannot be read ({error}). Run the same command again to rebuild it"
        ) from error


def read_array(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    """One array of a stage, whole."""
    return np.asarray(group[name][...])  # type: ignore[index]  # zarr types a member as array or group


class CropReader:
    """The stored crops of a slide, by row of its object table; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        group = read_stage(folder, "crops")
        self._jpeg = group["jpeg"]
        self._ends: IntArray = read_array(group, "ends").astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def jpeg(self, row: int) -> bytes:
        """The JPEG of one crop; empty where the slide could not be read there."""
        start = int(self._ends[row - 1]) if row else 0
        return np.asarray(self._jpeg[start : int(self._ends[row])]).tobytes()  # type: ignore[index]  # as above

    def jpegs(self, start: int, stop: int) -> list[bytes]:
        """The JPEGs of rows ``start`` to ``stop``, read in one go."""
        first = int(self._ends[start - 1]) if start else 0
        data = np.asarray(self._jpeg[first : int(self._ends[stop - 1])]).tobytes() if stop > start else b""  # type: ignore[index]
        edges = [first, *(int(end) for end in self._ends[start:stop])]
        return [data[a - first : b - first] for a, b in itertools.pairwise(edges)]


# -- files and the folder as a whole ------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_file(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it, and rename it into place."""
    part = _temporary(path)
    try:
        write(part)
        with part.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        part.replace(path)
        _flush_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(results: Path) -> Iterator[None]:
    """Hold RESULTS for one run. The lock ends with the process, however it ends.

    Raises:
        ResultsError: the folder cannot be made, or another run holds it.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{results}: cannot be made ({error.strerror}). Give another --out") from error
    holder = results / _HOLDER
    lock = filelock.FileLock(results / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        who = read_holder(results)
        said = f"process {who['pid']} on {who['host']}" if who else "another process"
        raise ResultsError(
            f"{results}: held by a run in progress ({said}). Wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise ResultsError(f"{results}: cannot be written ({error.strerror}). Give another --out") from error
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def read_holder(results: Path) -> dict[str, Any]:
    """``pid``, ``host``, ``since`` (seconds of the epoch) of the run that holds RESULTS, or of one killed; empty without one."""
    who = read_json(results / _HOLDER)
    return who if {"pid", "host"} <= set(who) else {}


def sweep(results: Path) -> None:
    """Remove what killed runs left under temporary names. Only while :func:`locked`."""
    for leftover in (results / "slides").rglob(".*"):  # where nothing but the run that holds the lock writes
        if _TEMPORARY.fullmatch(leftover.name):
            _remove(leftover)
    for leftover in results.glob(".*"):
        # A report or a browser's corrections may be written here at this moment, and get their names.
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(leftover.name) and time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                _remove(leftover)


def _temporary(path: Path) -> Path:
    """A name beside ``path`` for what is being written; :func:`sweep` knows it by its form."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_tree(folder: Path) -> None:
    for here, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(here, name), "r+b") as file:  # noqa: PTH118, PTH123 (os.walk gives strings, and there are many)
                os.fsync(file.fileno())
        _flush_folder(Path(here))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a folder to flush it, and keeps renames in its journal
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
