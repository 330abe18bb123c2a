"""Tests of the sample well against its truth, and of the scan writers against OpenSlide."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
from PIL import Image

from sample_slides import make
from sample_slides.fossils import FOSSILS
from sample_slides.scanfiles import encode_jpeg, image_tiles, jpeg_frame, shrink, write_mirax, write_svs

FOLDER = Path(make.__file__).parent
WELL = FOLDER / "well"
PLANS = [plan for sample in make.SAMPLES for plan in sample.slides]
FILL = (220, 210, 200)


def truth() -> list[dict[str, str]]:
    with (FOLDER / "truth.csv").open() as file:
        return list(csv.DictReader(file))


def box_of(row: dict[str, str]) -> tuple[int, int, int, int]:
    return int(row["x0"]), int(row["y0"]), int(row["x1"]), int(row["y1"])


@pytest.fixture(params=[plan.name for plan in PLANS])
def slide(request: pytest.FixtureRequest) -> Iterator[tuple[make.SlidePlan, openslide.OpenSlide]]:
    plan = next(plan for plan in PLANS if plan.name == request.param)
    with openslide.OpenSlide(WELL / plan.name) as opened:
        yield plan, opened


def read(scan: openslide.OpenSlide, level: int) -> npt.NDArray[np.int64]:
    return np.asarray(scan.read_region((0, 0), level, scan.level_dimensions[level])).astype(np.int64)


def test_slide_properties(slide: tuple[make.SlidePlan, openslide.OpenSlide]) -> None:
    plan, scan = slide
    assert float(scan.properties["openslide.mpp-x"]) == float(scan.properties["openslide.mpp-y"]) == 0.25
    assert scan.level_downsamples == pytest.approx((1, 4, 16))
    assert scan.dimensions == (256 * plan.canvas[0], 256 * plan.canvas[1])
    assert scan.properties["openslide.vendor"] == ("mirax" if plan.name.endswith(".mrxs") else "aperio")


def test_bounds_and_alpha(slide: tuple[make.SlidePlan, openslide.OpenSlide]) -> None:
    plan, scan = slide
    alpha = read(scan, 2)[..., 3]
    assert np.array_equal(alpha == 255, np.kron(plan.scanned(), np.ones((16, 16), bool)))
    assert set(np.unique(alpha)) <= {0, 255}
    if plan.name.endswith(".mrxs"):
        bounds = [int(scan.properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")]
        assert bounds == [256 * value for value in plan.scan]
        assert (alpha == 0).any()


def test_truth_boxes_hold_objects(
    slide: tuple[make.SlidePlan, openslide.OpenSlide],
) -> None:
    plan, scan = slide
    seen = read(scan, 1)
    field = np.median(seen[seen[..., 3] == 255], axis=0)[2]
    rows = [row for row in truth() if row["slide"] == make.slide_id(plan)]
    assert len(rows) == sum(plan.fossils.values()) + len(plan.cut) + plan.debris
    for row in rows:
        x0, y0, x1, y1 = box_of(row)
        assert 0 <= x0 < x1 <= scan.dimensions[0]
        assert 0 <= y0 < y1 <= scan.dimensions[1]
        pixels = seen[y0 // 4 : -(-y1 // 4), x0 // 4 : -(-x1 // 4)]
        scanned = pixels[..., 3] == 255
        assert scanned.all() or row["cut"] == "1"
        assert pixels[scanned][:, 2].min() < 0.9 * field


def test_truth_boxes_fit_tightly(slide: tuple[make.SlidePlan, openslide.OpenSlide]) -> None:
    plan, scan = slide
    rows = [row for row in truth() if row["slide"] == make.slide_id(plan) and row["clump"] == "0" and row["cut"] == "0"]
    rows = [row for row in rows if row["genus"] != "debris"]  # a flake of amorphous matter has no sharp edge
    for row in rows[:: len(rows) // 12]:
        x0, y0, x1, y1 = box_of(row)
        around = np.asarray(scan.read_region((x0 - 20, y0 - 20), 0, (x1 - x0 + 40, y1 - y0 + 40))).astype(int)
        dark = around[..., 2] < np.median(around[:8, :, 2]) - 16
        ys, xs = np.nonzero(dark)
        # JPEG and the blurred edge of the object change the box by a few pixels
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(found, (20, 20, 20 + x1 - x0, 20 + y1 - y0))).max() <= 6


def test_only_clumps_touch() -> None:
    rows = truth()
    for plan in PLANS:
        here = [row for row in rows if row["slide"] == make.slide_id(plan)]
        boxes = np.array([box_of(row) for row in here])
        for i, row in enumerate(here):
            x0, y0, x1, y1 = boxes[i]
            meets = (boxes[:, 0] < x1) & (x0 < boxes[:, 2]) & (boxes[:, 1] < y1) & (y0 < boxes[:, 3])
            partners = {here[j]["clump"] for j in np.nonzero(meets)[0] if j != i}
            assert partners <= ({row["clump"]} if row["clump"] != "0" else set())
        clumps = Counter(row["clump"] for row in here if row["clump"] != "0")
        assert sorted(clumps.values()) == [2] * len(plan.clumps)


def test_truth_counts() -> None:
    with (FOLDER / "truth_counts.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["depth_m"]) for row in table] == sorted(sample.depth_m for sample in make.SAMPLES)
    rows = truth()
    for sample, counted in zip(make.SAMPLES, table, strict=True):
        ids = {make.slide_id(plan) for plan in sample.slides}
        whole = Counter(row["genus"] for row in rows if row["slide"] in ids and row["cut"] == "0")
        assert {genus: int(counted[genus]) for genus in FOSSILS} == {genus: whole[genus] for genus in FOSSILS}
    for genus in FOSSILS:
        assert 20 <= sum(int(row[genus]) for row in table) <= 35


def test_reference_crops() -> None:
    assert {path.name for path in (FOLDER / "reference").iterdir()} == set(FOSSILS)
    for genus in FOSSILS:
        crops = sorted((FOLDER / "reference" / genus).glob("*.jpg"))
        assert len(crops) == make.REFERENCES_PER_GENUS
        with Image.open(crops[0]) as crop:
            assert 100 < max(crop.size) <= 256


def test_folder_size() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 12e6


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".svs", ".mrxs"])
def test_same_seed_same_bytes(tmp_path: Path, suffix: str) -> None:
    plan = make.SlidePlan(
        f"1/6407_6-5 900 mDC{suffix}",
        {"inaperturopollenites": 2, "deltoidospora": 1},
        debris=2,
        clumps=(("inaperturopollenites", "deltoidospora"),),
        cut=(),
        canvas=(5, 5),
        scan=(0, 0, 5, 5),
    )
    made = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        rows = make.make_slide(tmp_path / name, plan, (seed,))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        made.append((rows, [path.read_bytes() for path in files]))
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert [row.clump for row in made[0][0]] == [1, 1, 0, 0, 0]


def test_reference_crop_pixels() -> None:
    crop = np.asarray(make.make_reference("tasmanites", (3,))).astype(int)
    assert crop[:4].min() > 190
    assert crop[crop.shape[0] // 2, crop.shape[1] // 2].max() < 190


def test_crowded_slide_error(tmp_path: Path) -> None:
    plan = replace(
        PLANS[0], fossils={"deltoidospora": 12}, debris=0, clumps=(), cut=(), canvas=(2, 2), scan=(0, 0, 2, 2)
    )
    with pytest.raises(ValueError, match="too crowded"):
        make.make_slide(tmp_path, plan, (1,))


# The writers.


def squares(columns: int, rows: int, side_px: int = 64) -> npt.NDArray[np.uint8]:
    """Return squares of one colour each: JPEG at quality 100 keeps their colours."""
    colours = np.random.default_rng(0).integers(40, 250, (rows, columns, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((side_px, side_px, 1), np.uint8))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("size", [(768, 512), (700, 389)])
def test_svs_pixels(tmp_path: Path, size: tuple[int, int], big: bool) -> None:
    image = squares(12, 8)
    write_svs(tmp_path / "a.svs", size, image_tiles(image, quality=100), big=big)
    with openslide.OpenSlide(tmp_path / "a.svs") as scan:
        assert scan.level_dimensions == tuple((size[0] // f, size[1] // f) for f in (1, 4, 16))
        assert scan.properties["openslide.objective-power"] == "40"
        for level, factor in enumerate((1, 4, 16)):
            width, height = scan.level_dimensions[level]
            seen = read(scan, level)
            assert (seen[..., 3] == 255).all()
            expected = shrink(image, factor)[:height, :width].astype(int)
            assert np.abs(seen[..., :3] - expected).max() <= 4  # a pixel out of place would differ by tens


def test_svs_without_resolution(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", (256, 256), image_tiles(squares(4, 4)), mpp=None, factors=(1,))
    with openslide.OpenSlide(tmp_path / "a.svs") as scan:
        assert "openslide.mpp-x" not in scan.properties


@pytest.mark.parametrize("factors", [(1,), (1, 2, 4, 8), (1, 4, 16)])
def test_mirax_pixels(tmp_path: Path, factors: tuple[int, ...]) -> None:
    image = squares(28, 20)
    scanned = np.ones((5, 7), bool)
    scanned[0], scanned[:, 0], scanned[2, 3] = False, False, False
    served = image_tiles(image, factors=factors, quality=100, scanned=scanned, fill=FILL)
    # the limit is so small that every tile starts a new data file
    write_mirax(tmp_path / "a.mrxs", (7, 5), served, factors=factors, fill=FILL, mpp=0.2425, data_file_bytes=300)
    with openslide.OpenSlide(tmp_path / "a.mrxs") as scan:
        bounds = [int(scan.properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")]
        assert bounds == [256, 256, 6 * 256, 4 * 256]
        assert float(scan.properties["openslide.mpp-x"]) == pytest.approx(0.2425)
        assert scan.properties["openslide.background-color"] == "DCD2C8"
        for level, factor in enumerate(factors):
            seen = read(scan, level)
            there = np.kron(scanned, np.ones((256 // factor, 256 // factor), bool))
            assert np.array_equal(seen[..., 3], 255 * there)
            assert (
                np.abs(seen[..., :3] - shrink(image, factor))[there].max() <= 4
            )  # a pixel out of place would differ by tens


def test_mirax_with_a_single_tile(tmp_path: Path) -> None:
    scanned = np.zeros((3, 4), bool)
    scanned[2, 1] = True
    write_mirax(tmp_path / "a.mrxs", (4, 3), image_tiles(squares(16, 12), scanned=scanned))
    with openslide.OpenSlide(tmp_path / "a.mrxs") as scan:
        alpha = read(scan, 0)[..., 3]
        assert np.array_equal(alpha, 255 * np.kron(scanned, np.ones((256, 256), bool)))


@pytest.mark.parametrize("kind", ["svs", "mrxs"])
def test_repeated_tile_is_stored_once(tmp_path: Path, kind: str) -> None:
    jpeg = encode_jpeg(np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8))
    path = tmp_path / f"a.{kind}"
    if kind == "svs":
        write_svs(path, (256 * 40, 256 * 40), lambda level, column, row: jpeg, big=True)
    else:
        write_mirax(path, (40, 40), lambda level, column, row: jpeg)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert stored < 5 * len(jpeg)
    with openslide.OpenSlide(path) as scan:
        last = scan.read_region((256 * 39, 256 * 39), 0, (256, 256))
        assert np.array_equal(np.asarray(last), np.asarray(scan.read_region((0, 0), 0, (256, 256))))


def test_writer_errors(tmp_path: Path) -> None:
    small = encode_jpeg(np.zeros((128, 256, 3), np.uint8))
    with pytest.raises(ValueError, match="256 x 128 px"):
        write_svs(tmp_path / "a.svs", (256, 256), lambda level, column, row: small)
    with pytest.raises(ValueError, match="not a JPEG"):
        write_svs(tmp_path / "a.svs", (256, 256), lambda level, column, row: b"no picture")
    with pytest.raises(ValueError, match="is None: a TIFF"):
        write_svs(tmp_path / "a.svs", (256, 256), lambda level, column, row: None)
    with pytest.raises(ValueError, match=r"ends in \.mrxs"):
        write_mirax(tmp_path / "a.svs", (1, 1), lambda level, column, row: None)
    with pytest.raises(ValueError, match="powers of two"):
        write_mirax(tmp_path / "a.mrxs", (1, 1), lambda level, column, row: None, factors=(1, 3))


def test_jpeg_frame() -> None:
    image = np.zeros((48, 80, 3), np.uint8)
    assert jpeg_frame(encode_jpeg(image, 80)) == (80, 48, (2, 2))
    assert jpeg_frame(encode_jpeg(image, 95)) == (80, 48, (1, 1))
