"""Weights files: fetching, verifying, reading safely, and loading strictly."""

import argparse
import hashlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from slidepipe import weights
from slidepipe.errors import WeightsError
from slidepipe.weights import HubFile
from tests.hub_server import COMMIT, running


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # no pauses between attempts
        yield hub


CONTENT = bytes(range(256)) * 40


def test_fetch_uses_cache(hub, monkeypatch):
    hub.files["owner/net", "w.pth"] = CONTENT
    path = weights.fetch([HubFile("owner/net", "w.pth")], "net")
    assert path.read_bytes() == CONTENT
    assert COMMIT in path.parts
    assert weights.verify_sha256(path, None) == hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(hub.requests)
    assert weights.fetch([HubFile("owner/net", "w.pth")], "net") == path
    assert len(hub.requests) == before


def test_fetch_revision(hub):
    hub.files["owner/net", "w.pth"] = CONTENT
    weights.fetch([HubFile("owner/net", "w.pth", "v1.0")], "net")
    assert "GET /owner/net/resolve/v1.0/w.pth" in hub.requests


def test_fetch_next_candidate(hub):
    hub.files["owner/net", "w.pth"] = CONTENT
    candidates = [HubFile("nobody/net", "w.pth"), HubFile("owner/net", "absent.pth"), HubFile("owner/net", "w.pth")]
    assert weights.fetch(candidates, "net").read_bytes() == CONTENT


def test_fetch_no_candidate(hub):
    hub.files["owner/net", "other.pth"] = CONTENT
    with pytest.raises(WeightsError) as caught:
        weights.fetch([HubFile("owner/net", "w.pth"), HubFile("nobody/net", "w.pth")], "some-net")
    message = str(caught.value)
    assert message.startswith("weights of some-net cannot be fetched: owner/net: w.pth: no such file (404); nobody/net")
    assert "no such public repository (404)" in message
    assert "hf download owner/net w.pth" in message
    assert "--weights FILE" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", ["shorter than promised", "connection closed half way"])
def test_truncated_download(hub, how, monkeypatch):
    file = ("owner/net", "w.pth")
    hub.files[file] = CONTENT
    if how.startswith("shorter"):
        hub.sent[file] = CONTENT[:100]
    else:
        hub.cut.add(file)
    with pytest.raises(WeightsError, match=r"weights of net cannot be fetched: owner/net: w\.pth: download failed"):
        weights.fetch([HubFile(*file)], "net")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="not in the cache and HF_HUB_OFFLINE is set"):
        weights.fetch([HubFile(*file)], "net")


def test_download_checksum_mismatch(hub):
    file = ("owner/net", "w.pth")
    hub.files[file] = CONTENT
    hub.etags[file] = "0" * 64
    path = weights.fetch([HubFile(*file)], "net")
    with pytest.raises(WeightsError, match=r"checksum mismatch: SHA-256 is [0-9a-f]{64}, expected 0{64}\. Delete "):
        weights.verify_sha256(path, None)


def test_unreachable_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(WeightsError, match="the hub cannot be reached"):
        weights.fetch([HubFile("owner/net", "w.pth")], "net")


def test_invalid_repository_name(hub):
    with pytest.raises(WeightsError, match="'just-a-name/with/slashes' is not of the form OWNER/NAME"):
        weights.fetch([HubFile("just-a-name/with/slashes", "w.pth")], "net")


def test_user_checksum(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(CONTENT)
    right = hashlib.sha256(CONTENT).hexdigest()
    assert weights.verify_sha256(path, right.upper()) == right
    with pytest.raises(WeightsError, match=rf"w\.pth: checksum mismatch: SHA-256 is {right}, expected f{{64}}"):
        weights.verify_sha256(path, "f" * 64)
    with pytest.raises(WeightsError, match=r"absent\.pth: the weights cannot be read \(No such file"):
        weights.verify_sha256(tmp_path / "absent.pth", None)


def tensors():
    generator = torch.Generator().manual_seed(1)
    return {"a.weight": torch.randn(3, 4, generator=generator), "a.bias": torch.randn(3, generator=generator)}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_format_follows_content(tmp_path):
    save_file(tensors(), tmp_path / "safe.pth")
    torch.save(tensors(), tmp_path / "zip.safetensors")
    torch.save(tensors(), tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    for name in ("safe.pth", "zip.safetensors", "legacy.bin"):
        assert same(weights.read_checkpoint(tmp_path / name), tensors())


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file(tmp_path, form, share):
    whole = tmp_path / "whole"
    if form == "safetensors":
        save_file(tensors(), whole)
    else:
        torch.save(tensors(), whole, _use_new_zipfile_serialization=form == "zip")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"cut\.pth: truncated or damaged"):
        weights.read_checkpoint(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid ...", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"these are no weights at all", "is not a weights file"),
    ],
)
def test_not_a_weights_file(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w\.pth: the file .*{message}"):
        weights.read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"absent\.pth: the weights cannot be read"):
        weights.read_checkpoint(tmp_path / "absent.pth")


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_code_in_checkpoint_is_not_run(tmp_path):
    torch.save({"model": tensors(), "extra": Evil(str(tmp_path / "made"))}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth: the file contains Python objects .*not loaded for safety"):
        weights.read_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(str(tmp_path / "made"))))
    with pytest.raises(WeightsError, match=r"evil\.pkl"):
        weights.read_checkpoint(tmp_path / "evil.pkl")
    assert not (tmp_path / "made").exists()


