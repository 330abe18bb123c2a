import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.detection.blocks import CELL_PX, plan_blocks, plan_grid, read_window
from slidepipe.detection.detect_slide import detect_block, merge_blocks
from slidepipe.detectors.density.detector import DensityDetector
from slidepipe.interfaces import Detections, Detector, Region
from slidepipe.slides.geometry import Box, Level, SlideMeta
from slidepipe.slides.reader import SlideReader, open_slide
from tests import drawn


def meta_of(width: int, height: int, mpp: float, downsamples: list[float], bounds: Box | None = None) -> SlideMeta:
    levels = tuple(
        Level(index, int(width / d), int(height / d), width / int(width / d), height / int(height / d), d)
        for index, d in enumerate(downsamples)
    )
    return SlideMeta(
        Path("x.svs"),
        "aperio",
        width,
        height,
        mpp,
        mpp,
        None,
        bounds or Box(0, 0, width, height),
        (255, 255, 255),
        levels,
    )


class PointDetector(Detector):
    """Wants a halo; finds nothing."""

    name = "point"
    mpp = 1.0
    align_px = 64

    def __init__(self, halo_um: float) -> None:
        self.halo_um = halo_um

    def detect(self, region: Region) -> Detections:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("mpp", "downsamples", "level", "factor"),
    [
        (0.25, [1, 4, 16], 1, 1),
        (0.25, [1, 2, 4, 8], 2, 1),
        (0.2425, [1, 2, 4, 8], 2, 1),
        (0.25, [1, 4.0005, 16.01], 1, 1),
        (0.25, [1], 0, 4),
        (0.5, [1, 16], 0, 2),
        (0.35, [1, 4], 0, 3),
        (2.0, [1, 4], 0, 1),
    ],
)
def test_the_level_nearest_to_the_wanted_resolution(
    mpp: float, downsamples: list[float], level: int, factor: int
) -> None:
    grid = plan_grid(meta_of(40000, 32000, mpp, downsamples), 1.0)
    assert (grid.level.index, grid.factor) == (level, factor)
    assert 0.6 < grid.mpp < 1.6 or mpp == 2.0


@given(
    st.integers(1, 30000),
    st.integers(1, 30000),
    st.integers(256, 8192),
    st.floats(0, 700),
    st.sampled_from([[1.0], [1.0, 4.0], [1.0, 4.0005]]),
)
def test_cores_partition_the_grid_and_windows_hold_the_halo(
    width: int, height: int, core_px: int, halo_um: float, downsamples: list[float]
) -> None:
    downsamples = [d for d in downsamples if min(width, height) >= d]
    grid = plan_grid(meta_of(width, height, 0.25, downsamples), 1.0)
    detector = PointDetector(halo_um)
    blocks = plan_blocks(grid, detector, core_px)
    assert sum(block.core.width * block.core.height for block in blocks) == grid.width * grid.height
    assert len({block.core for block in blocks}) == len(blocks)
    halo = math.ceil(halo_um / grid.mpp)
    for block in blocks:
        assert block.window.x0 % detector.align_px == 0
        assert block.window.y0 % detector.align_px == 0
        # The halo, or where the grid ends before it, something unscanned at every edge.
        assert block.window.x0 <= max(block.core.x0 - halo, -1)
        assert block.window.y0 <= max(block.core.y0 - halo, -1)
        assert block.window.x1 >= min(block.core.x1 + halo, grid.width + 1)
        assert block.window.y1 >= min(block.core.y1 + halo, grid.height + 1)


def test_a_window_reads_the_same_pixels_whatever_its_place(tmp_path: Path) -> None:
    # 1531 is no multiple of 4, so the pyramid's factor is no whole number and reading resamples.
    image = drawn.field(4 * 700 + 3, 4 * 600 + 1, [(900, 900, 300, drawn.BROWN), (2000, 1500, 200, drawn.AMBER)])
    with open_slide(drawn.svs(tmp_path / "x.svs", image)) as slide:
        grid = plan_grid(slide.meta, 1.0)
        assert not float(grid.level.downsample).is_integer()
        whole = read_window(slide, grid, Box(-64, -64, 768, 704)).region
        for part in (Box(0, 0, 64, 64), Box(448, 384, 640, 576), Box(CELL_PX - 64, -64, CELL_PX + 64, 320)):
            region = read_window(slide, grid, part).region
            inside = np.s_[part.y0 + 64 : part.y1 + 64, part.x0 + 64 : part.x1 + 64]
            np.testing.assert_array_equal(region.rgb, whole.rgb[inside])
            np.testing.assert_array_equal(region.scanned, whole.scanned[inside])


