"""Tiles of a scan, the scan that they come from, and the cache that keeps them."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidepipe.errors import SlideError
from slidepipe.slides.geometry import Box
from slidepipe.slides.reader import open_slide
from slidepipe.store.manifest import ScanRecord, SlideRecord
from slidepipe.viewer import tiles
from slidepipe.viewer.bytes_cache import BytesCache
from slidepipe.viewer.scans import open_scan, why_missing
from slidepipe.viewer.tiles import OVERLAP_PX, TILE_PX, TilePyramid, render_tile
from tests import drawn

DISCS = [(700, 300, 90, drawn.BROWN), (1300, 1200, 120, drawn.GREEN)]


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn.svs(tmp_path_factory.mktemp("tiles") / "a.svs", drawn.field(1536, 1280, DISCS), factors=(1, 4))


@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_tiles_cover_every_level(width: int, height: int) -> None:
    """The tiles of a level cover the whole picture and overlap by `OVERLAP_PX`."""
    pyramid = TilePyramid(Box(7, 9, 7 + width, 9 + height))
    assert pyramid.size(pyramid.top) == (width, height)
    assert max(pyramid.size(0)) <= 2
    level = max(0, pyramid.top - 4)
    across, down = (math.ceil(length / TILE_PX) for length in pyramid.size(level))
    last = pyramid.tile(level, across - 1, down - 1)
    assert last is not None
    assert (last.x1, last.y1) == pyramid.size(level)
    assert pyramid.tile(level, across, 0) is None
    assert pyramid.tile(level, 0, down) is None
    assert pyramid.tile(pyramid.top + 1, 0, 0) is None
    first, second = pyramid.tile(level, 0, 0), pyramid.tile(level, 1, 0)
    assert first is not None
    assert (first.x0, first.y0) == (0, 0)
    if second is not None:
        assert second.x0 == TILE_PX - OVERLAP_PX
        assert first.x1 == min(TILE_PX + OVERLAP_PX, pyramid.size(level)[0])


@pytest.mark.parametrize("down", [0, 1, 2, 3])
def test_tile_shows_its_part_of_slide(scan: Path, down: int) -> None:
    """A tile `down` levels below the finest shows the same pixels as the whole slide, reduced."""
    with open_slide(scan) as slide:
        pyramid = TilePyramid(Box(0, 0, 1536, 1280))
        level = pyramid.top - down
        whole = Image.fromarray(slide.read(slide.meta.levels[0], 0, 0, 1536, 1280)[0])
        wanted = np.asarray(whole.resize(pyramid.size(level), Image.Resampling.BOX), np.int16)
        column = 1 if down == 0 else 0
        box = pyramid.tile(level, column, 0)
        assert box is not None
        seen = picture(render_tile(slide, pyramid, level, box))
        assert seen.shape[:2] == (box.height, box.width)
        part = wanted[box.y0 : box.y1, box.x0 : box.x1]
        assert np.abs(seen - part).mean() < 4
        # The comparison detects a shift of two pixels: it gives a larger difference.
        assert np.abs(seen[:, 2:] - part[:, :-2]).mean() > np.abs(seen - part).mean()


def test_scanned_part_starts_at_bounds(tmp_path: Path) -> None:
    """The picture starts at the bounds of a MIRAX scan, and unscanned parts have its background colour."""
    path = drawn.mirax(tmp_path / "1_2-3 300 mSWC.mrxs", drawn.field(1536, 1536, DISCS), missing=[(0, 0)])
    with open_slide(path) as slide:
        pyramid = TilePyramid(slide.meta.bounds)
        box = pyramid.tile(pyramid.top, 1, 0)
        assert box is not None
        seen = picture(render_tile(slide, pyramid, pyramid.top, box))
        x, y = 700 - box.x0, 300 - box.y0
        assert np.abs(seen[y, x + 60] - np.array(drawn.BROWN)).max() < 40
        first = pyramid.tile(pyramid.top, 0, 0)
        assert first is not None
        corner = picture(render_tile(slide, pyramid, pyramid.top, first))[40:200, 40:200]
        assert np.abs(corner - np.array(slide.meta.background)).max() < 12  # a part that was never scanned is not black


def test_reading_in_halves_gives_same_picture(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile that is read in several parts looks the same, and no part exceeds the limit."""
    with open_slide(scan) as slide:
        pyramid = TilePyramid(Box(0, 0, 1536, 1280))
        box = pyramid.tile(pyramid.top - 2, 0, 0)
        assert box is not None
        whole = picture(render_tile(slide, pyramid, pyramid.top - 2, box))
        sizes = []
        read = slide.read
        monkeypatch.setattr(slide, "read", lambda level, x, y, w, h: sizes.append(w * h) or read(level, x, y, w, h))
        monkeypatch.setattr(tiles, "_MAX_SOURCE_PX", 20_000)
        parts = picture(render_tile(slide, pyramid, pyramid.top - 2, box))
    assert max(sizes) <= 20_000
    assert np.abs(parts - whole).mean() < 1.5


