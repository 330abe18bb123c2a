import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.store import arrays
from slidepipe.store.slide_store import SlideStore


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=40), max_size=6), max_size=6), st.integers(1, 50), st.integers(1, 4))
def test_crops_round_trip(parts: list[list[bytes]], chunk: int, shards: int) -> None:
    """Crops are read by row as they were written, whatever the sizes of parts, chunks and shards."""
    rows = [jpeg for part in parts for jpeg in part]
    ends = np.cumsum([len(jpeg) for jpeg in rows]).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_JPEG_CHUNK", chunk)
        patch.setattr(arrays, "_JPEG_SHARD", chunk * shards)
        data = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
        total = int(ends[-1]) if len(ends) else 0
        store = SlideStore(Path(folder))
        store.publish("crops", "f", {}, lambda group: arrays.write_jpegs(group, data, total, ends))
        reader = store.crops()
        assert len(reader) == len(rows)
        assert [reader.jpeg(row) for row in range(len(rows))] == rows
        for start in range(len(rows)):
            assert reader.jpegs(start, len(rows)) == rows[start:]
