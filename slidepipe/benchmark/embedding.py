"""Embedding the benchmark's images under each protocol, once: cached by the bytes of images, weights and settings."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np

from slidepipe import plugins
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
from slidepipe.errors import PluginError
from slidepipe.interfaces import Backbone, UInt8Array
from slidepipe.pipeline import tasks
from slidepipe.pipeline.engine import Engine, Task
from slidepipe.pipeline.specs import EmbedSpec, PluginSpec
from slidepipe.store.files import read_json, write_json

#: "published" and "slidepipe" are the protocols; "random" is the published one on the same network with random weights.
Kind = Literal["published", "slidepipe", "random"]

PUBLISHED_RESIZE_PX, PUBLISHED_INPUT_PX = 256, 224
_PART = 64  # images of a task, as in a run


@dataclass(frozen=True)
class Embedded:
    """The images embedded as references, and what that cost.

    Attributes:
        reference: under the ``slidepipe`` protocol as a run has it; under others `crop_like` are the embeddings once more.
        worker_seconds: reading, preparing and embedding, summed over the workers; None where an older cache does not tell.
        cached: nothing was embedded this time.
    """

    reference: ReferenceSet
    worker_seconds: float | None
    device: str
    cached: bool


class Workers:
    """The Dask cluster that embeds, started when it is first needed. One worker, and a GPU, need none: this process does it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def map(self, device: str, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Results of the calls, in order."""
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
    """Whether the backbone itself follows the published preprocessing when its setting ``preprocessing`` says so."""
    model = plugins.get_class("backbone", name).Settings
    field = getattr(model, "model_fields", {}).get("preprocessing")
    return field is not None and "published" in get_args(field.annotation)


def spec_of(spec: EmbedSpec, kind: Kind) -> EmbedSpec:
    """How a protocol embeds: the run's way, or one view with the published preprocessing where the backbone has that mode."""
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
    """Embed the images of a folder under a protocol, or take them from the cache.

    Args:
        spec: as a run embeds; :func:`spec_of` adapts it.
        crops: as a run stores crops.

    Returns:
        None for ``random`` where the backbone has no torch network whose weights could be drawn anew.
    """
    spec = spec_of(spec, kind)
    device = resolve_device(spec.device)
    # The run's own key for the run's own embeddings, so that a benchmark and a run share them.
    identity = spec.reference_identity(crops)
    if kind != "slidepipe":
        del identity["as_crops"]  # only a run has such
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
            (embed_part, (spec, crops, kind, root, folder.files[start : start + _PART]))
            for start in range(0, len(folder.files), _PART)
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
    """In a worker: some images embedded, and the seconds it took."""
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
    """What the published protocol shows a backbone: images squeezed to squares.

    Args:
        images: uint8 (h, w, 3).
        input_px: the side that the backbone asks for.
        own_crop: the backbone cuts the centre itself. One that does not, and asks for the 224 px that the protocol's networks
            see, gets the centre of the image squeezed to 256 px, as they do; any other size is squeezed to as it is.
    """
    if own_crop or input_px != PUBLISHED_INPUT_PX:
        return to_squares(images, input_px, "squeeze")
    margin = (PUBLISHED_RESIZE_PX - PUBLISHED_INPUT_PX) // 2
    return to_squares(images, PUBLISHED_RESIZE_PX, "squeeze")[:, margin:-margin, margin:-margin]


def describe_published(spec: EmbedSpec) -> str:
    """In words, what the published protocol shows this backbone (see :func:`published_squares`)."""
    plugin = spec_of(spec, "published").plugin
    backbone = plugins.create("backbone", plugin.name, json.loads(plugin.settings), plugin.weights)
    if has_published_mode(plugin.name):
        return f"squeezed to {backbone.input_px} px, centre crop, float32"
    if backbone.input_px == PUBLISHED_INPUT_PX:
        return f"squeezed to {PUBLISHED_RESIZE_PX} px, centre {PUBLISHED_INPUT_PX} px"
    return f"squeezed to {backbone.input_px} px; the rest is the backbone's own"


@functools.lru_cache(maxsize=1)
def random_backbone(plugin: PluginSpec, device: str) -> Backbone | None:
    """The backbone with random weights in the place of its own (the negative control); None if it runs no torch network.

    The network is found by watching which modules an embedding calls, so that this works for anybody's backbone.
    """
    backbone = tasks.get_backbone.__wrapped__(plugin, device)  # one of its own: the shared one must keep its weights
    if "torch" not in sys.modules:
        return None
    import torch

    called: dict[int, torch.nn.Module] = {}

    def note(module: torch.nn.Module, arguments: object) -> None:
        called.setdefault(id(module), module)

    watch = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        backbone.embed(np.full((1, backbone.input_px, backbone.input_px, 3), 128, np.uint8))
    finally:
        watch.remove()
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    drawn = False
    try:
        with torch.no_grad():
            for module in called.values():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
                else:
                    for parameter in module.parameters(recurse=False):
                        parameter.normal_(0, 0.02)
                drawn |= any(True for _ in module.parameters(recurse=False))
    except RuntimeError as error:
        raise PluginError(f"{plugin.name}: its weights cannot be drawn at random ({error})") from error
    finally:
        torch.random.set_rng_state(state)
    return backbone if drawn else None


def _write(path: Path, value: dict[str, Any]) -> None:
    # As for the cache itself: what cannot be kept is measured again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
