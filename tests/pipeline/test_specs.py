"""The specifications of a run: each plugin is built once, and its weights are hashed once, before any work starts."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from slidepipe import plugins
from slidepipe.config import parse_config
from slidepipe.pipeline import fingerprints, flow
from slidepipe.pipeline.engine import Engine
from slidepipe.pipeline.specs import embed_spec
from slidepipe.plugins import creation

WEIGHTED = """
import numpy as np
from pydantic import BaseModel

from slidepipe.interfaces import Backbone


class Weighted(Backbone):
    name = "weighted"
    dim = 6
    input_px = 32
    license = source = "tests"

    class Settings(BaseModel):
        weights: str

    def __init__(self, settings):
        self.settings = settings

    def load(self, device):
        return self

    def embed(self, crops):
        middle = crops[:, 10:22, 10:22].reshape(len(crops), -1, 3).astype(np.float32)
        return np.concatenate([middle.mean(axis=1), middle.std(axis=1)], axis=1).astype(np.float32)
"""


@pytest.fixture
def weighted(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Return settings with a backbone that has a weight file, and a companion backbone."""
    (tmp_path / "weighted.py").write_text(WEIGHTED)
    (tmp_path / "weights.bin").write_bytes(b"weights")
    backbone = {
        **config["backbone"],
        "name": "weighted",
        "weights": str(tmp_path / "weights.bin"),
        "companion": "mean-colour",
    }
    return {**config, "plugins": [*config["plugins"], str(tmp_path / "weighted.py")], "backbone": backbone}


def test_plugins_built_and_hashed_once_per_run(
    colour_well: Path, tmp_path: Path, weighted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of three slides builds each backbone once before work starts and hashes its weights once in all."""
    built, hashed = Counter[str](), Counter[str]()
    before_work: list[Counter[str]] = []
    build, file_sha256, start = creation.build, fingerprints.file_sha256, flow.start_engine

    def count_build(kind: plugins.Kind, name: str, *others: Any, **keywords: Any) -> Any:
        built[f"{kind} {name}"] += 1
        return build(kind, name, *others, **keywords)

    def count_hash(path: Path) -> str:
        hashed[path.name] += 1
        return file_sha256(path)

    def note_builds(*arguments: Any) -> Engine:
        before_work.append(built.copy())
        return start(*arguments)

    monkeypatch.setattr(creation, "build", count_build)
    monkeypatch.setattr(fingerprints, "file_sha256", count_hash)
    monkeypatch.setattr(flow, "start_engine", note_builds)
    run = parse_config(weighted, "test")
    assert flow.run_well(colour_well / "well", tmp_path / "results", run).exit_status == 0
    assert before_work == [
        Counter({"backbone weighted": 1, "backbone mean-colour": 1, "head knn": 1, "detector density": 1})
    ]
    assert hashed == {"weights.bin": 1}
    assert built["backbone weighted"] == built["backbone mean-colour"] == 2  # the second is the one that embeds
    hashed.clear()
    built.clear()
    assert not flow.run_well(colour_well / "well", tmp_path / "results", run).redone
    assert hashed == {"weights.bin": 1}
    assert built["backbone weighted"] == built["backbone mean-colour"] == 1


def test_identity_follows_the_bytes_of_the_weights(weighted: dict[str, Any], tmp_path: Path) -> None:
    """The identity does not depend on where the weights are, but on their bytes."""
    run = parse_config(weighted, "test")
    plugins.register_files(run.plugins)
    first = embed_spec(run)
    (tmp_path / "moved.bin").write_bytes(b"weights")
    backbone = {**weighted["backbone"], "weights": str(tmp_path / "moved.bin")}
    moved = embed_spec(parse_config({**weighted, "backbone": backbone}, "test"))
    assert moved.identity() == first.identity()
    assert moved.digest() == first.digest()
    (tmp_path / "moved.bin").write_bytes(b"others")
    changed = embed_spec(parse_config({**weighted, "backbone": backbone}, "test"))
    assert changed.identity() != first.identity()
    assert changed.digest() != first.digest()


def test_hashed_keys_keep_their_names(weighted: dict[str, Any]) -> None:
    """The keys of the identities are stored in RESULTS and hashed, so they stay what they were in earlier releases."""
    run = parse_config(weighted, "test")
    plugins.register_files(run.plugins)
    identity = embed_spec(run).identity()
    assert list(identity) == ["shown", "name", "version", "settings", "files", "stage", "views", "isolate", "beside"]
    assert list(identity["beside"]) == [*identity, "length"]
    assert identity["shown"] == ["squeeze", 32]
