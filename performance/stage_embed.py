"""Embedding with MobileNetV1 on the CPU: images per second compared with a bare forward loop of the same network.

The bare loop runs the network of the backbone on normalised float32 images in memory, on all cores. It uses the fastest batch
size and memory layout of this machine, and the faster of two set-ups: one process per core with one thread each, or one
process with one thread per core. It is compared with two measurements with one process per core and one thread each: the
backbone's `embed` on squares in memory, and the complete way from stored JPEG crops to embeddings averaged over 8
orientations, as in a worker.
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
from slidepipe.crops.isolate import align_to_long_axis, isolate
from slidepipe.embedding.embed import embed_crops
from slidepipe.embedding.square import to_squares
from slidepipe.errors import RegionError
from slidepipe.interfaces import Backbone
from slidepipe.slides.reader import open_slide

NAME = "timm:mobilenetv1_100"
SETTINGS: dict[str, Any] = {"model_kwargs": {"pad_type": "same"}, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
ORIENTATIONS, BATCH, INPUT_PX = 8, 64, 224
#: Batch sizes tried with the bare loop.
LOOP_BATCHES = (8, 16, 32, 64)
_TRY_S = 1.0


def weights_of(data: Path) -> Path:
    """Return the weight file of MobileNetV1."""
    return data / "weights" / "mobilenetv1_100_coral.pth"


@dataclass(frozen=True)
class Loop:
    """A bare forward loop: batch size, memory layout, threads per process and number of processes."""

    batch: int
    channels_last: bool
    threads: int
    processes: int


def bare_loop(weights: str, loop: Loop, images: int) -> Callable[[], object]:
    """Return the forward loop of the same network over `images` images in memory, ready to start."""
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
        network(pixels)  # the first call chooses kernels
    return run


def loaded_backbone(weights: str) -> Backbone:
    """Return the backbone as a worker loads it, with one thread."""
    import torch

    backbone = plugins.create("backbone", NAME, SETTINGS, Path(weights)).load("cpu")
    torch.set_num_threads(1)
    return backbone


def backbone_loop(weights: str, images: int) -> Callable[[], object]:
    """Return the backbone's `embed` over squares in memory, ready to start."""
    backbone = loaded_backbone(weights)
    squares = np.random.default_rng(0).integers(0, 256, (BATCH, backbone.input_px, backbone.input_px, 3), np.uint8)
    sizes = [min(BATCH, images - start) for start in range(0, images, BATCH)]
    backbone.embed(squares)
    return lambda: [backbone.embed(squares[:size]) for size in sizes]


def worker_loop(weights: str, jpegs: list[bytes]) -> Callable[[], object]:
    """Return the way from stored crops to embeddings, as in a worker, ready to start."""
    backbone = loaded_backbone(weights)
    names = [str(number) for number in range(len(jpegs))]
    backbone.embed(np.zeros((BATCH, backbone.input_px, backbone.input_px, 3), np.uint8))
    return lambda: embed_crops(
        backbone, [decode_crop(jpeg) for jpeg in jpegs], names, ORIENTATIONS, BATCH, isolated=True
    )


def waiting_loop(jpegs: list[bytes], input_px: int) -> Callable[[], object]:
    """Return the preparation of crops before the network, as in a worker, ready to start."""

    def run() -> None:
        for poses in zip(*(align_to_long_axis(isolate(decode_crop(jpeg))) for jpeg in jpegs), strict=True):
            to_squares(poses, input_px, "pad")

    return run


def fastest_loop(weights: Path, images: int, repeats: int) -> tuple[Loop, Timing]:
    """Return the fastest bare loop on this machine, and its time on all cores."""
    cores = os.cpu_count() or 1
    timed: dict[Loop, Timing] = {}
    for threads, processes in ((1, cores), (cores, 1)):
        loops = [Loop(batch, last, threads, processes) for batch in LOOP_BATCHES for last in (True, False)]
        best = max(loops, key=lambda loop: _speed(weights, loop))
        timed[best] = time_bare_loop(weights, best, images, repeats)
    return min(timed.items(), key=lambda item: item[1].wall_s)


def _speed(weights: Path, loop: Loop) -> float:
    # In this process only: this compares batches and layouts, not cores.
    run = bare_loop(str(weights), loop, loop.batch)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < _TRY_S:
        run()
        rounds += 1
    return rounds * loop.batch / (time.perf_counter() - started)


def time_bare_loop(weights: Path, loop: Loop, images: int, repeats: int) -> Timing:
    """Return the seconds of the bare loop over `images` images on all cores."""
    shares = [
        images * (index + 1) // loop.processes - images * index // loop.processes for index in range(loop.processes)
    ]
    return at_once(bare_loop, [(str(weights), loop, share) for share in shares], repeats)


def composite_crops(data: Path, count: int) -> list[bytes]:
    """Return `count` stored crops of the composite wells."""
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
    """Measure on all cores, with crops of the composite wells."""
    data = data_folder()
    if data is None or not weights_of(data).exists():
        return Measured(skipped=[f"embedding: {NO_DATA} with the weights of MobileNetV1"])
    weights, cores = weights_of(data), os.cpu_count() or 1
    jpegs = composite_crops(data, scale.crops)
    images = len(jpegs) * ORIENTATIONS * cores
    loop, bare = fastest_loop(weights, images, scale.repeats)
    own = at_once(backbone_loop, [(str(weights), len(jpegs) * ORIENTATIONS)] * cores, scale.repeats)
    whole = at_once(worker_loop, [(str(weights), jpegs)] * cores, scale.repeats)
    waiting = at_once(waiting_loop, [(jpegs, 256)] * cores, scale.repeats)
    figures = {
        "crops_a_process": len(jpegs),
        "orientations": ORIENTATIONS,
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
    compared = (
        f"bare forward loop {images / bare.wall_s:.0f} ({loop.processes} processes of {loop.threads} threads, batches of "
        f"{loop.batch}, {layout}); the backbone on squares in place {images / own.wall_s:.0f}"
    )
    rows = [
        Row(
            "embedding, MobileNetV1, 8 orientations, stored crops to embeddings, images per second on all cores",
            f"{images / whole.wall_s:.0f}",
            compared,
        ),
        Row(
            "embedding: share of it that the network waits for crops (decoding, isolating, making square)",
            f"{waiting.wall_s / whole.wall_s:.1%}",
        ),
    ]
    return Measured(rows, figures)
