import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.errors import ResultsError
from slidepipe.store import slide_store as store


def test_a_stage_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "slide"

    def broken(group: object) -> None:
        group.create_array("boxes", data=np.zeros((3, 4), np.int64))  # type: ignore[attr-defined]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        store.publish(folder, "boxes", "f1", {}, broken)
    assert not store.is_done(folder, "boxes", "f1")
    assert [entry.name for entry in folder.iterdir()] == ["zarr.json"]


def test_publishing_again_replaces_the_stage(tmp_path: Path) -> None:
    for mark in (1, 2):
        store.publish(
            tmp_path,
            "boxes",
            f"f{mark}",
            {"n": mark},
            lambda group, mark=mark: group.create_array("boxes", data=np.full(3, mark)),
        )
    assert store.is_done(tmp_path, "boxes", "f2")
    assert not store.is_done(tmp_path, "boxes", "f1")
    assert store.read_array(store.read_stage(tmp_path, "boxes"), "boxes").tolist() == [2, 2, 2]
    assert sorted(entry.name for entry in tmp_path.iterdir() if "cache" not in entry.name) == ["boxes", "zarr.json"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=40), max_size=6), max_size=6), st.integers(1, 50), st.integers(1, 4))
def test_jpegs_come_back_by_row(parts: list[list[bytes]], chunk: int, shards: int) -> None:
    rows = [jpeg for part in parts for jpeg in part]
    ends = np.cumsum([len(jpeg) for jpeg in rows]).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_JPEG_CHUNK", chunk)
        patch.setattr(store, "_JPEG_SHARD", chunk * shards)
        data = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
        total = int(ends[-1]) if len(ends) else 0
        store.publish(Path(folder), "crops", "f", {}, lambda group: store.write_jpegs(group, data, total, ends))
        reader = store.CropReader(Path(folder))
        assert len(reader) == len(rows)
        assert [reader.jpeg(row) for row in range(len(rows))] == rows
        for start in range(len(rows)):
            assert reader.jpegs(start, len(rows)) == rows[start:]


def _hold(results: Path, held: object) -> None:
    with store.locked(results):
        held.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_second_run_is_told_who_holds_the_results(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    try:
        assert held.wait(30)
        with (
            pytest.raises(ResultsError, match=f"held by a run in progress \\(process {other.pid} on"),
            store.locked(tmp_path),
        ):
            pass
        other.kill()
        other.join(30)
        with store.locked(tmp_path):  # the lock of a dead process is nobody's
            pass
    finally:
        other.kill()
        other.join(30)


def test_leftovers_of_killed_runs_are_swept(tmp_path: Path) -> None:
    slide = tmp_path / "slides" / "a" / "b"
    store.publish(slide, "boxes", "f" * 64, {}, lambda group: None)
    parts = store.part_path(slide, "crops", "f" * 64, 3)
    store.save_part(parts, x=np.arange(3))
    kept = set(tmp_path.rglob("*"))
    (slide / ".boxes.1234abcd").mkdir()
    (slide / ".zarr.json.13072bc3").write_bytes(b"{")
    (parts.parent / ".00004.npz.99aa99aa").write_bytes(b"half")
    (tmp_path / ".objects.parquet.00ff00ff").write_bytes(b"half")
    os.utime(tmp_path / ".objects.parquet.00ff00ff", (0, 0))
    being_written = tmp_path / ".labels.csv.00ff00ff"
    being_written.write_bytes(b"half")
    store.sweep(tmp_path)
    assert set(tmp_path.rglob("*")) == kept | {being_written}
    assert store.load_part(parts)["x"].tolist() == [0, 1, 2]


def _publish_until(results: Path, flushes: int) -> None:
    """Publish a stage, and die like a killed process, which cleans nothing up, at flush number ``flushes``."""
    calls = iter(range(flushes))
    os.fsync = lambda descriptor: os._exit(9) if next(calls, None) is None else None
    store.publish(results / "slides" / "a", "boxes", "f" * 64, {}, lambda group: None)


@pytest.mark.parametrize("flushes", [0, 1, 3])
def test_whatever_a_kill_leaves_is_swept(tmp_path: Path, flushes: int) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=_publish_until, args=(tmp_path, flushes))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 9
    store.sweep(tmp_path)
    assert list(tmp_path.rglob(".*")) == []


def test_a_damaged_record_counts_as_not_done(tmp_path: Path) -> None:
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "zarr.json").write_text("{")
    assert not store.is_done(tmp_path, "boxes", "f")
    with pytest.raises(ResultsError, match="Run the same command again"):
        store.read_stage(tmp_path, "crops")
