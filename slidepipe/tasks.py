"""What runs in a worker: plain functions of small descriptions (paths, names, numbers), never of pixels.

Each opens what it needs where it runs, writes its part of the store, and returns numbers. Slides, detectors and loaded
backbones are kept by the worker between tasks.
"""

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slidepipe import plugins, store
from slidepipe.blocks import Block, Grid
from slidepipe.crops import CropSpec, cut_crops, decode_crop, encode_crop
from slidepipe.detection import BlockResult, detect_block, merge_blocks
from slidepipe.embed import embed_crops, resolve_device
from slidepipe.errors import RegionError
from slidepipe.interfaces import Backbone, Detector, Float32Array
from slidepipe.reference import read_image
from slidepipe.slide import borrow_slide

#: Objects of a part: one task, one file. Fixed, so that batches (and their rounding) do not depend on who does the work.
PART_ROWS = 256


@dataclass(frozen=True)
class PluginSpec:
    """How to build a plugin in any process. ``settings`` is JSON, so that the description can be hashed."""

    name: str
    settings: str = "{}"
    weights: Path | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EmbedSpec:
    """How crops are embedded."""

    plugin: PluginSpec
    device: str
    views: int
    batch: int


@dataclass(frozen=True)
class SlideJob:
    """One slide's work: where it is, where its store is, and what each stage must be fingerprinted as."""

    slide_id: str
    path: Path
    mpp: float | None
    folder: Path
    detector: PluginSpec
    crops: CropSpec
    embed: EmbedSpec
    fingerprints: dict[store.Stage, str] = field(default_factory=dict)


@functools.lru_cache(maxsize=4)
def get_detector(spec: PluginSpec) -> Detector:
    """The detector of ``spec``, kept by this process."""
    plugins.register_files(spec.files)
    return plugins.create("detector", spec.name, json.loads(spec.settings))


@functools.lru_cache(maxsize=1)
def get_backbone(spec: PluginSpec, device: str) -> Backbone:
    """The loaded backbone of ``spec``, kept by this process."""
    plugins.register_files(spec.files)
    backbone = plugins.create("backbone", spec.name, json.loads(spec.settings), spec.weights).load(
        resolve_device(device)
    )
    torch = sys.modules.get("torch")
    if torch is not None:
        # A worker a core, a thread a worker: as fast together, and no result depends on how many workers share the cores.
        torch.set_num_threads(1)
    return backbone


def detect(job: SlideJob, grid: Grid, block: Block) -> BlockResult:
    """Detect in one block."""
    return detect_block(borrow_slide(job.path, job.mpp), grid, block, get_detector(job.detector))


def publish_boxes(job: SlideJob, results: Sequence[BlockResult], seconds: float) -> None:
    """Join the blocks of a slide and publish its boxes."""
    table = merge_blocks(result.table for result in results)
    analysed = float(np.sum([result.analysed_mm2 for result in results]))
    lost = float(np.sum([result.lost_mm2 for result in results]))

    def write(group: Any) -> None:
        for name in ("boxes", "area_um2", "score", "cut"):
            group.create_array(name, data=getattr(table, name))

    attributes = {
        "objects": len(table),
        "blocks": len(results),
        "analysed_mm2": analysed,
        "lost_mm2": lost,
        "lost": [list(region) for result in results for region in result.lost_regions],
        "seconds": round(seconds, 3),
    }
    store.publish(job.folder, "boxes", job.fingerprints["boxes"], attributes, write)


