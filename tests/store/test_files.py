import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from slidepipe.store.files import delete_temporary_files, write_file
from slidepipe.store.slide_store import SlideStore


def test_delete_temporary_files(tmp_path: Path) -> None:
    """Leftovers of killed runs are deleted; published stages, parts and files being written by others stay."""
    store = SlideStore(tmp_path / "slides" / "a" / "b")
    store.publish("boxes", "f" * 64, {}, lambda group: None)
    store.save_part("crops", "f" * 64, 3, x=np.arange(3))
    kept = set(tmp_path.rglob("*"))
    (store.folder / ".boxes.1234abcd").mkdir()
    (store.folder / ".zarr.json.13072bc3").write_bytes(b"{")
    (store.part_path("crops", "f" * 64, 3).parent / ".00004.npz.99aa99aa").write_bytes(b"half")
    (tmp_path / ".objects.parquet.00ff00ff").write_bytes(b"half")
    os.utime(tmp_path / ".objects.parquet.00ff00ff", (0, 0))
    being_written = tmp_path / ".labels.csv.00ff00ff"
    being_written.write_bytes(b"half")
    delete_temporary_files(tmp_path)
    assert set(tmp_path.rglob("*")) == kept | {being_written}
    assert store.load_part("crops", "f" * 64, 3)["x"].tolist() == [0, 1, 2]


def _publish_until(results: Path, flushes: int) -> None:
    """Publish a stage and end the process, as a kill does, at the flush with this number."""
    calls = iter(range(flushes))
    os.fsync = lambda descriptor: os._exit(9) if next(calls, None) is None else None
    SlideStore.in_results(results, "a").publish("boxes", "f" * 64, {}, lambda group: None)


@pytest.mark.parametrize("flushes", [0, 1, 3])
def test_delete_temporary_files_after_sigkill(tmp_path: Path, flushes: int) -> None:
    """Every file that a process killed while publishing leaves behind is recognised as temporary."""
    writer = multiprocessing.get_context("spawn").Process(target=_publish_until, args=(tmp_path, flushes))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 9
    delete_temporary_files(tmp_path)
    assert list(tmp_path.rglob(".*")) == []


def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    """A write that fails leaves the old content and no temporary file."""
    target = tmp_path / "counts.csv"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(target, fail)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["counts.csv"]
