"""What runs in a worker: plain functions of small descriptions (paths, names, numbers), never of pixels.

Each opens what it needs where it runs, writes its part of the store, and returns numbers. Slides, detectors and loaded
backbones are kept by the worker between tasks.
"""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

import slidepipe
from slidepipe import plugins
from slidepipe.classification.reference_set import EmbeddedPart, read_image
from slidepipe.crops.cut import CropSpec, as_stored, cut_crops, decode_crop, encode_crop
from slidepipe.crops.quality import long_sides_um, measure_crop
from slidepipe.detection.blocks import Block, Grid, read_window
from slidepipe.detection.detect_slide import BlockResult, detect_block, merge_blocks
from slidepipe.embedding.embed import embed_crops, join_embeddings, resolve_device
from slidepipe.errors import RegionError, SlidepipeError
from slidepipe.interfaces import Backbone, Detector, Float32Array, UInt8Array
from slidepipe.paths import relocate, relocate_path
from slidepipe.slides.geometry import Box
from slidepipe.slides.handles import cached_slide
from slidepipe.slides.reader import SlideReader
from slidepipe.store.arrays import read_array, write_embedding_parts, write_jpegs
from slidepipe.store.slide_store import SlideStore, StageName

#: Objects of a part of the crops: one task, one file. A part of the embeddings is a batch, so that batches (and their rounding)
#: do not depend on who does the work.
PART_ROWS = 256


@dataclass(frozen=True)
class PluginSpec:
    """How to build a plugin in any process. ``settings`` is JSON, so that the description can be hashed.

    ``digest`` stands for the bytes of all its files: a process that has built the plugin builds it again when they change.
    """

    name: str
    settings: str = "{}"
    weights: Path | None = None
    files: tuple[Path, ...] = ()
    digest: str = ""

    def relocated(self, paths: Mapping[str, str]) -> Self:
        """The same plugin where ``paths`` says that folders are elsewhere; absolute paths in name and settings too."""

        def moved(text: Any) -> Any:
            return str(relocate_path(Path(text), paths)) if isinstance(text, str) and Path(text).is_absolute() else text

        base, colon, argument = self.name.partition(":")
        settings = {key: moved(value) for key, value in json.loads(self.settings).items()}
        return replace(
            self,
            name=base + colon + moved(argument),
            settings=json.dumps(settings, sort_keys=True),
            weights=relocate(self.weights, paths),
            files=relocate(self.files, paths),
        )


@dataclass(frozen=True)
class EmbedSpec:
    """How crops are embedded.

    Attributes:
        isolate: the object of each crop alone (:mod:`slidepipe.crops.isolate`), laid by its long axis.
        beside: a second backbone, whose embeddings of the same crops join those of the first.
    """

    plugin: PluginSpec
    device: str
    views: int
    batch: int
    isolate: bool = False
    beside: "EmbedSpec | None" = None


@dataclass(frozen=True)
class SlideJob:
    """One slide's work: where it is, where its store is, and what each stage must be fingerprinted as.

    ``identity`` stands for the slide's bytes. Without ``keep_crops`` the crops go once they are embedded.
    """

    slide_id: str
    path: Path
    identity: str
    mpp: float | None
    store: SlideStore
    detector: PluginSpec
    crops: CropSpec
    embed: EmbedSpec
    keep_crops: bool = True
    fingerprints: dict[StageName, str] = field(default_factory=dict)

    def borrow(self) -> SlideReader:
        """The slide's handle of this thread."""
        return cached_slide(self.path, self.mpp, self.identity)

    def without_path(self, reason: str) -> str:
        """A reason without the slide's path, which its row names anyhow and which is another one on another machine."""
        return reason.removeprefix(f"{self.path}: ")


@functools.lru_cache(maxsize=4)
def get_detector(spec: PluginSpec) -> Detector:
    """The detector of ``spec``, kept by this process."""
    plugins.register_files(spec.files)
    return plugins.create("detector", spec.name, json.loads(spec.settings))


@functools.lru_cache(maxsize=2)
def get_backbone(spec: PluginSpec, device: str) -> Backbone:
    """The loaded backbone of ``spec``, kept by this process, as is the one beside it."""
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
    result = detect_block(job.borrow(), grid, block, get_detector(job.detector))
    return replace(
        result, lost_regions=tuple((region, job.without_path(reason)) for region, reason in result.lost_regions)
    )


