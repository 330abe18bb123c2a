from pathlib import Path

import numpy as np
import pytest

from slidepipe.errors import RegionError, ResolutionError, SlideError
from slidepipe.slides.geometry import Box
from slidepipe.slides.handles import cached_slide
from slidepipe.slides.reader import identify_slide, open_slide, read_meta
from tests import drawn


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    image = drawn.field(1024, 768, [(300, 300, 80, drawn.BROWN)])
    drawn.svs(folder / "aperio.svs", image)
    drawn.svs(folder / "no-mpp.svs", image, mpp=None)
    drawn.svs(folder / "wrong-mpp.svs", image, mpp=250.0)
    drawn.mirax(folder / "mirax.mrxs", image, offset_tiles=(4, 2), missing=[(2, 1)])
    return folder


def test_mirax_bounds_and_unscanned_pixels(scans: Path) -> None:
    with open_slide(scans / "mirax.mrxs") as slide:
        meta = slide.meta
        assert meta.vendor == "mirax"
        assert meta.bounds == Box(1024, 512, 2048, 1280)
        assert (meta.mpp_x, meta.mpp_y) == (0.25, 0.25)
        rgb, scanned = slide.read(meta.levels[0], 1024 - 100, 512 - 100, 300, 300)
        assert not scanned[:100].any()
        assert not scanned[:, :100].any()
        assert scanned[100:, 100:].all()
        assert (rgb[~scanned] == meta.background).all()
        hole = slide.read(meta.levels[2], (1024 + 512) // 4, (512 + 256) // 4, 64, 64)
        assert not hole[1].any()
        assert (hole[0] == 255).all()


def test_read_outside_the_slide(scans: Path) -> None:
    with open_slide(scans / "aperio.svs") as slide:
        rgb, scanned = slide.read(slide.meta.levels[1], -10, -10, 30, 30)
        assert scanned[10:, 10:].all()
        assert not scanned[:10].any()
        assert (rgb[:10] == 255).all()


def test_mpp(scans: Path) -> None:
    assert read_meta(scans / "aperio.svs").mpp == 0.25
    assert read_meta(scans / "aperio.svs", 0.5).mpp == 0.5
    assert read_meta(scans / "wrong-mpp.svs", 0.25).mpp == 0.25
    with pytest.raises(ResolutionError, match=r"no-mpp.svs.*--mpp"):
        read_meta(scans / "no-mpp.svs")
    with pytest.raises(ResolutionError, match=r"wrong-mpp.svs.*250 um per pixel is not a resolution"):
        read_meta(scans / "wrong-mpp.svs")
    with pytest.raises(ResolutionError, match="nan um per pixel"):
        read_meta(scans / "aperio.svs", float("nan"))


def test_not_a_slide(scans: Path, tmp_path: Path) -> None:
    """The message is one line that names the file."""
    text = tmp_path / "text.svs"
    text.write_text("not a slide")
    alone = tmp_path / "alone.mrxs"
    alone.write_bytes(b"")
    whole = (scans / "aperio.svs").read_bytes()
    cut = tmp_path / "cut.svs"
    cut.write_bytes(whole[: len(whole) // 2])
    for path, message in (
        (tmp_path / "none.svs", "no such file"),
        (text, "not a slide that OpenSlide can open"),
        (alone, "its folder 'alone' with the image data is missing"),
        (cut, "cut.svs"),
    ):
        with pytest.raises(SlideError, match=message) as caught:
            open_slide(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_failed_read_loses_one_region(tmp_path: Path) -> None:
    """Other regions can be read after a failed read."""
    image = drawn.field(1024, 1024)
    path = drawn.svs(tmp_path / "broken.svs", image, factors=(1,))
    drawn.break_tile(path, 5)
    with open_slide(path) as slide:
        level = slide.meta.levels[0]
        bad: list[str] = []
        for y in range(0, 1024, 256):
            for x in range(0, 1024, 256):
                try:
                    rgb, _ = slide.read(level, x, y, 256, 256)
                except RegionError as error:
                    bad.append(str(error))
                else:
                    assert np.abs(rgb.astype(int) - image[y : y + 256, x : x + 256]).mean() < 6
        assert len(bad) == 1
        assert "broken.svs" in bad[0]


def test_identity(scans: Path, tmp_path: Path) -> None:
    first = identify_slide(scans / "mirax.mrxs")
    assert identify_slide(scans / "mirax.mrxs") == first
    assert identify_slide(scans / "aperio.svs") != first
    copy = tmp_path / "aperio.svs"
    data = bytearray((scans / "aperio.svs").read_bytes())
    copy.write_bytes(bytes(data))
    assert identify_slide(copy) == identify_slide(scans / "aperio.svs")
    data[-1] ^= 1
    copy.write_bytes(bytes(data))
    assert identify_slide(copy) != identify_slide(scans / "aperio.svs")


def test_cached_slides(tmp_path: Path) -> None:
    """A thread keeps the slides that it used last and closes older ones."""
    paths = [drawn.svs(tmp_path / f"{index}.svs", drawn.field(256, 256)) for index in range(4)]
    first = cached_slide(paths[0])
    assert cached_slide(paths[0]) is first
    for path in paths[1:]:
        cached_slide(path)
    assert cached_slide(paths[0]) is not first


def test_broken_files_of_other_projects(test_data: Path) -> None:
    for name in ("unopenable.tiff", "unreadable.svs", "Mirax2-Fluorescence-1.mrxs"):
        path = test_data / "broken" / name
        with pytest.raises(SlideError, match=name), open_slide(path, mpp=0.25) as slide:
            slide.read(slide.meta.levels[0], 0, 0, slide.meta.width_px, slide.meta.height_px)
