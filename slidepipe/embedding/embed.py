"""Embed crops: isolate the objects, make squares, run the backbone in batches, average over orientations, check the result.

Up to rounding, an embedding does not depend on the batch size or on the other crops of its batch.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from slidepipe.crops.isolate import align_to_long_axis, isolate, rotate_object
from slidepipe.embedding.normalise import normalised, unit_rows
from slidepipe.embedding.square import orient_squares, to_squares
from slidepipe.errors import PluginError
from slidepipe.interfaces import Backbone, BoolArray, Float32Array, UInt8Array

logger = logging.getLogger(__name__)

#: Length of the companion's embedding in the concatenated embedding; the backbone's own has length 1. Chosen by measurement
#: (design/heads.md).
COMPANION_LENGTH = 2.25


def embed_crops(
    backbone: Backbone,
    crops: Sequence[UInt8Array],
    names: Sequence[str],
    orientations: int,
    batch: int,
    isolated: bool = False,
) -> Float32Array:
    """Embed crops with a loaded backbone.

    With `isolated`, the backbone receives each object without its surroundings (`slidepipe.crops.isolate`). The eight
    orientations are then those of the object rotated so that its long axis is horizontal; the four mirrored ones are rotated
    by another 45 degrees. So the embedding does not depend on how the object lay on its slide. A backbone that is itself
    invariant to flips and quarter turns receives four poses instead: as the object lies, aligned to its long axis, and each
    of these rotated by 45 degrees.

    Args:
        backbone: after `load`.
        crops: N arrays, uint8 (h, w, 3) sRGB, each of its own size.
        names: N names (object ids or files) for messages.
        orientations: 1, or 8 to average the embedding over all flips and quarter turns.
        batch: number of crops per call of the backbone; halved when the device runs out of memory.
        isolated: remove the surroundings of each object first.

    Returns:
        float32 (N, D).

    Raises:
        PluginError: the backbone returns another shape or dtype than its contract requires, or NaN or infinite values.
    """
    parts: list[Float32Array] = []
    start = 0
    while start < len(crops):
        part = crops[start : start + batch]
        try:
            embedding = _embed_batch(backbone, part, orientations, isolated)
        except Exception as error:
            if not _is_out_of_memory(error) or batch == 1:
                raise
            batch = max(1, batch // 2)
            logger.warning("%s: the device ran out of memory; continuing with batches of %d", backbone.name, batch)
            _free_device_memory()
            continue
        bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
        if len(bad):
            raise PluginError(
                f"{backbone.name}: the embedding of {names[start + bad[0]]} is not finite. Check its crop and the weights"
            )
        parts.append(embedding)
        start += len(part)
    return np.concatenate(parts) if parts else np.zeros((0, backbone.dim), np.float32)


def join_embeddings(own: Float32Array, companion: Float32Array) -> Float32Array:
    """Concatenate two embeddings of the same crops, each scaled so that neither dominates the distances.

    Args:
        own: float32 (N, D), of the backbone. Values of a row without negative values are replaced by their square roots
            (`slidepipe.embedding.normalise.normalised`).
        companion: float32 (N, E), of the companion backbone.

    Returns:
        float32 (N, D + E): `own` scaled to length 1, `companion` to length `COMPANION_LENGTH`. A row of a lost crop is NaN.
    """
    negative: BoolArray = np.asarray((own < 0).any(axis=1, keepdims=True))
    first = np.where(negative, normalised(own, root=False), normalised(own, root=True))
    second = COMPANION_LENGTH * unit_rows(companion.astype(np.float64))
    return np.concatenate([first, second], axis=1).astype(np.float32)


def _embed_batch(backbone: Backbone, crops: Sequence[UInt8Array], orientations: int, isolated: bool) -> Float32Array:
    """Return the embeddings, float32 (N, D), of crops that fit into the device's memory together."""

    def square(images: Sequence[UInt8Array]) -> UInt8Array:
        return to_squares(images, backbone.input_px, backbone.fit)

    if not isolated:
        return _mean_embedding(backbone, orient_squares(square(crops), orientations))
    objects = [isolate(crop) for crop in crops]
    invariant = backbone.orientation_invariant
    if orientations == 1 and not invariant:
        return _mean_embedding(backbone, [square(objects)])
    aligned, diagonal = zip(*map(align_to_long_axis, objects), strict=True)
    if not invariant:
        return _mean_embedding(backbone, orient_squares(square(aligned), orientations, square(diagonal)))
    mean = _mean_embedding(backbone, map(square, (aligned, diagonal)))
    # For an object that is not elongated, `align_to_long_axis` returns the object as it lies: embedding it twice is waste.
    rows = [row for row, pose in enumerate(aligned) if pose is not objects[row]]
    if rows:
        lying = [objects[row] for row in rows]
        as_it_lies = _mean_embedding(backbone, map(square, (lying, [rotate_object(pose, 45.0) for pose in lying])))
        mean[rows] = (mean[rows] + as_it_lies) / np.float32(2)
    return mean


def _mean_embedding(backbone: Backbone, pictures: Iterable[UInt8Array]) -> Float32Array:
    """Return the mean embedding, float32 (N, D), over several pictures (uint8 (N, S, S, 3) each) of the same N crops."""
    total: Float32Array | None = None
    count = 0
    for squares in pictures:
        embedding = backbone.embed(squares)
        if (
            not isinstance(embedding, np.ndarray)
            or embedding.dtype != np.float32
            or embedding.shape != (len(squares), backbone.dim)
        ):
            shape, dtype = getattr(embedding, "shape", None), getattr(embedding, "dtype", type(embedding).__name__)
            raise PluginError(
                f"{backbone.name}: embed returned {dtype} {shape} for {len(squares)} crops; "
                f"its contract requires float32 ({len(squares)}, {backbone.dim})"
            )
        total = embedding if total is None else total + embedding
        count += 1
    if total is None:
        raise PluginError(f"{backbone.name}: there is no picture to embed")
    return total / np.float32(count)


def _is_out_of_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError, recognised by its name so that a backbone without torch does not import torch.
    return type(error).__name__ == "OutOfMemoryError"


def _free_device_memory() -> None:
    import torch

    torch.cuda.empty_cache()