def test_unreadable_part_is_hatched(tmp_path: Path) -> None:
    """A broken tile of the file is hatched; the rest of the picture is shown."""
    path = drawn.svs(tmp_path / "a.svs", drawn.field(1024, 1024, [(700, 700, 90, drawn.BROWN)]), factors=(1,))
    drawn.break_tile(path, 0)
    with open_slide(path) as slide:
        pyramid = TilePyramid(Box(0, 0, 1024, 1024))
        box = pyramid.tile(pyramid.top - 1, 0, 0)
        assert box is not None
        seen = picture(render_tile(slide, pyramid, pyramid.top - 1, box))
    assert seen[10:50, 10:50].std() > 20  # hatched
    assert np.abs(seen[350, 380] - np.array(drawn.BROWN)).max() < 45


def entry(path: Path, width_px: int = 1536) -> SlideRecord:
    scan = ScanRecord(
        identity="00", vendor="aperio", objective_power=None, width_px=width_px, height_px=1280, mpp_x=0.25, mpp_y=0.25,
        bounds=(0, 0, 1536, 1280),
    )  # fmt: skip
    return SlideRecord(
        slide_id="a",
        path=str(path),
        sample_id="1/2-3 5 mC",
        well="1/2-3",
        depth_m=5,
        sample_type="C",
        status="ok",
        scan=scan,
    )


def test_missing_or_changed_scan_is_reported(scan: Path, tmp_path: Path) -> None:
    """A scan that is gone or has another size is named with both sizes; `--slides` gives its new folder."""
    assert why_missing(entry(scan), None) == ""
    assert "no such file" in why_missing(entry(tmp_path / "gone.svs"), None)
    assert why_missing(entry(Path("/elsewhere/a.svs")), scan.parent) == ""  # --slides
    assert "the scan has 1536 x 1280 px, but the scan that was analysed had 10 x" in why_missing(
        entry(scan, width_px=10), None
    )
    failed = entry(scan).model_copy(update={"scan": None})
    with pytest.raises(SlideError, match="could not be analysed"):
        open_scan(failed, None)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 140)), max_size=60))
def test_cache_keeps_most_recently_used_values(requests: list[tuple[int, int]]) -> None:
    """The cache holds the most recently used values whose total size is at most 100 bytes, and at least the last one."""
    cache = BytesCache(100)
    kept: list[tuple[int, int]] = []  # keys, the most recently used one last; the second part of a key is the size
    for key, size in requests:
        data = bytes([key]) * size
        made: list[bytes] = []

        def make(data: bytes = data, made: list[bytes] = made) -> bytes:
            made.append(data)
            return data

        assert cache.get((key, size), make) == data
        assert len(made) == ((key, size) not in kept)
        kept = [other for other in kept if other != (key, size)] + [(key, size)]
        while len(kept) > 1 and sum(other_size for _, other_size in kept) > 100:
            kept.pop(0)
        assert cache.size_bytes == sum(other_size for _, other_size in kept)
        assert len(cache) == len(kept)


def test_cache_stores_no_failed_value() -> None:
    """If a value cannot be made, the next request makes it."""
    cache = BytesCache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: bytes(1 // 0))
    assert cache.get("a", lambda: b"x") == b"x"
    assert cache.get("a", lambda: b"y") == b"x"
