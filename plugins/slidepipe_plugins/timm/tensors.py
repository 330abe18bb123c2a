"""Compute embeddings from uint8 crops on any device. Importing this module imports torch.

CPU and GPU share one code path. Crops are copied as uint8 through two staging buffers. On a GPU, the buffers are pinned and
copied on a second stream while the network computes the chunk before. Embeddings are copied back after the last chunk.
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

#: Largest number of crops per forward pass on a CPU. With more crops, the outputs of a layer do not fit into the processor's
#: cache: on one core, MobileNetV1 embeds 62 images per second with 8 crops per pass, and 37 with 64.
_CPU_BATCH = 8


def embed_crops(
    forward: Callable[[torch.Tensor], torch.Tensor],
    crops: UInt8Array,
    steps: Preprocessing,
    device: torch.device,
    batch: int,
) -> Float32Array:
    """Embed crops.

    Args:
        forward: function from pixels, float32 (n, 3, input_px, input_px), to embeddings (n, dim).
        crops: uint8 (N, H, W, 3), sRGB, N at least 1.
        steps: the preprocessing.
        device: where the network is.
        batch: number of crops per forward pass; on a CPU at most 8.

    Returns:
        float32 (N, dim).
    """
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
    """Resize crops, uint8 (N, H, W, 3), to squares with Pillow's bicubic filter (antialiased, rounded), as in the protocol."""
    if crops.shape[1:3] == (resize_px, resize_px):
        return crops
    size = (resize_px, resize_px)
    return np.stack([np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)) for crop in crops])


def prepare(chunk: torch.Tensor, steps: Preprocessing) -> torch.Tensor:
    """Resize (if necessary), centre crop and normalise uint8 (N, H, W, 3) to float32 (N, 3, input_px, input_px)."""
    pixels = chunk.permute(0, 3, 1, 2)  # not copied: the memory layout stays channels-last
    size = (steps.resize_px, steps.resize_px)
    if tuple(pixels.shape[-2:]) != size:
        # On a CPU, torch resizes uint8 as Pillow does. On a GPU, it resizes floats only, which are rounded below.
        given = pixels if pixels.device.type == "cpu" else pixels.float()
        resized = functional.interpolate(given, size=size, mode="bicubic", antialias=True)
        pixels = resized.float().round().clamp(0, 255)
    margin = round((steps.resize_px - steps.input_px) / 2.0)
    pixels = pixels[..., margin : margin + steps.input_px, margin : margin + steps.input_px]
    mean = torch.tensor(steps.mean, device=chunk.device).view(1, 3, 1, 1)
    std = torch.tensor(steps.std, device=chunk.device).view(1, 3, 1, 1)
    return (pixels.float() / 255.0 - mean) / std


def staged(crops: UInt8Array, device: torch.device, batch: int) -> Iterator[torch.Tensor]:
    """Yield chunks of crops, uint8 (n, H, W, 3), on the device. A chunk is valid until the next one is requested."""
    on_gpu = device.type == "cuda"
    batch = min(batch, len(crops))
    buffers = [torch.empty((batch, *crops.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
    starts = range(0, len(crops), batch)
    if not on_gpu:
        for start in starts:
            yield _fill(buffers[0], crops[start : start + batch])
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # this class of torch has no types
    copied: list[torch.cuda.Event | None] = [None, None]

    def send(number: int) -> torch.Tensor:
        slot = number % 2
        earlier = copied[slot]
        if earlier is not None:
            earlier.synchronize()  # this buffer must be copied completely before it is filled again
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
    """Return a context that sets the precision.

    It is float32 on a CPU and in exact mode (TF32, with its ten bits, is then disabled), and bfloat16 on a GPU otherwise.
    """
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
    """Return the function from normalised pixels to embeddings.

    A token network returns (N, T, C), where the first `num_prefix_tokens` tokens are not patches. Other networks return a
    map, (N, C, H, W), or (N, H, W, C) if the attribute `output_fmt` of timm is `NHWC`.

    Args:
        network: a network of timm.
        pool: `token`, `avg` or `token+avg`; None for the pooling of the network.
    """
    if pool is None:
        return network
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = cast(Any, network).forward_features(pixels)
        if features.ndim == 4:
            if pool != "avg":
                raise ValueError("the network has no token to pool; use pool avg, or remove pool")
            return features.mean(dim=(1, 2) if channels_last else (2, 3))
        if pool != "avg" and prefix == 0:
            raise ValueError("the network has no class token; use pool avg, or remove pool")
        token, mean = features[:, 0], features[:, prefix:].mean(dim=1)
        if pool == "token+avg":
            return torch.cat([token, mean], dim=1)
        return token if pool == "token" else mean

    return forward
