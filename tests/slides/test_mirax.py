import struct
from pathlib import Path

import pytest

from slidepipe.errors import SlideError
from slidepipe.slides.reader import read_meta
from tests import drawn


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return drawn.mirax(tmp_path / "1_2-3 5 mC.mrxs", drawn.field(512, 512), offset_tiles=(1, 1))


def rewrite(scan: Path, key: str, value: object) -> None:
    path = scan.with_suffix("") / "Slidedat.ini"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    changed = [f"{key} = {value}" if line.partition("=")[0].strip() == key else line for line in lines]
    assert changed != lines
    path.write_text("\n".join(changed) + "\n", encoding="utf-8")


def move_tile(scan: Path, column: int, row: int, x: int) -> None:
    # The position buffer is at the end of the last data file: nine bytes per tile of the canvas, here 4 x 4 tiles.
    path = scan.with_suffix("") / "Data0000.dat"
    data = bytearray(path.read_bytes())
    at = len(data) - 9 * 16 + 9 * (4 * row + column)
    flag, _, y = struct.unpack_from("<Bii", data, at)
    assert flag == 1
    struct.pack_into("<Bii", data, at, flag, x, y)
    path.write_bytes(data)


def test_valid_scan(scan: Path) -> None:
    meta = read_meta(scan)
    assert (meta.width_px, meta.height_px) == (1024, 1024)
    move_tile(scan, 1, 1, 250)  # real cameras place their images slightly off the grid
    read_meta(scan)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DIGITIZER_WIDTH", 2**31 - 1),  # OpenSlide would end the process
        ("HIER_0_COUNT", 2**31 - 1),  # OpenSlide would end the process too
        ("IMAGENUMBER_X", 2**30),  # OpenSlide would take minutes
        ("NONHIER_COUNT", -1),
        ("FILE_COUNT", 10**30),
    ],
)
def test_implausible_number(scan: Path, key: str, value: int) -> None:
    """The message names the file, the key and the value."""
    rewrite(scan, key, value)
    with pytest.raises(SlideError, match=rf"Slidedat.ini: {key} = {value} is not possible.*copy it again"):
        read_meta(scan)


def test_implausible_image_count(scan: Path) -> None:
    """Two numbers that are plausible alone may have an implausible product."""
    rewrite(scan, "IMAGENUMBER_X", 60_000)
    rewrite(scan, "IMAGENUMBER_Y", 60_000)
    with pytest.raises(SlideError, match=r"60000 x 60000 images are not possible"):
        read_meta(scan)


@pytest.mark.parametrize("x", [2**30, -(2**30)])
def test_tile_far_outside(scan: Path, x: int) -> None:
    """A tile far outside the slide is an error, because OpenSlide would search for it for minutes."""
    move_tile(scan, 2, 2, x)
    with pytest.raises(
        SlideError, match=rf"stored position of a tile is x = {x} px, far outside the slide \(1024 px\)"
    ):
        read_meta(scan)


@pytest.mark.parametrize("length", [-1, 2**31 - 1])
def test_implausible_length_in_index(scan: Path, length: int) -> None:
    path = scan.with_suffix("") / "Index.dat"
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, len(data) - 8, length)  # the last entry is the position buffer: offset, length, file
    path.write_bytes(data)
    with pytest.raises(SlideError, match=rf"Index.dat: {length} bytes at \d+ of Data0000.dat are outside that file"):
        read_meta(scan)


@pytest.mark.parametrize("name", ["Slidedat.ini", "Index.dat", "Data0000.dat"])
def test_damaged_data_file(scan: Path, name: str) -> None:
    """A data file that is missing, incomplete or a folder is a SlideError of one line."""
    path = scan.with_suffix("") / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(SlideError):
        read_meta(scan)
    path.unlink()
    with pytest.raises(SlideError):
        read_meta(scan)
    path.mkdir()
    with pytest.raises(SlideError) as caught:
        read_meta(scan)
    assert "\n" not in str(caught.value)
