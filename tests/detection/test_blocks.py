import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.detection.blocks import CELL_PX, Grid, plan_blocks, plan_grid, read_window
from slidepipe.detection.detect_slide import BlockResult, detect_block, merge_blocks
from slidepipe.detectors.density.detector import DensityDetector
from slidepipe.interfaces import BoolArray, Detections, Detector, Region, UInt8Array
from slidepipe.slides.geometry import Box, Level, LostRegion, SlideMeta
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


class DotDetector(Detector):
    """Finds each black pixel as an object of one pixel."""

    name = "dot"
    mpp = 1.0

    def __init__(self, halo_um: float, align_px: int = 64) -> None:
        self.halo_um, self.align_px = halo_um, align_px

    def detect(self, region: Region) -> Detections:
        y, x = np.nonzero(region.scanned & (region.rgb[..., 0] == 0))
        count = len(x)
        return Detections(
            boxes=np.stack([x, y, x + 1, y + 1], axis=1).astype(float),
            owner=np.stack([x + 0.5, y + 0.5], axis=1),
            area=np.ones(count),
            score=np.ones(count),
            cut=np.zeros(count, np.bool_),
        )


class ArraySlide(SlideReader):
    """A slide of one level in memory, at 1 um per pixel."""

    name = "array"

    def __init__(self, image: UInt8Array) -> None:
        self.image = image
        self.meta = meta_of(image.shape[1], image.shape[0], 1.0, [1.0])

    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        rows, columns = np.arange(y, y + height), np.arange(x, x + width)
        scanned = ((rows >= 0) & (rows < level.height_px))[:, None] & ((columns >= 0) & (columns < level.width_px))
        rgb = self.image[np.ix_(rows.clip(0, level.height_px - 1), columns.clip(0, level.width_px - 1))]
        return np.where(scanned[..., None], rgb, np.uint8(255)), scanned

    def close(self) -> None:
        """Nothing to release."""


@pytest.mark.parametrize(
    ("mpp", "downsamples", "level", "factor", "grid_mpp"),
    [
        (0.25, [1, 4, 16], 1, 1, 1.0),
        (0.25, [1, 2, 4, 8], 2, 1, 1.0),
        (0.2425, [1, 2, 4, 8], 2, 1, 0.97),
        (0.25, [1, 4.0005, 16.01], 1, 1, 0.25 * math.sqrt(40000 / 9998 * 32000 / 7999)),
        (0.25, [1], 0, 4, 1.0),
        (0.5, [1, 16], 0, 2, 1.0),
        (0.35, [1, 4], 0, 3, 1.05),
        (2.0, [1, 4], 0, 1, 2.0),
    ],
)
def test_grid_level_and_factor(mpp: float, downsamples: list[float], level: int, factor: int, grid_mpp: float) -> None:
    """The grid uses the level and the factor that come nearest to the wanted resolution."""
    grid = plan_grid(meta_of(40000, 32000, mpp, downsamples), 1.0)
    assert (grid.level.index, grid.factor) == (level, factor)
    assert grid.mpp == pytest.approx(grid_mpp, rel=1e-12)


@st.composite
def planned_grids(draw: st.DrawFn) -> Grid:
    width, height = draw(st.integers(1, 30000)), draw(st.integers(1, 30000))
    downsamples = draw(st.sampled_from([[1.0], [1.0, 4.0], [1.0, 4.0005]]))
    usable = [d for d in downsamples if min(width, height) >= d]
    return plan_grid(meta_of(width, height, 0.25, usable), 1.0)


@given(planned_grids(), st.integers(256, 8192), st.floats(0, 700))
def test_windows_hold_the_halo(grid: Grid, core_px: int, halo_um: float) -> None:
    detector = DotDetector(halo_um)
    halo = math.ceil(halo_um / grid.mpp)
    for block in plan_blocks(grid, detector, core_px):
        assert block.window.x0 % detector.align_px == 0
        assert block.window.y0 % detector.align_px == 0
        # The window holds the halo. Where the grid ends before the halo, the window holds unscanned pixels at that edge.
        assert block.window.x0 <= max(block.core.x0 - halo, -1)
        assert block.window.y0 <= max(block.core.y0 - halo, -1)
        assert block.window.x1 >= min(block.core.x1 + halo, grid.width + 1)
        assert block.window.y1 >= min(block.core.y1 + halo, grid.height + 1)