def training_checkpoint(state):
    """Return a checkpoint as the DINO training script saves it, with a namespace and NumPy numbers."""
    student = {f"module.backbone.{key}": value + 1 for key, value in state.items()}
    student["module.head.mlp.0.weight"] = torch.ones(2, 2)
    teacher = {f"backbone.{key}": value for key, value in state.items()}
    teacher["head.last_layer.weight_g"] = torch.ones(2, 2)
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "params": [0], "n": np.int64(3)}]},
        "epoch": 99,
        "args": argparse.Namespace(arch="vit_small", momentum=np.float32(0.9)),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def test_training_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(training_checkpoint(tensors()), path)
    checkpoint = weights.read_checkpoint(path)
    teacher = weights.network_state(checkpoint, path)
    assert same({key: value for key, value in teacher.items() if not key.startswith("head.")}, tensors())
    student = weights.network_state(checkpoint, path, "student")
    assert torch.equal(student["a.bias"], tensors()["a.bias"] + 1)
    with pytest.raises(
        WeightsError,
        match=r"has no entry 'encoder'\. Choose one of its entries: student, teacher, optimizer, dino_loss",
    ):
        weights.network_state(checkpoint, path, "encoder")


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod.module."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model", "teacher", "student"])
def test_prefixes_and_entries(prefix, entry):
    state = {prefix + key: value for key, value in tensors().items()}
    assert same(weights.network_state({entry: state} if entry else state, Path("w.pth")), tensors())


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "contains a list"),
        ({"epoch": 3}, "no weights in the file. Its entries are: epoch"),
        ({}, "entries are: none"),
    ],
)
def test_file_without_network(checkpoint, message):
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{message}"):
        weights.network_state(checkpoint, Path("w.pth"))


@pytest.fixture(scope="module")
def vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)


def test_load_strictly(vit):
    state = {key: torch.full_like(value, 0.5) for key, value in vit.state_dict().items()}
    weights.load_strictly(vit, {**state, "head.weight": torch.ones(1), "fc_norm.bias": torch.ones(1)}, "net", Path("w"))
    assert all(bool((value == 0.5).all()) for value in vit.state_dict().values())


def test_misfit_keys(vit):
    state = dict(vit.state_dict())
    gone = sorted(state)[:7]
    lacking = {key: value for key, value in state.items() if key not in gone}
    with pytest.raises(WeightsError, match=r"w\.pth: the weights do not fit net: keys: 7 missing \((\S+, ){5}\.\.\.\)"):
        weights.load_strictly(vit, lacking, "net", Path("w.pth"))
    with pytest.raises(WeightsError, match=r"1 unexpected \(blocks_extra\)"):
        weights.load_strictly(vit, {**state, "blocks_extra": torch.ones(1)}, "net", Path("w.pth"))
    with pytest.raises(WeightsError, match=re.escape("1 of another shape (norm.bias (3,) instead of (192,))")):
        weights.load_strictly(vit, {**state, "norm.bias": torch.ones(3)}, "net", Path("w.pth"))


def test_missing_counter():
    network = torch.nn.BatchNorm2d(3)
    state = {key: value for key, value in network.state_dict().items() if key != "num_batches_tracked"}
    weights.load_strictly(network, {**state, "weight": torch.full((3,), 7.0)}, "net", Path("w.pth"))
    assert network.weight.tolist() == [7.0, 7.0, 7.0]


def test_weights_not_finite(vit):
    state = dict(vit.state_dict())
    state["norm.bias"] = torch.full((192,), float("nan"))
    with pytest.raises(WeightsError, match=r"w\.pth: weights are not finite: norm\.bias"):
        weights.load_strictly(vit, state, "net", Path("w.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", "ViT-Tiny/16 (192 wide, patch 16, 12 blocks)"),
        ("vit_small_patch8_224", "ViT-Small/8 (384 wide, patch 8, 12 blocks)"),
        ("vit_base_patch16_224", "ViT-Base/16 (768 wide, patch 16, 12 blocks)"),
        ("resnet18", "a ResNet"),
        ("convnext_atto", "a ConvNeXt"),
        ("mobilenetv1_100", "a MobileNet"),
        ("swin_tiny_patch4_window7_224", "a Swin transformer"),
    ],
)
def test_looks_like(name, message):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert message in weights.looks_like(network.state_dict())


def test_wrong_architecture(vit):
    with torch.device("meta"):
        other = timm.create_model("vit_small_patch8_224", num_classes=0)
    with pytest.raises(WeightsError, match=r"the file looks like ViT-Small/8 .*, net is ViT-Tiny/16 \(192 wide"):
        weights.load_strictly(vit, dict(other.state_dict()), "net", Path("w.pth"))


def test_looks_like_unknown():
    assert weights.looks_like(tensors()) == "an unknown network (2 tensors, the first a.weight)"
