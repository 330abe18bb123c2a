import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from slidepipe import plugins
from slidepipe.cli import main
from slidepipe.errors import SlideError, WellError
from slidepipe.plugins.registry import registered_classes
from slidepipe.results import Results
from slidepipe.samples.discover import discover
from slidepipe.slides.openslide_reader import OpenSlideReader
from slidepipe.slides.reader import find_reader, identify_slide, list_readers, open_slide, read_meta, slide_suffixes
from tests import drawn

NPY_READER = Path(__file__).parent.with_name("npy_reader.py")

#: Centre and radius in pixels of 1 um, colour.
DISCS = [(200, 150, 30, drawn.BROWN), (400, 420, 40, drawn.GREEN), (600, 200, 25, drawn.AMBER)]


@pytest.fixture(autouse=True)
def _no_plugin_files() -> Iterator[None]:
    """Register no plugin files for the next test."""
    before = dict(registered_classes)
    registered_classes.clear()
    yield
    registered_classes.clear()
    registered_classes.update(before)


@pytest.fixture
def npy_well(tmp_path: Path) -> Path:
    well = tmp_path / "well"
    well.mkdir()
    np.save(well / "1_2-3 100 mDC.npy", drawn.field(800, 600, DISCS))
    return well


def write_plugin(path: Path, name: str, body: str) -> Path:
    """Write a plugin file with a reader that claims files as ``body`` says and never opens one."""
    path.write_text(
        "from slidepipe.slides.reader import SlideReader\n\n\n"
        "class Reader(SlideReader):\n"
        f"    name = '{name}'\n"
        f"    {body}\n"
        "    def __init__(self, path, mpp=None):\n"
        "        raise RuntimeError('no such codec')\n"
        "    def read(self, level, x, y, width, height):\n"
        "        raise NotImplementedError\n"
        "    def close(self):\n"
        "        pass\n"
    )
    return path


def test_openslide_is_an_entry_point() -> None:
    assert [info.value for info in plugins.list_plugins("reader") if info.name == "openslide"] == [
        "slidepipe.slides.openslide_reader:OpenSlideReader"
    ]
    assert list_readers() == (OpenSlideReader,)
    assert slide_suffixes() == sorted(OpenSlideReader.suffixes)


def test_plugin_file_adds_a_format(npy_well: Path) -> None:
    """Discovery, metadata, identity and pixels of a format follow from one file."""
    with pytest.raises(WellError, match=r"no slides in this folder .*\.mrxs"):
        discover(npy_well)
    plugins.register_file(NPY_READER)
    assert [reader.name for reader in list_readers()] == ["npy", "openslide"]
    (slide,) = discover(npy_well)
    assert (slide.slide_id, slide.sample.sample_id) == ("1_2-3 100 mDC", "1/2-3 100 mDC")
    meta = read_meta(slide.path)
    assert (meta.vendor, meta.width_px, meta.height_px, meta.mpp) == ("npy", 800, 600, 1.0)
    image = np.load(slide.path)
    with open_slide(slide.path) as opened:
        rgb, scanned = opened.read(meta.levels[0], 790, 590, 20, 20)
    np.testing.assert_array_equal(rgb[:10, :10], image[590:, 790:])
    assert scanned.sum() == 100
    before = identify_slide(slide.path)
    image[-1, -1] = 0
    np.save(slide.path, image)
    assert identify_slide(slide.path) != before


def test_info_and_run_on_a_new_format(npy_well: Path, tmp_path: Path, test_plugins: Path) -> None:
    """The command line and the worker processes use a reader from a plugin file."""
    shown = CliRunner().invoke(main, ["info", str(npy_well / "1_2-3 100 mDC.npy"), "--plugin", str(NPY_READER)])
    assert shown.exit_code == 0, shown.output
    assert "npy" in shown.output
    assert "800 x 600 px" in shown.output
    reference = drawn.reference(tmp_path / "reference", 6)
    arguments = ["run", str(npy_well), "--out", str(tmp_path / "results"), "--reference", str(reference)]
    arguments += ["--plugin", str(NPY_READER), "--plugin", str(test_plugins), "--backbone", "mean-colour"]
    done = CliRunner().invoke(main, [*arguments, "--scheduler", "local", "--workers", "1"])
    assert done.exit_code == 0, done.output
    results = Results(tmp_path / "results")
    boxes = results.objects.sort_values("x0")[["x0", "y0", "x1", "y1"]].to_numpy()
    wanted = sorted([x - r, y - r, x + r, y + r] for x, y, r, _ in DISCS)
    np.testing.assert_allclose(boxes, wanted, atol=4)
    assert pd.read_csv(tmp_path / "results" / "counts.csv")["status"].tolist() == ["ok"]


def test_third_party_reader_goes_before_openslide(tmp_path: Path) -> None:
    path = drawn.svs(tmp_path / "1_2-3 5 mC.svs", drawn.field(256, 256))
    assert find_reader(path) is OpenSlideReader
    plugins.register_file(write_plugin(tmp_path / "one.py", "one", "suffixes = frozenset({'.svs'})"))
    assert find_reader(path).name == "one"
    with pytest.raises(SlideError, match=r"the reader 'one' cannot open it \(RuntimeError: no such codec\)"):
        open_slide(path)
    plugins.register_file(write_plugin(tmp_path / "two.py", "two", "suffixes = frozenset({'.svs', '.x'})"))
    with pytest.raises(SlideError, match="the readers one and two both claim this file"):
        find_reader(path)


def test_identity_depends_on_the_reader(tmp_path: Path) -> None:
    """A reader may return other pixels for the same file, so stored results are not reused."""
    path = drawn.svs(tmp_path / "1_2-3 5 mC.svs", drawn.field(256, 256))
    identities = {identify_slide(path)}
    for version in ("1", "2"):
        body = f"suffixes = frozenset({{'.svs'}}); version = '{version}'"
        plugins.register_file(write_plugin(tmp_path / "one.py", "one", body))
        identities.add(identify_slide(path))
    assert len(identities) == 3


def test_openslide_opens_unclaimed_files(tmp_path: Path) -> None:
    path = drawn.svs(tmp_path / "scan.unknown", drawn.field(256, 256))
    assert find_reader(path) is OpenSlideReader
    assert read_meta(path).vendor == "aperio"


def test_broken_reader_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class that is not a SlideReader is reported, and the other readers work."""
    file = tmp_path / "broken.py"
    file.write_text(
        "class Broken:\n    name = 'broken'\n"
        "    def can_read(self): ...\n    def read(self): ...\n    def close(self): ...\n"
    )
    plugins.register_file(file)
    with caplog.at_level(logging.WARNING):
        assert list_readers() == (OpenSlideReader,)
    assert "reader 'broken': its class does not derive from slidepipe.slides.reader.SlideReader" in caplog.text