def test_averaging_down_keeps_the_picture(tmp_path: Path) -> None:
    image = drawn.field(1024, 1024, [(500, 400, 150, drawn.BROWN)])
    with open_slide(drawn.svs(tmp_path / "one-level.svs", image, factors=(1,))) as slide:
        grid = plan_grid(slide.meta, 1.0)
        assert (grid.level.index, grid.factor, grid.width) == (0, 4, 256)
        region = read_window(slide, grid, Box(0, 0, 256, 256)).region
        expected = image.reshape(256, 4, 256, 4, 3).mean(axis=(1, 3))
        assert np.abs(region.rgb - expected).mean() < 2
        assert region.mpp == pytest.approx(1.0)


def detect_all(slide: SlideReader, block_px: int) -> tuple[list[list[int]], float, float, list[tuple[str, str]]]:
    detector = DensityDetector(DensityDetector.Settings())
    grid = plan_grid(slide.meta, detector.mpp)
    results = [detect_block(slide, grid, block, detector) for block in plan_blocks(grid, detector, block_px)]
    table = merge_blocks(result.table for result in results)
    return (
        table.boxes.tolist(),
        sum(result.analysed_mm2 for result in results),
        sum(result.lost_mm2 for result in results),
        [lost for result in results for lost in result.lost_regions],
    )


def test_boxes_do_not_depend_on_block_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    discs = [
        (int(x), int(y), int(rng.integers(40, 260)), (drawn.AMBER, drawn.BROWN, drawn.GREEN)[index % 3])
        for index, (x, y) in enumerate(rng.integers(0, 3584, (60, 2)))
    ]
    image = drawn.field(3584, 3584, discs)
    for path in (
        drawn.svs(tmp_path / "x.svs", image[:, :3583]),
        drawn.mirax(tmp_path / "y.mrxs", image, missing=[(3, 3), (7, 2)]),
    ):
        with open_slide(path) as slide:
            boxes, analysed, lost, _ = detect_all(slide, 4096)
            assert len(boxes) > 15
            assert lost == 0
            for block_px in (256, 300, 450):
                again = detect_all(slide, block_px)
                assert again[0] == boxes
                assert again[1] == pytest.approx(analysed)


def test_boxes_lie_on_what_was_drawn(tmp_path: Path) -> None:
    discs = [(600, 700, 100, drawn.BROWN), (1500, 500, 140, drawn.AMBER), (900, 1500, 60, drawn.GREEN)]
    with open_slide(drawn.mirax(tmp_path / "x.mrxs", drawn.field(2048, 2048, discs), offset_tiles=(3, 5))) as slide:
        boxes, analysed, _, _ = detect_all(slide, 2048)
    # Level-0 pixels of the whole slide: the bounds' offset is in them.
    wanted = sorted([x - r + 768, y - r + 1280, x + r + 768, y + r + 1280] for x, y, r, _ in discs)
    np.testing.assert_allclose(sorted(boxes), wanted, atol=16)
    assert analysed == pytest.approx(2048**2 * 0.25**2 * 1e-6)


def test_what_cannot_be_read_is_lost_area_once_and_never_an_object(tmp_path: Path) -> None:
    image = drawn.field(4096, 4096, [(3000, 3000, 200, drawn.BROWN)])
    path = drawn.svs(tmp_path / "x.svs", image, factors=(1,))
    drawn.break_tile(path, 0)
    with open_slide(path) as slide:
        figures = [detect_all(slide, block_px) for block_px in (1024, 300)]
    for boxes, analysed, lost, regions in figures:
        assert len(boxes) == 1
        assert lost == pytest.approx((CELL_PX * 1e-3) ** 2)  # one cell at 1 um a pixel
        assert analysed + lost == pytest.approx(4096**2 * 0.25**2 * 1e-6)
        assert regions
        assert "x.svs" in regions[0][1]
