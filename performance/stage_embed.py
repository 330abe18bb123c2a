"""Embedding with MobileNetV1 on the CPU: images a second beside a bare forward loop of the same network.

The floor: the network that the backbone loads, on normalised float32 images that are in place, in the batch and memory layout
that are fastest here, on all cores: a process a core with one thread each, or one process with a thread a core, whichever is
faster. Beside it, a process a core with one thread each: the backbone's own ``embed`` on squares in place, and the whole way
from stored JPEG crops to embeddings averaged over 8 views, as a worker does it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from performance.figures import Measured, Row
from performance.scale import NO_DATA, Scale, composite_slides, data_folder
from performance.stage_crop import crop_spec
from performance.stage_detect import detect_slide
from performance.timing import Timing, at_once
from slidepipe import plugins
from slidepipe.crops.cut import cut_crops, decode_crop, encode_crop
from slidepipe.crops.isolate import isolate, laid_by_axis
from slidepipe.embedding.embed import embed_crops
from slidepipe.embedding.square import present
from slidepipe.errors import RegionError
from slidepipe.interfaces import Backbone
from slidepipe.slides.reader import open_slide

NAME = "timm:mobilenetv1_100"
SETTINGS: dict[str, Any] = {"model_kwargs": {"pad_type": "same"}, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
VIEWS, BATCH, INPUT_PX = 8, 64, 224
#: What the bare loop is tried with.
LOOP_BATCHES = (8, 16, 32, 64)
_TRY_S = 1.0


def weights_of(data: Path) -> Path:
    """The weight file of MobileNetV1."""
    return data / "weights" / "mobilenetv1_100_coral.pth"


@dataclass(frozen=True)
class Loop:
    """A bare forward loop: its batch, whether pixels lie channels-last, threads a process, processes."""

    batch: int
    channels_last: bool
    threads: int
    processes: int


def bare_loop(weights: str, loop: Loop, images: int) -> Callable[[], object]:
    """The forward loop of the same network over ``images`` images in place, ready to start."""
    import timm
    import torch

    torch.set_num_threads(loop.threads)
    network = timm.create_model(NAME.partition(":")[2], num_classes=0, **SETTINGS["model_kwargs"])
    network.load_state_dict(torch.load(weights, weights_only=True))
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    network.eval().requires_grad_(False).to(memory_format=layout)
    pixels = torch.rand(loop.batch, 3, INPUT_PX, INPUT_PX).contiguous(memory_format=layout)
    sizes = [min(loop.batch, images - start) for start in range(0, images, loop.batch)]

    def run() -> None:
        with torch.inference_mode():
            for size in sizes:
                network(pixels[:size])

    with torch.inference_mode():
        network(pixels)  # kernels are chosen at the first call
    return run


def loaded_backbone(weights: str) -> Backbone:
    """The backbone as a worker has it, on one thread."""
    import torch

    backbone = plugins.create("backbone", NAME, SETTINGS, Path(weights)).load("cpu")
    torch.set_num_threads(1)
    return backbone


def backbone_loop(weights: str, images: int) -> Callable[[], object]:
    """The backbone's own ``embed`` over squares in place, ready to start."""
    backbone = loaded_backbone(weights)
    squares = np.random.default_rng(0).integers(0, 256, (BATCH, backbone.input_px, backbone.input_px, 3), np.uint8)
    sizes = [min(BATCH, images - start) for start in range(0, images, BATCH)]
    backbone.embed(squares)
    return lambda: [backbone.embed(squares[:size]) for size in sizes]


def worker_loop(weights: str, jpegs: list[bytes]) -> Callable[[], object]:
    """From stored crops to embeddings, as a worker does it, ready to start."""
    backbone = loaded_backbone(weights)
    names = [str(number) for number in range(len(jpegs))]
    backbone.embed(np.zeros((BATCH, backbone.input_px, backbone.input_px, 3), np.uint8))
    return lambda: embed_crops(backbone, [decode_crop(jpeg) for jpeg in jpegs], names, VIEWS, BATCH, alone=True)


