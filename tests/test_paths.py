from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.paths import relocate
from slidepipe.pipeline.specs import PluginSpec


@dataclass(frozen=True)
class Inner:
    path: Path
    name: str


@dataclass(frozen=True)
class Outer:
    inner: Inner
    more: tuple[Path, ...]
    pixels: np.ndarray


def test_relocate_every_path_below_a_folder() -> None:
    pixels = np.zeros(3)
    value = Outer(
        Inner(Path("/mnt/scans/a.svs"), "/mnt/scans/a.svs"), (Path("/mnt/scans"), Path("/mnt/scanset/b")), pixels
    )
    moved = relocate(value, {"/mnt/scans": "/data"})
    assert moved.inner == Inner(Path("/data/a.svs"), "/mnt/scans/a.svs")  # a name that looks like a path is not one
    assert moved.more == (Path("/data"), Path("/mnt/scanset/b"))
    assert moved.pixels is pixels
    assert relocate(value, {}) is value
    assert relocate(value, {"/elsewhere": "/x"}) is value


def test_inner_folder_is_replaced() -> None:
    paths = {"/a": "/outer", "/a/b": "/inner"}
    assert relocate([Path("/a/c"), Path("/a/b/c")], paths) == [Path("/outer/c"), Path("/inner/c")]


def test_relocate_plugin_files() -> None:
    spec = PluginSpec(
        "yolo:/a/net.onnx", '{"classes": "/a/names.txt", "limit": 3}', Path("/a/w.pth"), (Path("/a/p.py"),), "d"
    )
    assert relocate(spec, {"/a": "/b"}) == PluginSpec(
        "yolo:/b/net.onnx", '{"classes": "/b/names.txt", "limit": 3}', Path("/b/w.pth"), (Path("/b/p.py"),), "d"
    )


@given(st.lists(st.sampled_from("abc"), max_size=4))
def test_relocate_there_and_back(parts: list[str]) -> None:
    path = Path("/here", *parts)
    assert relocate(relocate(path, {"/here": "/there"}), {"/there": "/here"}) == path
