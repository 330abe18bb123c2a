"""From uint8 crops to embeddings on any device; importing this module imports torch.

One path for CPU and GPU. Crops travel as uint8 through two staging buffers. On a GPU the buffers are pinned and copied
on a side stream while the network works on the chunk before, and nothing is fetched until the last chunk is launched.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from slidepipe.interfaces import Float32Array, UInt8Array
from slidepipe_plugins.timm.settings import Preprocessing

#: Crops at once on a CPU. With more of them what one layer hands the next no longer fits the processor's cache: MobileNetV1
#: embeds 62 images a second and core 8 at a time, 37 at a time of 64.
_CPU_BATCH = 8


def embed_crops(
    forward: Callable[[torch.Tensor], torch.Tensor],
    crops: UInt8Array,
    steps: Preprocessing,
    device: torch.device,
    batch: int,
) -> Float32Array:
    """Embed uint8 (N, H, W, 3), N >= 1, into float32 (N, dim), ``batch`` at a time, on a CPU at most :data:`_CPU_BATCH`."""
    if device.type == "cpu":
        batch = min(batch, _CPU_BATCH)
    if steps.exact:
        crops = resize_exactly(crops, steps.resize_px)
    outputs: list[torch.Tensor] = []
    with torch.inference_mode(), precision(device, exact=steps.exact):
        for chunk in staged(crops, device, batch):
            outputs.append(forward(prepare(chunk, steps)).float())
        return np.ascontiguousarray(torch.cat(outputs).cpu().numpy(), dtype=np.float32)


def resize_exactly(crops: UInt8Array, resize_px: int) -> UInt8Array:
    """Bring crops to a square with Pillow's bicubic filter (antialiased, rounded to uint8), as the protocol does."""
    if crops.shape[1:3] == (resize_px, resize_px):
        return crops
    size = (resize_px, resize_px)
    return np.stack([np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)) for crop in crops])


def prepare(chunk: torch.Tensor, steps: Preprocessing) -> torch.Tensor:
    """Resize (if it must), centre crop and normalise uint8 (N, H, W, 3) into float32 (N, 3, input_px, input_px)."""
    pixels = chunk.permute(0, 3, 1, 2)  # a view; in memory it stays channels-last
    size = (steps.resize_px, steps.resize_px)
    if tuple(pixels.shape[-2:]) != size:
        # On a CPU torch resizes uint8 as Pillow does; a GPU resizes floats only, here to whole levels again.
        given = pixels if pixels.device.type == "cpu" else pixels.float()
        resized = functional.interpolate(given, size=size, mode="bicubic", antialias=True)
        pixels = resized.float().round().clamp(0, 255)
    margin = round((steps.resize_px - steps.input_px) / 2.0)
    pixels = pixels[..., margin : margin + steps.input_px, margin : margin + steps.input_px]
    mean = torch.tensor(steps.mean, device=chunk.device).view(1, 3, 1, 1)
    std = torch.tensor(steps.std, device=chunk.device).view(1, 3, 1, 1)
    return (pixels.float() / 255.0 - mean) / std


def staged(crops: UInt8Array, device: torch.device, batch: int) -> Iterator[torch.Tensor]:
    """Yield uint8 chunks on the device; a chunk is valid until the next one is asked for."""
    on_gpu = device.type == "cuda"
    batch = min(batch, len(crops))
    buffers = [torch.empty((batch, *crops.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
    starts = range(0, len(crops), batch)
    if not on_gpu:
        for start in starts:
            yield _fill(buffers[0], crops[start : start + batch])
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    copied: list[torch.cuda.Event | None] = [None, None]

    def send(number: int) -> torch.Tensor:
        slot = number % 2
        earlier = copied[slot]
        if earlier is not None:
            earlier.synchronize()  # the copy out of this buffer must be over before it is filled again
        chunk = _fill(buffers[slot], crops[starts[number] : starts[number] + batch])
        with torch.cuda.stream(side):
            sent = chunk.to(device, non_blocking=True)
            copied[slot] = side.record_event()
        return sent

    with torch.cuda.device(device):
        ahead = send(0)
        for number in range(len(starts)):
            sent, done = ahead, copied[number % 2]
            main = torch.cuda.current_stream(device)
            if done is not None:
                main.wait_event(done)
            sent.record_stream(main)  # allocated on the side stream, used on this one
            yield sent
            if number + 1 < len(starts):
                ahead = send(number + 1)


def _fill(buffer: torch.Tensor, crops: UInt8Array) -> torch.Tensor:
    np.copyto(buffer.numpy()[: len(crops)], crops)
    return buffer[: len(crops)]


def precision(device: torch.device, *, exact: bool) -> AbstractContextManager[object]:
    """float32 on the CPU and in the exact mode (without TF32's ten bits); else bfloat16 autocast on a GPU."""
    if device.type != "cuda":
        return nullcontext()
    if not exact:
        return torch.autocast("cuda", dtype=torch.bfloat16)
    stack = ExitStack()
    stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    stack.callback(torch.set_float32_matmul_precision, matmul)
    return stack


def pooled(network: torch.nn.Module, pool: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from normalised pixels to embeddings, pooled the network's own way or as asked.

    Token networks give (N, T, C) with ``num_prefix_tokens`` tokens that are no patches before the others; the rest
    give a map, (N, C, H, W) or, as timm's ``output_fmt`` says, (N, H, W, C).
    """
    if pool is None:
        return network
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = cast(Any, network).forward_features(pixels)
        if features.ndim == 4:
            if pool != "avg":
                raise ValueError("it has no token to pool; use pool avg, or leave pool away")
            return features.mean(dim=(1, 2) if channels_last else (2, 3))
        if pool != "avg" and prefix == 0:
            raise ValueError("it has no class token; use pool avg, or leave pool away")
        token, mean = features[:, 0], features[:, prefix:].mean(dim=1)
        if pool == "token+avg":
            return torch.cat([token, mean], dim=1)
        return token if pool == "token" else mean

    return forward
