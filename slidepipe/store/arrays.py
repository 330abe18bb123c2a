"""The arrays inside a stage of a slide's store: how crops and embeddings are written to Zarr, and how they are read."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from slidepipe.interfaces import Float32Array, IntArray, UInt8Array

#: Bytes of JPEG data in a chunk (the unit that reading one crop loads) and in a shard (the unit that one file holds).
_JPEG_CHUNK, _JPEG_SHARD = 256 * 1024, 16 * 2**20
_EMBEDDING_ROWS = 1024


def read_array(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    """Read one array of a stage into memory."""
    return np.asarray(group[name][...])  # type: ignore[index]  # zarr types a member as array or group


def write_jpegs(group: zarr.Group, parts: Iterator[UInt8Array], total_bytes: int, ends: IntArray) -> None:
    """Write the crops of a slide as two arrays: `jpeg`, uint8, all JPEG files one after the other, and `ends`.

    Args:
        group: the Zarr group of the stage `crops`.
        parts: the JPEG bytes in order, uint8 (n,), in pieces of any size.
        total_bytes: the number of bytes in all parts.
        ends: int64 (N,), the position in `jpeg` where each crop ends. A crop that could not be read has no bytes.
    """
    chunk = min(_JPEG_CHUNK, max(1, total_bytes))
    shard = chunk * max(1, min(_JPEG_SHARD, total_bytes) // chunk)
    array = group.create_array(
        "jpeg", shape=(total_bytes,), dtype="uint8", chunks=(chunk,), shards=(shard,), compressors=None, filters=None
    )
    # Write whole shards only. Zarr reads, changes and rewrites a shard that is written in pieces.
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
    """Write the array `embeddings`.

    Args:
        group: the Zarr group of the stage `embeddings`.
        embeddings: float32 (N, D).
    """
    write_embedding_parts(group, iter([embeddings]), len(embeddings))


def write_embedding_parts(group: zarr.Group, parts: Iterator[Float32Array], rows: int) -> None:
    """Write the array `embeddings` from parts. At most one chunk and one part are in memory.

    Args:
        group: the Zarr group of the stage `embeddings`.
        parts: float32 (n, D), in the order of the object table.
        rows: the number of rows in all parts.
    """
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


class CropReader:
    """Reads the stored crops of a slide by their row in the object table. Bytes are read only when a crop is requested.

    Args:
        group: the published stage `crops`.
    """

    def __init__(self, group: zarr.Group) -> None:
        self._jpeg = group["jpeg"]
        self._ends: IntArray = read_array(group, "ends").astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def jpeg(self, row: int) -> bytes:
        """Return the JPEG file of one crop; empty bytes if the slide could not be read there."""
        start = int(self._ends[row - 1]) if row else 0
        return np.asarray(self._jpeg[start : int(self._ends[row])]).tobytes()  # type: ignore[index]  # as above

    def jpegs(self, start: int, stop: int) -> list[bytes]:
        """Return the JPEG files of rows `start` to `stop`, which are read together."""
        first = int(self._ends[start - 1]) if start else 0
        data = np.asarray(self._jpeg[first : int(self._ends[stop - 1])]).tobytes() if stop > start else b""  # type: ignore[index]
        edges = [first, *(int(end) for end in self._ends[start:stop])]
        return [data[a - first : b - first] for a, b in itertools.pairwise(edges)]