def count_parts(objects: int) -> int:
    """Parts that so many objects make."""
    return -(-objects // PART_ROWS)


def crop_part(job: SlideJob, part: int) -> int:
    """Cut, encode and keep the crops of one part; returns how many objects it holds."""
    path = store.part_path(job.folder, "crops", job.fingerprints["crops"], part)
    boxes = store.read_array(store.read_stage(job.folder, "boxes"), "boxes")[part * PART_ROWS : (part + 1) * PART_ROWS]
    if path.exists():
        return len(boxes)
    jpegs = [b""] * len(boxes)
    reasons: dict[int, str] = {}
    for row, crop in cut_crops(borrow_slide(job.path, job.mpp), boxes, job.crops):
        if isinstance(crop, RegionError):
            reasons[row] = str(crop)
        else:
            jpegs[row] = encode_crop(crop, job.crops)
    store.save_part(
        path,
        jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
        lengths=np.array([len(jpeg) for jpeg in jpegs], np.int64),
        lost=np.array(json.dumps({part * PART_ROWS + row: reason for row, reason in sorted(reasons.items())})),
    )
    return len(boxes)


def publish_crops(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the crop parts of a slide and publish them."""
    wanted = job.fingerprints["crops"]
    paths = [store.part_path(job.folder, "crops", wanted, part) for part in range(parts)]
    lengths: list[Any] = [np.zeros(0, np.int64)]
    lost: dict[str, str] = {}
    for path in paths:
        stored = store.load_part(path)
        lengths.append(stored["lengths"])
        lost |= json.loads(str(stored["lost"]))
    ends = np.cumsum(np.concatenate(lengths)).astype(np.int64)
    total = int(ends[-1]) if len(ends) else 0
    attributes = {"objects": len(ends), "lost": lost, "seconds": round(seconds, 3)}
    store.publish(
        job.folder,
        "crops",
        wanted,
        attributes,
        lambda group: store.write_jpegs(group, (store.load_part(path)["jpeg"] for path in paths), total, ends),
    )
    store.drop_parts(job.folder, "crops", wanted)


def embed_part(job: SlideJob, part: int) -> int:
    """Embed the stored crops of one part; returns how many objects it holds. A crop that is lost embeds as NaN."""
    path = store.part_path(job.folder, "embeddings", job.fingerprints["embeddings"], part)
    reader = store.CropReader(job.folder)
    start, stop = part * PART_ROWS, min((part + 1) * PART_ROWS, len(reader))
    if path.exists():
        return stop - start
    jpegs = reader.jpegs(start, stop)
    backbone = get_backbone(job.embed.plugin, job.embed.device)
    kept = [row for row, jpeg in enumerate(jpegs) if jpeg]
    names = [object_id(job.slide_id, start + row) for row in kept]
    embeddings = embed_crops(
        backbone, [decode_crop(jpegs[row]) for row in kept], names, job.embed.views, job.embed.batch
    )
    every = np.full((len(jpegs), embeddings.shape[1]), np.nan, np.float32)
    every[kept] = embeddings
    store.save_part(path, embeddings=every)
    return stop - start


def publish_embeddings(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the embedded parts of a slide and publish them."""
    wanted = job.fingerprints["embeddings"]
    loaded = [
        store.load_part(store.part_path(job.folder, "embeddings", wanted, part))["embeddings"] for part in range(parts)
    ]
    embeddings: Float32Array = np.concatenate(loaded) if loaded else np.zeros((0, 0), np.float32)
    attributes = {"objects": len(embeddings), "seconds": round(seconds, 3)}
    store.publish(job.folder, "embeddings", wanted, attributes, lambda group: store.write_embeddings(group, embeddings))
    store.drop_parts(job.folder, "embeddings", wanted)


def embed_reference_part(spec: EmbedSpec, root: Path, files: Sequence[str]) -> tuple[Float32Array, str | None]:
    """Embed some images of a reference folder; returns the embeddings and, where the backbone tells it, its weights' sha256."""
    backbone = get_backbone(spec.plugin, spec.device)
    images = [read_image(root / file) for file in files]
    embeddings = embed_crops(backbone, images, files, spec.views, spec.batch)
    return embeddings, getattr(backbone, "weights_sha256", None)


def object_id(slide_id: str, row: int) -> str:
    """The name of an object: its slide and its row in the slide's table."""
    return f"{slide_id}:{row:05d}"
