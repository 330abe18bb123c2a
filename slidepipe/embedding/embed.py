"""Embedding: crops of any size through a backbone in batches, averaged over flips and turns, checked.

What an embedding is never depends on how many crops went through together or in which order, up to rounding.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from slidepipe.crops.isolate import isolate, laid_by_axis, turned
from slidepipe.embedding.square import present, views
from slidepipe.errors import PluginError, SettingsError
from slidepipe.heads.metric import normalised, unit_rows
from slidepipe.interfaces import Backbone, BoolArray, Fit, Float32Array, UInt8Array

logger = logging.getLogger(__name__)

#: Length of the part beside the backbone's own, which has length 1; as measured (design/heads.md).
BESIDE_LENGTH = 2.25


def resolve_device(device: str) -> str:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine.

    Raises:
        SettingsError: a GPU is asked for by name and there is none.
    """
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"  # a machine without a driver need not import torch to know
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return "cpu"
        raise SettingsError(f"device {device}: no usable NVIDIA GPU on this machine. Use --device cpu or auto")
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise SettingsError(
            f"device {device}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0"
        )
    return f"cuda:{index}"


def local_cards(device: str) -> tuple[int, ...]:
    """The numbers of the GPUs that ``device`` means on this machine; none for ``cpu``, or for ``auto`` where there are none.

    Raises:
        SettingsError: as :func:`resolve_device`.
    """
    resolved = resolve_device(device)
    if resolved == "cpu":
        return ()
    import torch

    return (int(resolved.partition(":")[2]),) if ":" in device else tuple(range(torch.cuda.device_count()))


def embed_crops(
    backbone: Backbone,
    crops: Sequence[UInt8Array],
    names: Sequence[str],
    view_count: int,
    batch: int,
    alone: bool = False,
) -> Float32Array:
    """Embed crops with a loaded backbone.

    Args:
        backbone: after ``load``.
        crops: N arrays uint8 (h, w, 3), each of its own size.
        names: N names (object ids or files) for messages.
        view_count: 1, or 8 to average the embedding over the flips and quarter turns.
        batch: crops a call; halved when the device runs out of memory.
        alone: show each object alone (:mod:`slidepipe.crops.isolate`). Eight views are then of it laid by its long axis, the four
            mirrored ones 45 degrees on: how it lay on its slide makes no difference. A backbone that says ``views = 1``, so
            that flips and quarter turns make none to it, sees it as it lies, by its axis, and 45 degrees on from each.

    Returns:
        float32 (N, D).

    Raises:
        PluginError: the backbone returns another shape or type than its contract says, or NaN or infinite values.
    """
    parts: list[Float32Array] = []
    start = 0
    while start < len(crops):
        part = crops[start : start + batch]
        try:
            embedding = _embed_part(backbone, part, view_count, alone)
        except Exception as error:
            if not _is_out_of_memory(error) or batch == 1:
                raise
            batch = max(1, batch // 2)
            logger.warning("%s: the device ran out of memory; going on with batches of %d", backbone.name, batch)
            _free_device_memory()
            continue
        bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
        if len(bad):
            raise PluginError(
                f"{backbone.name}: the embedding of {names[start + bad[0]]} is not finite. Its crop or the weights are bad"
            )
        parts.append(embedding)
        start += len(part)
    return np.concatenate(parts) if parts else np.zeros((0, backbone.dim), np.float32)


def join_embeddings(own: Float32Array, beside: Float32Array) -> Float32Array:
    """Two embeddings of the same crops as one, so that neither drowns the other.

    Args:
        own: float32 (N, D); a row that is never negative is square-rooted (see :func:`~slidepipe.heads.metric.normalised`).
        beside: float32 (N, E).

    Returns:
        float32 (N, D + E): ``own`` at length 1, ``beside`` at 2.25; NaN where a crop was lost.
    """
    negative: BoolArray = np.asarray((own < 0).any(axis=1, keepdims=True))
    first = np.where(negative, normalised(own, root=False), normalised(own, root=True))
    second = BESIDE_LENGTH * unit_rows(beside.astype(np.float64))
    return np.concatenate([first, second], axis=1).astype(np.float32)


def _embed_part(backbone: Backbone, crops: Sequence[UInt8Array], view_count: int, alone: bool) -> Float32Array:
    """The embeddings of some crops that fit into the device's memory, float32 (N, D)."""
    fit: Fit = getattr(backbone, "fit", "squeeze")

    def square(pictures: Sequence[UInt8Array]) -> UInt8Array:
        return present(pictures, backbone.input_px, fit)

    if not alone:
        return _embed_views(backbone, views(square(crops), view_count))
    objects = [isolate(crop) for crop in crops]
    indifferent = getattr(backbone, "views", None) == 1
    if view_count == 1 and not indifferent:
        return _embed_views(backbone, [square(objects)])
    along, across = zip(*map(laid_by_axis, objects), strict=True)
    if not indifferent:
        return _embed_views(backbone, views(square(along), view_count, square(across)))
    mean = _embed_views(backbone, map(square, (along, across)))
    # What is not elongated lies by its axis as it lies: no need to look at it twice.
    rows = [row for row, pose in enumerate(along) if pose is not objects[row]]
    if rows:
        lies = [objects[row] for row in rows]
        as_it_lies = _embed_views(backbone, map(square, (lies, [turned(pose, 45.0) for pose in lies])))
        mean[rows] = (mean[rows] + as_it_lies) / np.float32(2)
    return mean


def _embed_views(backbone: Backbone, shown: Iterable[UInt8Array]) -> Float32Array:
    """The mean embedding over the pictures of some crops."""
    total: Float32Array | None = None
    count = 0
    for view in shown:
        embedding = backbone.embed(view)
        if (
            not isinstance(embedding, np.ndarray)
            or embedding.dtype != np.float32
            or embedding.shape != (len(view), backbone.dim)
        ):
            shape, dtype = getattr(embedding, "shape", None), getattr(embedding, "dtype", type(embedding).__name__)
            raise PluginError(
                f"{backbone.name}: embed gave {dtype} {shape} for {len(view)} crops; "
                f"its contract is float32 ({len(view)}, {backbone.dim})"
            )
        total = embedding if total is None else total + embedding
        count += 1
    if total is None:
        raise PluginError(f"{backbone.name}: no views to embed")
    return total / np.float32(count)


def _has_nvidia_driver() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def _is_out_of_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError, told by name so that a backbone without torch does not import it.
    return type(error).__name__ == "OutOfMemoryError"


def _free_device_memory() -> None:
    import torch

    torch.cuda.empty_cache()
