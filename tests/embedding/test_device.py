"""Which device embeds."""

import pytest

from slidepipe.embedding import device
from slidepipe.embedding.device import local_gpus, resolve_device
from slidepipe.errors import SettingsError


def test_cpu_is_always_there() -> None:
    """`cpu` needs no GPU and selects none."""
    assert resolve_device("cpu") == "cpu"
    assert local_gpus("cpu") == ()


def test_auto_without_driver_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an NVIDIA driver, `auto` is the CPU."""
    monkeypatch.setattr(device, "_has_nvidia_driver", lambda: False)
    assert resolve_device("auto") == "cpu"
    assert local_gpus("auto") == ()


def test_gpu_that_is_not_there_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is requested by name must exist; `auto` accepts its absence."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(device, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(SettingsError, match="no usable NVIDIA GPU"):
        resolve_device("cuda:0")


def test_gpus_are_numbered_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` and `auto` select all GPUs, `cuda:N` one of them."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(device, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
    assert local_gpus("auto") == local_gpus("cuda") == (0, 1)
    assert local_gpus("cuda:1") == (1,)
    with pytest.raises(SettingsError, match=r"2 GPU\(s\), numbered from cuda:0"):
        resolve_device("cuda:2")
