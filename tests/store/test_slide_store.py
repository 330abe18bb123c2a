from pathlib import Path

import numpy as np
import pytest

from slidepipe.errors import ResultsError
from slidepipe.store.slide_store import SlideStore


def test_failed_publish_leaves_nothing(tmp_path: Path) -> None:
    """A stage whose writing fails is not published, and none of its files stay."""
    store = SlideStore(tmp_path / "slide")

    def fail(group: object) -> None:
        group.create_array("boxes", data=np.zeros((3, 4), np.int64))  # type: ignore[attr-defined]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        store.publish("boxes", "f1", {}, fail)
    assert not store.is_done("boxes", "f1")
    assert [entry.name for entry in store.folder.iterdir()] == ["zarr.json"]


def test_publish_replaces_stage(tmp_path: Path) -> None:
    """A stage that is published again replaces the older version."""
    store = SlideStore(tmp_path)
    for number in (1, 2):
        values = np.full(3, number)
        store.publish(
            "boxes",
            f"f{number}",
            {"n": number},
            lambda group, values=values: group.create_array("boxes", data=values),
        )
    assert store.is_done("boxes", "f2")
    assert not store.is_done("boxes", "f1")
    assert store.attributes("boxes")["n"] == 2
    assert store.read_array("boxes", "boxes").tolist() == [2, 2, 2]
    assert sorted(entry.name for entry in tmp_path.iterdir() if "cache" not in entry.name) == ["boxes", "zarr.json"]


def test_missing_chunk_is_not_done(tmp_path: Path) -> None:
    """A stage that lost a file is not done, although Zarr would read the missing chunk as zeros."""
    store = SlideStore(tmp_path)
    store.publish("boxes", "f", {}, lambda group: group.create_array("boxes", data=np.ones(3)))
    (chunk,) = [path for path in (tmp_path / "boxes" / "boxes" / "c").rglob("*") if path.is_file()]
    chunk.unlink()
    assert store.read_array("boxes", "boxes").tolist() == [0, 0, 0]
    assert not store.is_done("boxes", "f")


def test_damaged_attributes_are_not_done(tmp_path: Path) -> None:
    """A stage whose zarr.json is damaged is not done, and reading a missing stage is an error that says what to do."""
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "zarr.json").write_text("{")
    store = SlideStore(tmp_path)
    assert not store.is_done("boxes", "f")
    with pytest.raises(ResultsError, match="Run the same command again"):
        store.read("crops")


def test_delete_parts(tmp_path: Path) -> None:
    """Parts are deleted by stage and fingerprint, and the folder of the parts is deleted with the last of them."""
    store = SlideStore(tmp_path)
    for stage, fingerprint in (("crops", "a"), ("crops", "b"), ("embeddings", "c")):
        store.save_part(stage, fingerprint, 0, x=np.zeros(1))  # type: ignore[arg-type]  # stages from a loop are str
    store.delete_other_parts({"crops": "b", "embeddings": "c"})
    assert not store.part_path("crops", "a", 0).exists()
    assert store.part_path("crops", "b", 0).exists()
    store.delete_parts("crops", "b")
    store.delete_parts("embeddings", "c")
    assert list(tmp_path.iterdir()) == []