def measure_lost_mm2(job: SlideJob, grid: Grid, regions: Sequence[str]) -> float:
    """How much of regions that could not be read ("x0,y0,x1,y1", level-0 pixels) cannot be read now either."""
    lost_px = 0
    for region in regions:
        x0, y0, x1, y1 = (int(edge) for edge in region.split(","))
        window = Box(
            round((x0 - grid.x0_px) / grid.scale_x),
            round((y0 - grid.y0_px) / grid.scale_y),
            round((x1 - grid.x0_px) / grid.scale_x),
            round((y1 - grid.y0_px) / grid.scale_y),
        )
        lost_px += int(read_window(job.borrow(), grid, window).failed.sum())
    return lost_px * grid.mpp * grid.mpp * 1e-6


def count_lost_crops(job: SlideJob, rows: Sequence[int]) -> int:
    """How many objects whose pixels could not be read cannot be read now either."""
    boxes = job.store.read_array("boxes", "boxes")[list(rows)]
    return sum(isinstance(crop, RegionError) for _, crop in cut_crops(job.borrow(), boxes, job.crops))


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
    job.store.unpublish("crops", "embeddings")  # they are of the boxes before
    job.store.publish("boxes", job.fingerprints["boxes"], attributes, write)


def count_parts(objects: int, rows: int = PART_ROWS) -> int:
    """Parts of ``rows`` that so many objects make."""
    return -(-objects // rows)


#: What a part of the crops holds for each object besides the JPEG's bytes.
_CROP_COLUMNS = {"lengths": np.int64, "black_share": np.float64, "edge_um": np.float64}


def crop_part(job: SlideJob, part: int, again: bool = False) -> int:
    """Cut, encode and keep the crops of one part; returns how many objects it holds. ``again``: even where that was done."""
    wanted = job.fingerprints["crops"]
    boxes = job.store.read_array("boxes", "boxes")[part * PART_ROWS : (part + 1) * PART_ROWS]
    if not again and job.store.part_path("crops", wanted, part).exists():
        return len(boxes)
    jpegs = [b""] * len(boxes)
    reasons: dict[int, str] = {}
    measured = np.full((2, len(boxes)), np.nan)
    slide = job.borrow()
    long_um = long_sides_um(boxes, slide.meta.mpp_x, slide.meta.mpp_y) * (1 + 2 * job.crops.margin)
    for row, crop in cut_crops(slide, boxes, job.crops):
        if isinstance(crop, RegionError):
            reasons[row] = job.without_path(str(crop))
        else:
            jpegs[row] = encode_crop(crop, job.crops)
            measured[:, row] = measure_crop(crop, long_um[row] / max(crop.shape[:2]))
    job.store.save_part(
        "crops",
        wanted,
        part,
        black_share=measured[0],
        edge_um=measured[1],
        jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
        lengths=np.array([len(jpeg) for jpeg in jpegs], np.int64),
        lost=np.array(json.dumps({part * PART_ROWS + row: reason for row, reason in sorted(reasons.items())})),
    )
    return len(boxes)


def find_lost_parts(job: SlideJob, parts: int) -> list[int]:
    """The crop parts in which an object could not be read."""
    wanted = job.fingerprints["crops"]
    return [part for part in range(parts) if json.loads(str(job.store.load_part("crops", wanted, part)["lost"]))]


def publish_crops(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the crop parts of a slide and publish them."""
    wanted = job.fingerprints["crops"]
    columns: dict[str, list[Any]] = {name: [np.zeros(0, kind)] for name, kind in _CROP_COLUMNS.items()}
    lost: dict[str, str] = {}
    for part in range(parts):
        stored = job.store.load_part("crops", wanted, part)
        for name, kept in columns.items():
            kept.append(stored[name])
        lost |= json.loads(str(stored["lost"]))
    joined = {name: np.concatenate(kept) for name, kept in columns.items()}
    ends = np.cumsum(joined.pop("lengths")).astype(np.int64)
    total = int(ends[-1]) if len(ends) else 0
    attributes = {"objects": len(ends), "lost": lost, "kept": True, "seconds": round(seconds, 3)}

    def write(group: Any) -> None:
        jpegs = (job.store.load_part("crops", wanted, part)["jpeg"] for part in range(parts))
        write_jpegs(group, jpegs, total, ends)
        for name, values in joined.items():
            group.create_array(name, data=values)

    job.store.unpublish("embeddings")  # they are of the crops before
    job.store.publish("crops", wanted, attributes, write)
    job.store.delete_parts("crops", wanted)


def strip_crops(job: SlideJob) -> None:
    """Publish the crops of a slide without their pixels: what was measured on them stays, and which could not be read."""
    attributes = {**job.store.attributes("crops"), "kept": False}
    before = job.store.read("crops")
    measured = {name: read_array(before, name) for name in _CROP_COLUMNS if name != "lengths"}

    def write(group: Any) -> None:
        write_jpegs(group, iter(()), 0, np.zeros(int(attributes["objects"]), np.int64))
        for name, values in measured.items():
            group.create_array(name, data=values)

    job.store.publish("crops", job.fingerprints["crops"], attributes, write)


def embed_part(job: SlideJob, part: int) -> int:
    """Embed the stored crops of one part; returns how many objects it holds. A crop that is lost embeds as NaN."""
    return _embed_part(job, job.embed, part, part)


def embed_beside_part(job: SlideJob, parts: int, part: int) -> int:
    """Embed the same by the backbone beside it, as part number ``parts`` + ``part``; returns 0, none being counted twice."""
    if job.embed.beside is None:
        raise SlidepipeError("there is no backbone beside the other")
    _embed_part(job, job.embed.beside, part, parts + part)
    return 0


def _embed_part(job: SlideJob, spec: EmbedSpec, part: int, kept_as: int) -> int:
    wanted = job.fingerprints["embeddings"]
    reader = job.store.crops()
    start, stop = part * spec.batch, min((part + 1) * spec.batch, len(reader))
    if job.store.part_path("embeddings", wanted, kept_as).exists():
        return stop - start
    jpegs = reader.jpegs(start, stop)
    kept = [row for row, jpeg in enumerate(jpegs) if jpeg]
    names = [object_id(job.slide_id, start + row) for row in kept]
    embeddings = _embed_by(spec, [decode_crop(jpegs[row]) for row in kept], names)
    every = np.full((len(jpegs), embeddings.shape[1]), np.nan, np.float32)
    every[kept] = embeddings
    job.store.save_part("embeddings", wanted, kept_as, embeddings=every)
    return stop - start


def publish_embeddings(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the embedded parts of a slide and publish them."""
    wanted = job.fingerprints["embeddings"]
    objects = int(job.store.attributes("crops")["objects"])

    def load(part: int) -> Float32Array:
        return job.store.load_part("embeddings", wanted, part)["embeddings"]

    own = (load(part) for part in range(parts))
    whole = (
        own if job.embed.beside is None else map(join_embeddings, own, (load(parts + part) for part in range(parts)))
    )
    attributes = {"objects": objects, "seconds": round(seconds, 3)}
    job.store.publish("embeddings", wanted, attributes, lambda group: write_embedding_parts(group, whole, objects))
    job.store.delete_parts("embeddings", wanted)


def embed_reference_part(spec: EmbedSpec, crops: CropSpec, root: Path, files: Sequence[str]) -> EmbeddedPart:
    """Embed some images of a reference folder: as they are, and as a run would have stored them as crops."""
    backbone = get_backbone(spec.plugin, spec.device)
    images = [read_image(root / file) for file in files]
    stored = [as_stored(image, crops) for image in images]
    return EmbeddedPart(
        embed_images(spec, images, files),
        embed_images(spec, stored, files),
        getattr(backbone, "weights_sha256", None),
    )


def embed_images(spec: EmbedSpec, images: Sequence[UInt8Array], names: Sequence[str]) -> Float32Array:
    """Embed images, each uint8 (h, w, 3), as a run embeds crops: float32 (N, D)."""
    own = _embed_by(spec, images, names)
    return own if spec.beside is None else join_embeddings(own, _embed_by(spec.beside, images, names))


def _embed_by(spec: EmbedSpec, crops: Sequence[UInt8Array], names: Sequence[str]) -> Float32Array:
    return embed_crops(get_backbone(spec.plugin, spec.device), crops, names, spec.views, spec.batch, spec.isolate)


def look_around(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """What a worker on another machine is asked before it is given work: its slidepipe, and which paths it does not see."""
    return slidepipe.__version__, [str(path) for path in folders if not path.exists()]


def object_id(slide_id: str, row: int) -> str:
    """The name of an object: its slide and its row in the slide's table."""
    return f"{slide_id}:{row:05d}"
