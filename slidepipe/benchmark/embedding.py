"""Embed the images of the benchmark under each protocol.

Embeddings are cached under the bytes of the images, the weights and the settings, so nothing is embedded twice.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self, get_args

from slidepipe import plugins
from slidepipe.benchmark.random_weights import random_backbone
from slidepipe.cache import cache_folder
from slidepipe.classification.reference_set import (
    EmbeddedPart,
    ImageFolder,
    ReferenceSet,
    fingerprint_folder,
    join_parts,
    load_cached,
    read_image,
    save_cached,
)
from slidepipe.config import Config
from slidepipe.crops.cut import CropSpec
from slidepipe.embedding.device import resolve_device
from slidepipe.embedding.embed import embed_crops
from slidepipe.embedding.square import to_squares
from slidepipe.interfaces import UInt8Array
from slidepipe.pipeline import tasks
from slidepipe.pipeline.engine import Engine, Task
from slidepipe.pipeline.specs import EmbedSpec
from slidepipe.store.files import read_json, write_json

#: "published" and "slidepipe" are the two protocols. "random" is the published protocol with random weights in the network.
Kind = Literal["published", "slidepipe", "random"]

PUBLISHED_RESIZE_PX, PUBLISHED_INPUT_PX = 256, 224
#: Images per task, as in a run.
_IMAGES_PER_TASK = 64


@dataclass(frozen=True)
class Embedded:
    """The embedded images of the benchmark, and what the embedding cost.

    Attributes:
        reference: the images as a reference set. Under the protocol "slidepipe" it is that of a run; under the others
            its `crop_like` embeddings are a copy of its embeddings.
        worker_seconds: time for reading, preparing and embedding, summed over the workers; None if the cache, written by
            an earlier release, does not hold it.
        device: device that embedded, for example "cpu".
        cached: True if everything was read from the cache.
    """

    reference: ReferenceSet
    worker_seconds: float | None
    device: str
    cached: bool


class Workers:
    """The workers that embed. A Dask cluster is started when it is first needed.

    With one worker, or on a GPU of this machine, this process embeds and no cluster is started.
    """

    def __init__(self, config: Config) -> None:
        """Prepare the workers that the run settings of `config` describe."""
        self._config = config
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def map(self, device: str, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Call functions on the workers.

        Args:
            device: device that embeds, from `slidepipe.embedding.device.resolve_device`.
            calls: functions with their arguments.

        Returns:
            The results, in the order of `calls`.
        """
        run = self._config.run
        if run.scheduler in ("local", "threads") and (device != "cpu" or run.workers == 1):
            return [call(*arguments) for call, arguments in calls]
        if self._engine is None:
            self._engine = self._stack.enter_context(Engine(self._config.run.scheduler, self._config.run.workers))
        return self._engine.map(Task(call, arguments) for call, arguments in calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def has_published_mode(name: str) -> bool:
    """Return whether a backbone has a setting `preprocessing` with the value "published".

    Args:
        name: name of the backbone.
    """
    model = plugins.get_class("backbone", name).Settings
    field = getattr(model, "model_fields", {}).get("preprocessing")
    return field is not None and "published" in get_args(field.annotation)


def protocol_spec(spec: EmbedSpec, kind: Kind) -> EmbedSpec:
    """Return how a backbone embeds under a protocol.

    Args:
        spec: how the backbone embeds in a run.
        kind: the protocol.

    Returns:
        `spec` under the protocol "slidepipe". Otherwise one orientation per crop, no isolation, no companion backbone,
        and the published preprocessing if the backbone has such a setting.
    """
    if kind == "slidepipe":
        return spec
    plugin = spec.plugin
    if has_published_mode(plugin.name):
        settings = json.dumps({**json.loads(plugin.settings), "preprocessing": "published"}, sort_keys=True)
        plugin = replace(plugin, settings=settings, identity="")  # an identity of other settings is computed again
    return replace(spec, plugin=plugin, orientations=1, isolate=False, companion=None)


def embed_images(
    folder: ImageFolder, spec: EmbedSpec, crops: CropSpec, kind: Kind, workers: Workers
) -> Embedded | None:
    """Embed the images of a folder under a protocol, or read their embeddings from the cache.

    Args:
        folder: the images.
        spec: how the backbone embeds in a run.
        crops: how a run stores crops.
        kind: the protocol.
        workers: the workers that embed.

    Returns:
        The embedded images; None for the kind "random" if the backbone runs no torch network.
    """
    spec = protocol_spec(spec, kind)
    device = resolve_device(spec.device)
    # The protocol "slidepipe" uses the cache key of a run, so that a benchmark and a run share their embeddings.
    identity = spec.reference_identity(crops)
    if kind != "slidepipe":
        del identity["as_crops"]  # a key that is hashed, so it keeps its old name; only a run has crop-like embeddings
        identity |= {"protocol": kind, "version": [identity["version"], 1]}
    fingerprint = fingerprint_folder(folder, identity)
    note = cache_folder() / "benchmark" / "cost" / f"{fingerprint}.json"
    cached = load_cached(fingerprint)
    if cached is not None and len(cached.embeddings) == len(folder.files):
        cost = read_json(note)
        return Embedded(
            cached,
            cost.get("worker_seconds"),
            str(cost.get("device", "unknown")),
            cached=True,
        )
    if read_json(note).get("no_network"):
        return None
    root = folder.root.resolve()
    spec = replace(spec, device=device)
    parts = workers.map(
        device,
        [
            (embed_part, (spec, crops, kind, root, folder.files[start : start + _IMAGES_PER_TASK]))
            for start in range(0, len(folder.files), _IMAGES_PER_TASK)
        ],
    )
    if any(part is None for part in parts):
        _write(note, {"no_network": True})
        return None
    reference = join_parts(folder, [part for part, _ in parts], fingerprint)
    seconds = round(sum(spent for _, spent in parts), 3)
    save_cached(reference)
    _write(note, {"worker_seconds": seconds, "device": device})
    return Embedded(reference, seconds, device, cached=False)


def embed_part(
    spec: EmbedSpec, crops: CropSpec, kind: Kind, root: Path, files: Sequence[str]
) -> tuple[EmbeddedPart, float] | None:
    """Embed some images; this function runs in a worker.

    Args:
        spec: how the backbone embeds under the protocol.
        crops: how a run stores crops.
        kind: the protocol.
        root: folder of the images.
        files: the images, paths relative to `root`.

    Returns:
        The embeddings and the seconds spent on them; None for the kind "random" if the backbone runs no torch network.
    """
    backbone = (
        random_backbone(spec.plugin, spec.device) if kind == "random" else tasks.get_backbone(spec.plugin, spec.device)
    )
    if backbone is None:
        return None
    started = perf_counter()
    if kind == "slidepipe":
        return tasks.embed_reference_part(spec, crops, root, files), perf_counter() - started
    images = [read_image(root / file) for file in files]
    squares = published_squares(images, backbone.input_px, own_crop=has_published_mode(spec.plugin.name))
    embeddings = embed_crops(backbone, list(squares), files, 1, spec.batch)
    part = EmbeddedPart(embeddings, embeddings, backbone.weights_sha256)
    return part, perf_counter() - started


def published_squares(images: Sequence[UInt8Array], input_px: int, own_crop: bool) -> UInt8Array:
    """Return the images as a backbone receives them under the published protocol: squeezed to squares.

    The networks of the protocol receive the central 224 px of an image that is squeezed to 256 px. A backbone that
    wants 224 px and does not cut the centre itself gets the same pixels. Any other backbone gets the whole image
    squeezed to its input size.

    Args:
        images: uint8 (h, w, 3), sRGB.
        input_px: side of the squares that the backbone wants, in pixels.
        own_crop: the backbone cuts the centre itself.

    Returns:
        uint8 (N, input_px, input_px, 3).
    """
    if own_crop or input_px != PUBLISHED_INPUT_PX:
        return to_squares(images, input_px, "squeeze")
    margin = (PUBLISHED_RESIZE_PX - PUBLISHED_INPUT_PX) // 2
    return to_squares(images, PUBLISHED_RESIZE_PX, "squeeze")[:, margin:-margin, margin:-margin]


def describe_published(spec: EmbedSpec) -> str:
    """Return a description of the images that a backbone receives under the published protocol (see `published_squares`)."""
    plugin = protocol_spec(spec, "published").plugin
    backbone = plugins.create("backbone", plugin.name, json.loads(plugin.settings), plugin.weights)
    if has_published_mode(plugin.name):
        return f"squeezed to {backbone.input_px} px, centre crop, float32"
    if backbone.input_px == PUBLISHED_INPUT_PX:
        return f"squeezed to {PUBLISHED_RESIZE_PX} px, centre {PUBLISHED_INPUT_PX} px"
    return f"squeezed to {backbone.input_px} px; the backbone does the rest"


def _write(path: Path, value: dict[str, Any]) -> None:
    # A cache that cannot be written is no error: the next benchmark measures again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
