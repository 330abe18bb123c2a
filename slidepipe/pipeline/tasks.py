"""Functions that run in a worker and that several stages share.

A task gets small values (paths, names, numbers), opens what it needs where it runs, and returns small values. A worker process
keeps its slides, detectors and loaded backbones for the next task.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from slidepipe import plugins
from slidepipe._version import __version__
from slidepipe.classification.reference_set import EmbeddedPart, read_image
from slidepipe.crops.cut import CropSpec, make_crop_like
from slidepipe.embedding.device import resolve_device
from slidepipe.embedding.embed import embed_crops, join_embeddings
from slidepipe.interfaces import Backbone, Detector, Float32Array, UInt8Array
from slidepipe.pipeline.specs import EmbedSpec, PluginSpec


@functools.lru_cache(maxsize=4)
def get_detector(spec: PluginSpec) -> Detector:
    """Return the detector of `spec`; this process builds it once."""
    plugins.register_files(spec.files)
    return plugins.create("detector", spec.name, json.loads(spec.settings))


@functools.lru_cache(maxsize=2)
def get_backbone(spec: PluginSpec, device: str) -> Backbone:
    """Return the loaded backbone of `spec`; this process loads it once. There is room for a companion backbone too."""
    plugins.register_files(spec.files)
    backbone = plugins.create("backbone", spec.name, json.loads(spec.settings), spec.weights).load(
        resolve_device(device)
    )
    torch = sys.modules.get("torch")
    if torch is not None:
        # There is one worker per core. One thread each is as fast in total, and results then do not depend on how many
        # workers share the cores.
        torch.set_num_threads(1)
    return backbone


def embed_by(spec: EmbedSpec, crops: Sequence[UInt8Array], names: Sequence[str]) -> Float32Array:
    """Embed crops with the backbone of `spec` alone, without its companion.

    Args:
        spec: how to embed.
        crops: N arrays uint8 (h, w, 3), each of its own size.
        names: N names for error messages.

    Returns:
        float32 (N, D).
    """
    backbone = get_backbone(spec.plugin, spec.device)
    return embed_crops(backbone, crops, names, spec.orientations, spec.batch, spec.isolate)


def embed_images(spec: EmbedSpec, images: Sequence[UInt8Array], names: Sequence[str]) -> Float32Array:
    """Embed images as a run embeds crops, with the companion's embedding concatenated.

    Args:
        spec: how to embed.
        images: N arrays uint8 (h, w, 3), each of its own size.
        names: N names for error messages.

    Returns:
        float32 (N, D).
    """
    own = embed_by(spec, images, names)
    return own if spec.companion is None else join_embeddings(own, embed_by(spec.companion, images, names))


def embed_reference_part(spec: EmbedSpec, crops: CropSpec, root: Path, files: Sequence[str]) -> EmbeddedPart:
    """Embed some images of a reference folder, as they are and as a run would store them as crops.

    Args:
        spec: how to embed.
        crops: how a run stores crops.
        root: the reference folder.
        files: the images, paths below `root`.
    """
    backbone = get_backbone(spec.plugin, spec.device)
    images = [read_image(root / file) for file in files]
    stored = [make_crop_like(image, crops) for image in images]
    return EmbeddedPart(
        embed_images(spec, images, files),
        embed_images(spec, stored, files),
        backbone.weights_sha256,
    )


def probe_worker(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the worker's version of slidepipe and those of `folders` that its machine cannot see."""
    return __version__, [str(path) for path in folders if not path.exists()]