def waiting_loop(jpegs: list[bytes], input_px: int) -> Callable[[], object]:
    """What a worker does to crops before the network sees them, ready to start."""

    def run() -> None:
        for poses in zip(*(laid_by_axis(isolate(decode_crop(jpeg))) for jpeg in jpegs), strict=True):
            present(poses, input_px, "pad")

    return run


def fastest_loop(weights: Path, images: int, repeats: int) -> tuple[Loop, Timing]:
    """The bare loop that is fastest here, of processes of one thread and of one process of many, and its time on all cores."""
    cores = os.cpu_count() or 1
    timed: dict[Loop, Timing] = {}
    for threads, processes in ((1, cores), (cores, 1)):
        loops = [Loop(batch, last, threads, processes) for batch in LOOP_BATCHES for last in (True, False)]
        best = max(loops, key=lambda loop: _speed(weights, loop))
        timed[best] = time_bare_loop(weights, best, images, repeats)
    return min(timed.items(), key=lambda item: item[1].wall_s)


def _speed(weights: Path, loop: Loop) -> float:
    # In this process alone: batches and layouts are compared here, not cores.
    run = bare_loop(str(weights), loop, loop.batch)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < _TRY_S:
        run()
        rounds += 1
    return rounds * loop.batch / (time.perf_counter() - started)


def time_bare_loop(weights: Path, loop: Loop, images: int, repeats: int) -> Timing:
    """Seconds of the bare loop over ``images`` images on all cores."""
    shares = [
        images * (index + 1) // loop.processes - images * index // loop.processes for index in range(loop.processes)
    ]
    return at_once(bare_loop, [(str(weights), loop, share) for share in shares], repeats)


def composite_crops(data: Path, count: int) -> list[bytes]:
    """``count`` stored crops of the composite wells."""
    spec, jpegs = crop_spec(), list[bytes]()
    for path in composite_slides(data, 3):
        boxes = detect_slide(path).boxes
        with open_slide(path) as slide:
            for _, crop in cut_crops(slide, boxes, spec):
                if len(jpegs) == count:
                    return jpegs
                if not isinstance(crop, RegionError):
                    jpegs.append(encode_crop(crop, spec))
    return jpegs


def measure(scale: Scale) -> Measured:
    """Measure on all cores, on crops of the composite wells."""
    data = data_folder()
    if data is None or not weights_of(data).exists():
        return Measured(skipped=[f"embedding: {NO_DATA} with the weights of MobileNetV1"])
    weights, cores = weights_of(data), os.cpu_count() or 1
    jpegs = composite_crops(data, scale.crops)
    images = len(jpegs) * VIEWS * cores
    loop, bare = fastest_loop(weights, images, scale.repeats)
    own = at_once(backbone_loop, [(str(weights), len(jpegs) * VIEWS)] * cores, scale.repeats)
    whole = at_once(worker_loop, [(str(weights), jpegs)] * cores, scale.repeats)
    waiting = at_once(waiting_loop, [(jpegs, 256)] * cores, scale.repeats)
    figures = {
        "crops_a_process": len(jpegs),
        "views": VIEWS,
        "images": images,
        "bare_loop": vars(loop),
        "bare": vars(bare),
        "backbone": vars(own),
        "stored crops to embeddings": vars(whole),
        "decoding and presenting": vars(waiting),
        "images_a_second": {
            "bare": images / bare.wall_s,
            "backbone": images / own.wall_s,
            "whole": images / whole.wall_s,
        },
    }
    layout = "channels-last" if loop.channels_last else "channels-first"
    beside = (
        f"bare forward loop {images / bare.wall_s:.0f} ({loop.processes} processes of {loop.threads} threads, batches of "
        f"{loop.batch}, {layout}); the backbone on squares in place {images / own.wall_s:.0f}"
    )
    rows = [
        Row(
            "embedding, MobileNetV1, 8 views, stored crops to embeddings, images a second on all cores",
            f"{images / whole.wall_s:.0f}",
            beside,
        ),
        Row(
            "embedding: share of it that the network waits for crops (decoding, isolating, making square)",
            f"{waiting.wall_s / whole.wall_s:.1%}",
        ),
    ]
    return Measured(rows, figures)
