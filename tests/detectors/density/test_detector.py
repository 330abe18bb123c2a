"""Tests of the density detector: what it finds, what it rejects, and that its boxes do not depend on blocks."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slidepipe.detectors.density.detector import DensityDetector, DensitySettings
from slidepipe.detectors.density.optical_density import CELL_PX
from slidepipe.errors import SlideError
from slidepipe.interfaces import Detections, Detector, Region

Image = npt.NDArray[np.float32]
BACKGROUND = 220.0


class Field:
    """A bright field to draw on, at 1 um per pixel. The region gets one cell of unscanned margin, as in a run."""

    def __init__(self, height: int = 480, width: int = 480, seed: int = 0) -> None:
        self.light = np.full((height, width), BACKGROUND, np.float32)
        self.scanned = np.ones((height, width), np.bool_)
        self.rng = np.random.default_rng(seed)
        self.y, self.x = np.mgrid[:height, :width].astype(np.float32)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, od: float = 0.3, angle: float = 0.0, blur: float = 1.0
    ) -> None:
        along = (self.x - x) * np.cos(angle) + (self.y - y) * np.sin(angle)
        across = (self.y - y) * np.cos(angle) - (self.x - x) * np.sin(angle)
        inside = (1 - np.hypot(along / rx, across / ry)) * min(rx, ry)
        self.light *= 10 ** (-od * np.clip(inside / blur + 0.5, 0, 1))

    def ring(self, x: float, y: float, radius: float, width: float, od: float) -> None:
        distance = np.abs(np.hypot(self.x - x, self.y - y) - radius)
        self.light *= 10 ** (-od * np.clip(width / 2 - distance + 0.5, 0, 1))

    def region(self, noise: float = 0.7) -> Region:
        light = self.light + self.rng.normal(0, noise, self.light.shape)
        rgb = np.clip(np.round(light), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        rgb[~self.scanned] = 255
        return Region(
            np.pad(rgb, ((CELL_PX, CELL_PX), (CELL_PX, CELL_PX), (0, 0)), constant_values=255),
            np.pad(self.scanned, CELL_PX),
            1.0,
        )


def detect(region: Region, **options: float) -> Detections:
    return DensityDetector(DensitySettings(**options)).detect(region)


def boxes(field: Field, **options: float) -> npt.NDArray[np.float64]:
    found = detect(field.region(), **options)
    return found.boxes[np.argsort(found.boxes[:, 0], kind="stable")] - CELL_PX


def assert_box(box: npt.NDArray[np.float64], expected: tuple[float, float, float, float], within: float = 4.0) -> None:
    assert np.abs(box - np.array(expected)).max() <= within, f"{box} is not {expected}"


def test_detector_interface() -> None:
    detector = DensityDetector()
    assert isinstance(detector, Detector)
    assert detector.align_px == CELL_PX
    assert detector.halo_um > detector.settings.max_size_um


def test_empty_field() -> None:
    found = detect(Field().region())
    assert found.boxes.shape == (0, 4)
    assert found.owner.shape == (0, 2)
    assert len(found.area) == len(found.score) == len(found.cut) == 0


def test_single_object() -> None:
    """A single object has the right box, owner point, area and score."""
    field = Field()
    field.ellipse(200, 150, 40, 25)
    found = detect(field.region())
    assert len(found.boxes) == 1
    assert_box(found.boxes[0] - CELL_PX, (160, 125, 240, 175), within=2)
    assert found.owner[0] == pytest.approx([216, 166], abs=1)
    assert found.area[0] == pytest.approx(np.pi * 40 * 25, rel=0.06)
    assert 0.5 < found.score[0] <= 1
    assert not found.cut[0]


def test_sizes_in_micrometres() -> None:
    """Size limits are micrometres, not pixels."""
    field = Field()
    field.ellipse(200, 200, 12, 12)
    region = field.region()
    assert len(detect(region, min_size_um=20).boxes) == 1
    # The same pixels at half the size: an object of 12 um is too small.
    half = Region(region.rgb, region.scanned, 0.5)
    assert len(detect(half, min_size_um=20, mpp=0.5).boxes) == 0


@pytest.mark.parametrize("radius", [3.0, 5.0])
def test_small_specks_are_ignored(radius: float) -> None:
    field = Field()
    field.ellipse(200, 200, radius, radius, od=1.5)
    assert len(boxes(field)) == 0


def test_pale_spindle_is_one_object() -> None:
    field = Field()
    field.ellipse(240, 240, 50, 9, od=0.045, angle=0.6)
    for along in (-25, 0, 25):
        field.ellipse(240 + along * np.cos(0.6), 240 + along * np.sin(0.6), 3, 3, od=0.2)
    found = boxes(field)
    assert len(found) == 1
    assert found[0, 2] - found[0, 0] > 70


def test_thin_walled_object() -> None:
    """A thin-walled object with a clear interior is one object."""
    field = Field()
    field.ring(240, 240, 17, 3, od=0.15)
    found = boxes(field)
    assert len(found) == 1
    assert_box(found[0], (221, 221, 259, 259))


def test_processes_are_part_of_the_object() -> None:
    """The thin processes of a cyst are in its box."""
    field = Field()
    field.ellipse(240, 240, 20, 20, od=0.5)
    for angle in np.arange(8) * np.pi / 4:
        field.ellipse(240 + 28 * np.cos(angle), 240 + 28 * np.sin(angle), 12, 1.5, od=0.3, angle=float(angle))
    found = boxes(field)
    assert len(found) == 1
    assert_box(found[0], (200, 200, 280, 280))


def test_object_in_a_hole() -> None:
    """An object in the hole of another one is part of it."""
    field = Field()
    field.ring(240, 240, 24, 8, od=0.3)
    field.ellipse(240, 240, 8, 8, od=0.6)
    assert len(boxes(field, min_size_um=10)) == 1


def test_touching_objects_are_split() -> None:
    """The parts of a clump have the centre of the clump as their owner point."""
    field = Field()
    field.ellipse(180, 200, 30, 30, od=0.4)
    field.ellipse(236, 210, 28, 28, od=0.2)
    found = detect(field.region())
    assert len(found.boxes) == 2
    order = np.argsort(found.boxes[:, 0])
    assert_box(found.boxes[order[0]] - CELL_PX, (150, 170, 210, 230))
    assert_box(found.boxes[order[1]] - CELL_PX, (208, 182, 264, 238))
    assert (found.owner[0] == found.owner[1]).all()
    whole = [found.boxes[:, 0].min(), found.boxes[:, 1].min(), found.boxes[:, 2].max(), found.boxes[:, 3].max()]
    assert found.owner[0] == pytest.approx([(whole[0] + whole[2]) / 2, (whole[1] + whole[3]) / 2], abs=1)


@pytest.mark.parametrize("angle", [0.0, 0.8, 1.6])
def test_long_object_is_not_split(angle: float) -> None:
    field = Field()
    field.ellipse(240, 240, 60, 25, od=0.3, angle=angle)
    assert len(boxes(field)) == 1


def test_uneven_illumination() -> None:
    """Uneven light and a blurred shadow are not objects."""
    field = Field()
    # A quarter of the light is lost towards one corner, and there is a blurred shadow.
    field.light *= 1 - 0.25 * (field.x + field.y) / (field.x + field.y).max()
    field.ellipse(300, 120, 160, 120, od=0.05, blur=120)
    field.ellipse(120, 360, 30, 22, od=0.2)
    found = boxes(field)
    assert len(found) == 1
    assert_box(found[0], (90, 338, 150, 382))


def test_smear_out_of_focus() -> None:
    """A blurred smear is not an object; a sharp object of the same density is one."""
    blurred, sharp = Field(), Field()
    blurred.ellipse(240, 240, 45, 45, od=0.15, blur=45)
    sharp.ellipse(240, 240, 45, 45, od=0.075)
    assert len(boxes(blurred)) == 0
    assert len(boxes(sharp)) == 1


def test_bubbles_and_fibres() -> None:
    """Rims of bubbles and fibres are not objects; a fossil inside a bubble is one."""
    field = Field(900, 900)
    field.ring(300, 300, 200, 5, od=0.6)  # a ring larger than any fossil
    field.ring(700, 700, 70, 4, od=0.5)  # a ring as large as a fossil, but with the empty field in it
    field.ellipse(700, 200, 90, 1.5, od=0.4, angle=0.5)  # a fibre
    field.ellipse(300, 300, 30, 22, od=0.3)  # a fossil inside the bubble
    found = boxes(field)
    assert len(found) == 1
    assert_box(found[0], (270, 278, 330, 322))


def test_line_attached_to_an_object() -> None:
    """A line attached to an object does not extend its box."""
    field = Field(600, 600)
    field.ellipse(200, 300, 40, 40, od=1.0)
    field.ellipse(320, 300, 100, 1.5, od=0.3)
    found = boxes(field)
    assert len(found) == 1
    assert_box(found[0], (160, 260, 240, 340), within=6)


def test_objects_on_a_mat() -> None:
    """Objects on a mat of organic matter are found; the mat is not an object."""
    field = Field(900, 900)
    field.ellipse(450, 450, 260, 200, od=0.1)
    field.ellipse(380, 430, 30, 26, od=0.9)
    field.ellipse(540, 480, 25, 30, od=0.7)
    field.ellipse(450, 360, 6, 6, od=0.5)  # a speck on the mat is not an object
    found = boxes(field)
    assert len(found) == 2
    assert_box(found[0], (350, 404, 410, 456))
    assert_box(found[1], (515, 450, 565, 510))


def test_large_textured_flake() -> None:
    """A textured flake larger than any fossil gives no objects."""
    field = Field(900, 900)
    field.ellipse(450, 450, 220, 180, od=0.25)
    texture = field.rng.normal(0, 1, (900 // 20, 900 // 20)).repeat(20, 0).repeat(20, 1)
    inside = np.hypot((field.x - 450) / 220, (field.y - 450) / 180) < 1
    field.light *= np.where(inside, 10 ** (-0.05 * texture), 1)
    assert len(boxes(field)) == 0


def test_unscanned_tiles() -> None:
    """Unscanned tiles are not objects and change no other object."""
    plain, holed = Field(), Field()
    for field in (plain, holed):
        field.ellipse(150, 150, 30, 30, od=0.2)
    holed.scanned[208:336, 64:400] = False
    holed.scanned[48:96, 320:464] = False
    assert len(boxes(holed)) == 1
    assert_box(boxes(holed)[0], tuple(boxes(plain)[0]), within=1)


def test_cut_objects() -> None:
    """An object that touches unscanned pixels is marked as cut."""
    field = Field()
    field.ellipse(140, 150, 30, 30, od=0.2)
    field.ellipse(260, 150, 30, 30, od=0.2)
    field.ellipse(3, 300, 30, 30, od=0.2)
    field.scanned[80:256, 270:400] = False
    found = detect(field.region())
    by_place = {round(box[0] - CELL_PX, -1): cut for box, cut in zip(found.boxes, found.cut, strict=True)}
    assert by_place == {0: True, 110: False, 230: True}


def test_region_of_any_size() -> None:
    """The sides of a region need not be multiples of a background cell."""
    field = Field(333, 251)
    field.ellipse(120, 150, 30, 30)
    region = field.region()
    cut = Region(region.rgb[:-3, :-5], region.scanned[:-3, :-5], 1.0)
    assert len(detect(cut).boxes) == 1


def test_too_coarse_pixels() -> None:
    region = Field().region()
    with pytest.raises(SlideError, match=r"density.*too coarse.*Set mpp to 2"):
        DensityDetector().detect(Region(region.rgb, region.scanned, 2.0))


@pytest.mark.parametrize("options", [{"min_size_um": 300}, {"min_size_um": 5}, {"mpp": 0}, {"colour": "blue"}])
def test_invalid_settings(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DensitySettings.model_validate(options)


# --- boxes do not depend on blocks ------------------------------------------------------------------------------------


def blockwise(
    detector: DensityDetector, rgb: npt.NDArray[np.uint8], scanned: npt.NDArray[np.bool_], core_px: int
) -> list[object]:
    """Return the union over blocks of the objects that each owns. Windows end one cell of unscanned margin outside the scan."""
    halo, align = int(np.ceil(detector.halo_um)), detector.align_px

    def spans(length: int) -> list[tuple[int, int, int, int]]:
        spans = []
        for start in range(0, length, core_px):
            stop = min(start + core_px, length)
            first = max((start - halo) // align * align, -align)
            last = min(-(-(stop + halo) // align) * align, -(-length // align) * align + align)
            spans.append((start, stop, first, last))
        return spans

    found: list[object] = []
    height, width = scanned.shape
    for y0, y1, top, bottom in spans(height):
        for x0, x1, left, right in spans(width):
            inner = np.s_[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            target = np.s_[inner[0].start - top : inner[0].stop - top, inner[1].start - left : inner[1].stop - left]
            window = np.full((bottom - top, right - left, 3), 255, np.uint8)
            known = np.zeros(window.shape[:2], np.bool_)
            window[target], known[target] = rgb[inner], scanned[inner]
            here = detector.detect(Region(window, known, 1.0))
            owner = here.owner + np.array([left, top])
            own = (owner[:, 0] >= x0) & (owner[:, 0] < x1) & (owner[:, 1] >= y0) & (owner[:, 1] < y1)
            table = np.column_stack(
                [here.boxes + np.array([left, top, left, top]), owner, here.area, here.score, here.cut]
            )
            found += [tuple(row) for row in table[own].tolist()]
    return sorted(found, key=str)


def crowded_scan(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return a scan on which blocks could differ: clumps, mats and rims of sizes around the limit, holes, uneven light."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(380, 600, 2))
    field = Field(height, width, seed)
    field.light *= 1 + 0.1 * np.sin(field.x / 90 + seed) * np.cos(field.y / 120)
    for _ in range(int(rng.integers(8, 30))):
        x, y, size = float(rng.uniform(0, width)), float(rng.uniform(0, height)), float(rng.uniform(4, 30))
        field.ellipse(
            x, y, size, size * rng.uniform(0.3, 1), rng.uniform(0.02, 1.5), rng.uniform(0, 3), rng.uniform(1, 12)
        )
        if rng.random() < 0.5:
            field.ellipse(x + 1.7 * size, y + 0.5 * size, size, size, rng.uniform(0.05, 0.5))
    for _ in range(int(rng.integers(0, 4))):
        place = rng.uniform(0, width), rng.uniform(0, height)
        field.ellipse(
            *place, rng.uniform(30, 160), rng.uniform(30, 160), rng.uniform(0.03, 0.3), blur=rng.uniform(1, 30)
        )
        field.ring(*place, rng.uniform(15, 130), rng.uniform(2, 8), rng.uniform(0.05, 0.8))
    for _ in range(int(rng.integers(0, 4))):
        top, left = rng.integers(0, height), rng.integers(0, width)
        field.scanned[top : top + 64, left : left + 96] = False
    region = field.region(noise=1.5)
    return region.rgb[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX], region.scanned[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**20), core_px=st.integers(110, 460))
def test_objects_do_not_depend_on_block_size(seed: int, core_px: int) -> None:
    """The union over blocks of the objects that each owns is the same for every block size."""
    rgb, scanned = crowded_scan(seed)
    detector = DensityDetector(DensitySettings(max_size_um=80))
    whole = blockwise(detector, rgb, scanned, 10_000)
    assert blockwise(detector, rgb, scanned, core_px) == whole


def test_crowded_scans_are_a_hard_case() -> None:
    """The scans for the test of blocks contain many objects, clumps and cut objects."""
    tables = [
        blockwise(DensityDetector(DensitySettings(max_size_um=80)), *crowded_scan(seed), 10_000) for seed in range(4)
    ]
    rows = np.array([row for table in tables for row in table])
    assert len(rows) > 30
    assert rows[:, 8].any()
    assert len(np.unique(rows[:, 4:6], axis=0)) < len(rows)  # parts of one clump share their owner


def test_narrow_halo_changes_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of blocks can fail: with a halo of a few um it does."""

    def differs(make: Callable[[], DensityDetector]) -> bool:
        return any(
            blockwise(make(), *crowded_scan(seed), 120) != blockwise(make(), *crowded_scan(seed), 10_000)
            for seed in range(3)
        )

    def narrow() -> DensityDetector:
        detector = DensityDetector(DensitySettings(max_size_um=80))
        monkeypatch.setattr(detector, "halo_um", 16.0)
        return detector

    assert differs(narrow)
