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
    # The position buffer is the last thing in the last data file: nine bytes a tile of the canvas, here 4 x 4.
    path = scan.with_suffix("") / "Data0000.dat"
    data = bytearray(path.read_bytes())
    at = len(data) - 9 * 16 + 9 * (4 * row + column)
    flag, _, y = struct.unpack_from("<Bii", data, at)
    assert flag == 1
    struct.pack_into("<Bii", data, at, flag, x, y)
    path.write_bytes(data)


def test_a_sound_scan_opens(scan: Path) -> None:
    meta = read_meta(scan)
    assert (meta.width_px, meta.height_px) == (1024, 1024)
    move_tile(scan, 1, 1, 250)  # cameras place their images a little off the grid
    read_meta(scan)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DIGITIZER_WIDTH", 2**31 - 1),  # OpenSlide would end the process
        ("HIER_0_COUNT", 2**31 - 1),  # the same
        ("IMAGENUMBER_X", 2**30),  # minutes
        ("NONHIER_COUNT", -1),
        ("FILE_COUNT", 10**30),
    ],
)
def test_an_absurd_number_is_named(scan: Path, key: str, value: int) -> None:
    rewrite(scan, key, value)
    with pytest.raises(SlideError, match=rf"Slidedat.ini: {key} = {value} is not possible.*copy it again"):
        read_meta(scan)


def test_numbers_that_are_absurd_together_are_named(scan: Path) -> None:
    rewrite(scan, "IMAGENUMBER_X", 60_000)
    rewrite(scan, "IMAGENUMBER_Y", 60_000)
    with pytest.raises(SlideError, match=r"60000 x 60000 images are not possible"):
        read_meta(scan)


@pytest.mark.parametrize("x", [2**30, -(2**30)])
def test_a_tile_far_off_the_slide_is_told_rather_than_looked_for(scan: Path, x: int) -> None:
    move_tile(scan, 2, 2, x)
    with pytest.raises(
        SlideError, match=rf"stored position of a tile is x = {x} px, far outside the slide \(1024 px\)"
    ):
        read_meta(scan)


@pytest.mark.parametrize("length", [-1, 2**31 - 1])
def test_an_absurd_length_in_the_index_is_named(scan: Path, length: int) -> None:
    path = scan.with_suffix("") / "Index.dat"
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, len(data) - 8, length)  # the last item is the position buffer's: offset, length, file
    path.write_bytes(data)
    with pytest.raises(SlideError, match=rf"Index.dat: {length} bytes at \d+ of Data0000.dat are outside that file"):
        read_meta(scan)


@pytest.mark.parametrize("name", ["Slidedat.ini", "Index.dat", "Data0000.dat"])
def test_a_file_that_is_missing_a_folder_or_cut_short_is_a_slide_error(scan: Path, name: str) -> None:
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
