"""Crops cut from a slide."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.crops.cut import (
    CropSpec,
    crop_box,
    cut_crop,
    cut_crops,
    decode_crop,
    encode_crop,
    make_crop_like,
    slide_order,
)
from slidepipe.errors import RegionError
from slidepipe.slides.geometry import Box
from slidepipe.slides.reader import SlideReader, open_slide
from tests import drawn

SPEC = CropSpec(margin=0.1, long_side_px=256, jpeg_quality=92)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory):
    image = drawn.field(4096, 2048, [(1000, 1000, 400, drawn.BROWN), (3000, 500, 60, drawn.AMBER)])
    with open_slide(drawn.svs(tmp_path_factory.mktemp("crops") / "x.svs", image)) as opened:
        yield opened


def test_crop_shows_box_with_margin(slide: SlideReader) -> None:
    """The object fills the crop except for the margin on each side."""
    crop = cut_crop(slide, (600, 600, 1400, 1400), SPEC)
    assert crop.shape == (256, 256, 3)
    dark = crop.min(axis=2) < 140
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    share = 0.1 / 1.2
    np.testing.assert_allclose([rows[0], columns[0]], 256 * share, atol=2)
    np.testing.assert_allclose([rows[-1], columns[-1]], 256 * (1 - share), atol=2)


def test_small_object_is_not_enlarged(slide: SlideReader) -> None:
    """A crop smaller than `long_side_px` keeps its own pixels."""
    assert cut_crop(slide, (2940, 440, 3060, 560), SPEC).shape == (144, 144, 3)


def test_crop_keeps_aspect_ratio(slide: SlideReader) -> None:
    """The long side becomes `long_side_px`, the short side follows."""
    crop = cut_crop(slide, (600, 800, 1700, 1100), CropSpec(0.0, 128, 90))
    assert crop.shape == (35, 128, 3)


def test_crop_box_is_clipped_to_slide(slide: SlideReader) -> None:
    """The margin does not extend beyond the slide."""
    assert crop_box((0, 0, 100, 200), SPEC, slide.meta) == Box(0, 0, 120, 220)
    assert crop_box((4000, 1950, 4096, 2048), SPEC, slide.meta) == Box(3990, 1940, 4096, 2048)


@given(st.lists(st.tuples(st.integers(0, 30000), st.integers(0, 30000)), max_size=40))
def test_slide_order_is_permutation_by_band(places: list[tuple[int, int]]) -> None:
    """Each row occurs once, and bands ascend."""
    boxes = np.array([(x, y, x + 50, y + 60) for x, y in places], np.int64).reshape(-1, 4)
    order = slide_order(boxes)
    assert sorted(order.tolist()) == list(range(len(places)))
    middle = (boxes[order, 1] + boxes[order, 3]) // 2 // 1024
    assert (np.diff(middle) >= 0).all()


def test_jpeg_round_trip_is_close(slide: SlideReader) -> None:
    """Encoding and decoding changes a pixel by less than 2 of 255 on average."""
    crop = cut_crop(slide, (600, 600, 1400, 1400), SPEC)
    again = decode_crop(encode_crop(crop, SPEC))
    assert again.shape == crop.shape
    assert np.abs(again.astype(int) - crop).mean() < 2


def test_make_crop_like_reduces_and_compresses(slide: SlideReader) -> None:
    """A reference image is reduced as a crop and passes through the same JPEG."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 150, 3), dtype=np.uint8)
    reduced = make_crop_like(image, SPEC)
    assert reduced.shape == (SPEC.long_side_px, SPEC.long_side_px // 2, 3)
    assert reduced.std() < 0.8 * image.std()  # reducing and compressing removes noise
    small = image[:20, :10]
    assert np.array_equal(make_crop_like(small, SPEC), decode_crop(encode_crop(small, SPEC)))


def test_unreadable_crop_does_not_stop_others(tmp_path: Path) -> None:
    """The error takes the place of the crop; the other crops are cut."""
    path = drawn.svs(tmp_path / "x.svs", drawn.field(1024, 1024), factors=(1,))
    drawn.break_tile(path, 0)
    boxes = np.array([(600, 600, 700, 700), (20, 20, 100, 100), (700, 100, 800, 200)], np.int64)
    with open_slide(path) as slide:
        crops = dict(cut_crops(slide, boxes, SPEC))
    assert isinstance(crops[1], RegionError)
    assert isinstance(crops[0], np.ndarray)
    assert isinstance(crops[2], np.ndarray)