@given(planned_grids(), st.integers(256, 8192), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_each_point_has_one_owner(grid: Grid, core_px: int, right: float, down: float) -> None:
    """Exactly one block owns a point of the grid, and the cores have the area of the grid."""
    blocks = plan_blocks(grid, DotDetector(0), core_px)
    x, y = right * grid.width, down * grid.height
    owners = [b for b in blocks if b.core.x0 <= x < b.core.x1 and b.core.y0 <= y < b.core.y1]
    assert len(owners) == 1
    assert sum(block.core.width * block.core.height for block in blocks) == grid.width * grid.height


@given(planned_grids(), st.data())
def test_from_level0_inverts(grid: Grid, data: st.DataObject) -> None:
    """A box of detection pixels is found again from its rounded level-0 box."""
    x0, y0 = data.draw(st.integers(0, grid.width - 1)), data.draw(st.integers(0, grid.height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, grid.width)), data.draw(st.integers(y0 + 1, grid.height)))
    level0 = Box(
        round(box.x0 * grid.scale_x + grid.x0_px),
        round(box.y0 * grid.scale_y + grid.y0_px),
        round(box.x1 * grid.scale_x + grid.x0_px),
        round(box.y1 * grid.scale_y + grid.y0_px),
    )
    assert grid.from_level0(level0) == box


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.integers(100, 800),
    st.integers(0, 90),
    st.sampled_from([1, 16, 64]),
    st.integers(0, 2**20),
)
def test_each_object_is_found_once(size: tuple[int, int], core_px: int, halo_um: int, align_px: int, seed: int) -> None:
    """Blocks of any size find every object once, in the same order."""
    width, height = size
    dots = np.random.default_rng(seed).random((height, width)) < 0.001
    slide = ArraySlide(np.where(dots[..., None], np.uint8(0), np.full((height, width, 3), 200, np.uint8)))
    table, _ = detect_all(slide, core_px, DotDetector(halo_um, align_px))
    y, x = np.nonzero(dots)
    assert table == np.stack([x, y, x + 1, y + 1], axis=1).tolist()


def test_window_pixels_do_not_depend_on_place(tmp_path: Path) -> None:
    # 1531 is not a multiple of 4: the factor of the level is not a whole number, and OpenSlide resamples.
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


def test_averaged_pixels(tmp_path: Path) -> None:
    image = drawn.field(1024, 1024, [(500, 400, 150, drawn.BROWN)])
    with open_slide(drawn.svs(tmp_path / "one-level.svs", image, factors=(1,))) as slide:
        grid = plan_grid(slide.meta, 1.0)
        assert (grid.level.index, grid.factor, grid.width) == (0, 4, 256)
        region = read_window(slide, grid, Box(0, 0, 256, 256)).region
        expected = image.reshape(256, 4, 256, 4, 3).mean(axis=(1, 3))
        assert np.abs(region.rgb - expected).mean() < 2
        assert region.mpp == pytest.approx(1.0)


def detect_all(
    slide: SlideReader, block_px: int, detector: DensityDetector | DotDetector | None = None
) -> tuple[list[list[int]], list[BlockResult]]:
    """Return the boxes of a slide, and the results of its blocks."""
    detector = detector or DensityDetector(DensityDetector.Settings())
    grid = plan_grid(slide.meta, detector.mpp)
    results = [detect_block(slide, grid, block, detector) for block in plan_blocks(grid, detector, block_px)]
    return merge_blocks(result.table for result in results).boxes.tolist(), results


def analysed_mm2(results: list[BlockResult]) -> float:
    return sum(result.analysed_mm2 for result in results)


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
            boxes, whole = detect_all(slide, 4096)
            assert len(boxes) > 15
            for block_px in (256, 300, 450):
                again, results = detect_all(slide, block_px)
                assert again == boxes
                assert analysed_mm2(results) == pytest.approx(analysed_mm2(whole))
                assert [result for result in results if result.lost_mm2 or result.lost_regions] == []


def test_boxes_lie_on_discs(tmp_path: Path) -> None:
    discs = [(600, 700, 100, drawn.BROWN), (1500, 500, 140, drawn.AMBER), (900, 1500, 60, drawn.GREEN)]
    with open_slide(drawn.mirax(tmp_path / "x.mrxs", drawn.field(2048, 2048, discs), offset_tiles=(3, 5))) as slide:
        boxes, results = detect_all(slide, 2048)
    # Level-0 pixels of the whole slide include the offset of the bounds.
    wanted = sorted([x - r + 768, y - r + 1280, x + r + 768, y + r + 1280] for x, y, r, _ in discs)
    np.testing.assert_allclose(sorted(boxes), wanted, atol=16)
    assert analysed_mm2(results) == pytest.approx(2048**2 * 0.25**2 * 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("block_px", "cuts"), [(1024, [0, 1024]), (300, [0, 341, 682])])
def test_unreadable_cell_is_lost_area(tmp_path: Path, block_px: int, cuts: list[int]) -> None:
    """A cell that cannot be read is lost area once, whatever the blocks, and never an object."""
    image = drawn.field(4096, 4096, [(3000, 3000, 200, drawn.BROWN)])
    path = drawn.svs(tmp_path / "x.svs", image, factors=(1,))
    drawn.break_tile(path, 0)
    with open_slide(path) as slide:
        boxes, results = detect_all(slide, block_px)
    np.testing.assert_allclose(boxes, [[2800, 2800, 3200, 3200]], atol=16)
    lost_mm2 = sum(result.lost_mm2 for result in results)
    assert lost_mm2 == pytest.approx((CELL_PX * 1e-3) ** 2)  # one cell at 1 um per pixel
    assert analysed_mm2(results) + lost_mm2 == pytest.approx(4096**2 * 0.25**2 * 1e-6)
    # The cores that overlap the cell, in level-0 pixels: 4 per detection pixel.
    lost = [region for result in results for region in result.lost_regions]
    cores = [
        Box(4 * x0, 4 * y0, 4 * x1, 4 * y1)
        for y0, y1 in itertools.pairwise(cuts)
        for x0, x1 in itertools.pairwise(cuts)
    ]
    (reason,) = {region.reason for region in lost}
    assert lost == [LostRegion(core, reason) for core in cores]
    assert reason.startswith(f"{path}: level 0, 2048 x 2048 px at 0, 0 cannot be read (")
