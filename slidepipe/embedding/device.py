"""Which device embeds: the CPU, or one or more NVIDIA GPUs of this machine."""

import shutil
from pathlib import Path

from slidepipe.errors import SettingsError


def resolve_device(device: str) -> str:
    """Return the device that a setting means on this machine.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        `cpu` or `cuda:N`. `auto` gives the first GPU where there is one, else `cpu`.

    Raises:
        SettingsError: a GPU is requested and this machine does not have it.
    """
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"  # Importing torch is slow, and a machine without a driver does not need it to decide.
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return "cpu"
        raise SettingsError(f"device {device}: no usable NVIDIA GPU on this machine. Use --device cpu or auto")
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise SettingsError(
            f"device {device}: this machine has {torch.cuda.device_count()} GPU(s), numbered from cuda:0. "
            "Use one of these, or --device auto"
        )
    return f"cuda:{index}"


def local_gpus(device: str) -> tuple[int, ...]:
    """Return the numbers of the GPUs of this machine that a setting selects.

    Args:
        device: `cuda:N` selects one GPU; `cuda` and `auto` select all; `cpu` selects none.

    Returns:
        GPU numbers; empty for `cpu`, and for `auto` on a machine without GPUs.

    Raises:
        SettingsError: a GPU is requested and this machine does not have it.
    """
    resolved = resolve_device(device)
    if resolved == "cpu":
        return ()
    import torch

    return (int(resolved.partition(":")[2]),) if ":" in device else tuple(range(torch.cuda.device_count()))


def _has_nvidia_driver() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
