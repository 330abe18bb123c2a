"""Write whole-slide scans that OpenSlide opens: Aperio-style TIFF (`.svs`) and MIRAX (`.mrxs` and folder).

Both writers call a function for one encoded JPEG tile after another and never hold the whole slide, so they can write scans of
any size. Tiles with the same bytes are stored once.
"""

import configparser
import hashlib
import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

Tiles = Callable[[int, int, int], bytes | None]
"""(level, column, row) -> one JPEG of tile_px x tile_px pixels, or None where nothing was scanned."""

_SHORT, _LONG, _ASCII, _LONG8 = 3, 4, 2, 16
_TYPE_BYTES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _LONG8: 8}
_TYPE_CODES = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_INT32_MAX = 2**31 - 1


def encode_jpeg(rgb: UInt8Array, quality: int = 80) -> bytes:
    """Encode uint8 (H, W, 3) as JPEG; chroma is halved below quality 95 and kept from there on."""
    buffer = io.BytesIO()
    subsampling = "4:4:4" if quality >= 95 else "4:2:0"
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
    return buffer.getvalue()


def shrink(rgb: UInt8Array, factor: int) -> UInt8Array:
    """Average whole `factor` x `factor` squares of uint8 (H, W, 3); the rest at the right and the bottom is dropped."""
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    squares = rgb[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    mean: npt.NDArray[np.float32] = squares.mean(axis=(1, 3), dtype=np.float32)
    return np.rint(mean).astype(np.uint8)


def image_tiles(
    image: UInt8Array,
    *,
    tile_px: int = 256,
    factors: Sequence[int] = (1, 4, 16),
    quality: int = 80,
    scanned: BoolArray | None = None,
    fill: tuple[int, int, int] = (255, 255, 255),
) -> Tiles:
    """Serve an image in memory as the tiles of a pyramid.

    Args:
        image: uint8 (H, W, 3), level 0.
        tile_px: side of every stored tile.
        factors: downsample of each level, the first 1.
        quality: JPEG quality.
        scanned: bool (rows, columns) of level-0 tiles; False tiles are served as None, and a tile of a higher level is
            None where nothing below it was scanned. All True when absent.
        fill: colour of padding and of unscanned parts of a higher level's tile.
    """
    rows, columns = -(-image.shape[0] // tile_px), -(-image.shape[1] // tile_px)
    present = np.ones((rows, columns), bool) if scanned is None else scanned
    if present.shape != (rows, columns):
        raise ValueError(f"scanned has shape {present.shape}, the image has {rows} rows and {columns} columns of tiles")

    def tile(level: int, column: int, row: int) -> bytes | None:
        factor = factors[level]
        below = present[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        if not below.any():
            return None
        span = tile_px * factor
        canvas = np.full((span, span, 3), fill, np.uint8)
        source = image[row * span : (row + 1) * span, column * span : (column + 1) * span]
        canvas[: source.shape[0], : source.shape[1]] = source
        unscanned = np.kron(~below, np.ones((tile_px, tile_px), bool))
        canvas[: unscanned.shape[0], : unscanned.shape[1]][unscanned] = fill
        return encode_jpeg(shrink(canvas, factor), quality)

    return tile


class _Blobs:
    """Append blobs to an open file, each distinct blob once."""

    def __init__(self, file: BinaryIO, tile_px: int) -> None:
        self._file = file
        self._tile_px = tile_px
        self._placed: dict[bytes, tuple[int, int]] = {}
        self.subsampling: tuple[int, int] | None = None

    def place(self, jpeg: bytes) -> tuple[int, int]:
        """Return offset and length of `jpeg` in the file, which is written if it is new."""
        digest = hashlib.blake2b(jpeg, digest_size=16).digest()
        if digest not in self._placed:
            width, height, subsampling = jpeg_frame(jpeg)
            if (width, height) != (self._tile_px, self._tile_px):
                raise ValueError(f"a tile is {width} x {height} px, not {self._tile_px} x {self._tile_px}: pad it")
            if self.subsampling not in (None, subsampling):
                raise ValueError("tiles differ in chroma subsampling: encode them all alike")
            self.subsampling = subsampling
            self._placed[digest] = (self._file.tell(), len(jpeg))
            self._file.write(jpeg)
        return self._placed[digest]


def jpeg_frame(jpeg: bytes) -> tuple[int, int, tuple[int, int]]:
    """Return width, height and chroma subsampling (x, y) from the frame header of a JPEG.

    Raises:
        ValueError: there is no frame header.
    """
    at = 2
    while jpeg[:2] == b"\xff\xd8" and at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", jpeg, at + 1)
        if 0xC0 <= marker <= 0xC2:
            height, width = struct.unpack_from(">HH", jpeg, at + 5)
            sampling = jpeg[at + 11]
            return width, height, (sampling >> 4, sampling & 15)
        at += 2 + length
    raise ValueError("a tile is not a JPEG: the callable must return encoded JPEG bytes")


def write_svs(
    path: Path,
    size: tuple[int, int],
    tiles: Tiles,
    *,
    mpp: float | None = 0.25,
    factors: Sequence[int] = (1, 4, 16),
    tile_px: int = 256,
    objective: int = 40,
    big: bool = False,
) -> None:
    """Write an Aperio-style pyramidal TIFF of JPEG tiles.

    Args:
        path: the file, by custom `.svs`.
        size: width and height of level 0 in pixels; level i has `size // factors[i]`.
        tiles: gives every tile, padded to the full tile at the right and below. It must not return None: a TIFF has no
            unscanned tiles.
        mpp: micrometres per level-0 pixel; None writes a scan without resolution.
        factors: downsample of each level, the first 1.
        tile_px: side of the tiles, a multiple of 16.
        objective: magnification.
        big: write BigTIFF, for files that may be larger than 4 GiB.

    Raises:
        ValueError: the tiles do not match the arguments, or the file is larger than 4 GiB without `big`.
    """
    if tile_px % 16 or factors[0] != 1:
        raise ValueError("tile_px must be a multiple of 16 and factors must start with 1")
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))
        blobs = _Blobs(file, tile_px)
        levels = []
        for level, factor in enumerate(factors):
            width, height = size[0] // factor, size[1] // factor
            places = []
            for row in range(-(-height // tile_px)):
                for column in range(-(-width // tile_px)):
                    jpeg = tiles(level, column, row)
                    if jpeg is None:
                        raise ValueError(
                            f"tile {column}, {row} of level {level} is None: a TIFF has no unscanned tiles"
                        )
                    places.append(blobs.place(jpeg))
            levels.append((width, height, places))
        link = 8 if big else 4  # where the header, and then each directory, points to the next directory
        for level, (width, height, places) in enumerate(levels):
            text = f"Aperio Image Library v12.0.0\r\n{size[0]}x{size[1]} ({tile_px}x{tile_px}) "
            text += f"-> {width}x{height} JPEG/RGB Q=80" if level else f"JPEG/RGB Q=80|AppMag = {objective}"
            text += f"|MPP = {mpp:.4f}" if mpp is not None and not level else ""
            entries = _tiff_entries((width, height), tile_px, places, blobs.subsampling or (1, 1), text, big)
            link = _write_directory(file, entries, link, big)
        if not big and file.tell() >= 2**32:
            raise ValueError(f"{path} passes 4 GiB: write it with big=True")


_Entry = tuple[int, int, Sequence[int] | bytes]


def _tiff_entries(
    size: tuple[int, int],
    tile_px: int,
    places: list[tuple[int, int]],
    subsampling: tuple[int, int],
    description: str,
    big: bool,
) -> list[_Entry]:
    offsets, counts = [offset for offset, _ in places], [count for _, count in places]
    return [
        (254, _LONG, [0]),
        (256, _LONG, [size[0]]),
        (257, _LONG, [size[1]]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),  # compression: JPEG
        (262, _SHORT, [6]),  # YCbCr, as Pillow stores it
        (270, _ASCII, description.encode() + b"\0"),
        (277, _SHORT, [3]),
        (284, _SHORT, [1]),
        (322, _LONG, [tile_px]),
        (323, _LONG, [tile_px]),
        (324, _LONG8 if big else _LONG, offsets),
        (325, _LONG, counts),
        (530, _SHORT, list(subsampling)),
    ]


def _write_directory(file: BinaryIO, entries: list[_Entry], link: int, big: bool) -> int:
    """Append one image directory, point `link` at it, and return where it keeps its own link."""
    head, word, inline = ("<Q", "Q", 8) if big else ("<H", "I", 4)
    records = b""
    for tag, kind, values in entries:
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_TYPE_CODES[kind]}", *values)
        count = len(data) // _TYPE_BYTES[kind]
        if len(data) > inline:
            file.write(b"\0" * (file.tell() % 2))  # offsets in a TIFF are even
            where = file.tell()
            file.write(data)
            data = struct.pack(f"<{word}", where)
        records += struct.pack(f"<HH{word}", tag, kind, count) + data.ljust(inline, b"\0")
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(struct.pack(head, len(entries)) + records)
    own_link = file.tell()
    file.write(struct.pack(f"<{word}", 0))
    file.seek(link)
    file.write(struct.pack(f"<{word}", start))
    file.seek(0, io.SEEK_END)
    return own_link


def write_mirax(
    path: Path,
    grid: tuple[int, int],
    tiles: Tiles,
    *,
    mpp: float = 0.25,
    factors: Sequence[int] = (1, 4, 16),
    tile_px: int = 256,
    objective: int = 40,
    fill: tuple[int, int, int] = (255, 255, 255),
    data_file_bytes: int = 2**30,
) -> None:
    """Write a MIRAX scan: the empty file `path` and, next to it, the folder of the same name without `.mrxs`.

    The layout follows https://openslide.org/formats/mirax/: overlap 0, one image per camera position, and a position buffer, so
    that tiles that were not scanned have alpha 0 at every level.

    Args:
        path: ends in `.mrxs`.
        grid: columns and rows of level-0 tiles on the whole canvas.
        tiles: gives every tile. A tile of level i covers `factors[i]` x `factors[i]` level-0 tiles; it should be
            None where none of them was scanned.
        mpp: micrometres per level-0 pixel.
        factors: downsample of each level, powers of two, the first 1.
        tile_px: side of the tiles, a multiple of the largest factor.
        objective: magnification.
        fill: the background colour.
        data_file_bytes: a data file that reaches this size is followed by another one (offsets are 31 bits).

    Raises:
        ValueError: the tiles do not match the arguments.
    """
    if path.suffix != ".mrxs":
        raise ValueError(f"{path}: the name of a MIRAX scan ends in .mrxs")
    if factors[0] != 1 or any(factor & (factor - 1) for factor in factors) or tile_px % factors[-1]:
        raise ValueError("factors must be powers of two from 1 upwards and tile_px a multiple of the last")
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    path.write_bytes(b"")
    slide_id = hashlib.blake2b(path.name.encode(), digest_size=16).hexdigest().upper()
    columns, rows = grid
    positions = bytearray(9 * columns * rows)
    levels: list[list[tuple[int, ...]]] = []
    data = _DataFiles(folder, slide_id, tile_px, data_file_bytes)
    with data:
        for level, factor in enumerate(factors):
            items: list[tuple[int, ...]] = []
            for row in range(-(-rows // factor)):
                for column in range(-(-columns // factor)):
                    jpeg = tiles(level, column, row)
                    if jpeg is None:
                        continue
                    offset, length, number = data.place(jpeg)
                    items.append((row * factor * columns + column * factor, offset, length, number))
                    if level == 0:
                        struct.pack_into(
                            "<Bii", positions, 9 * (row * columns + column), 1, column * tile_px, row * tile_px
                        )
            levels.append(items)
        position_place = data.append(bytes(positions))
    (folder / "Index.dat").write_bytes(_mirax_index(slide_id, levels, position_place))
    ini = _mirax_ini(slide_id, grid, mpp, factors, tile_px, objective, fill, data.count)
    (folder / "Slidedat.ini").write_bytes(ini)


class _DataFiles:
    """The Data*.dat files of a MIRAX scan, one open at a time."""

    def __init__(self, folder: Path, slide_id: str, tile_px: int, limit_bytes: int) -> None:
        self._folder, self._slide_id, self._tile_px, self._limit_bytes = folder, slide_id, tile_px, limit_bytes
        self.count = 0
        self._open_next()

    def _open_next(self) -> None:
        self._file = (self._folder / f"Data{self.count:04d}.dat").open("wb")
        self._file.write(b"01.02" + self._slide_id.encode() + f"{self.count:03d}".encode() + b"\0" * 256)
        # A tile in an earlier file is stored again when it is repeated: this costs one copy per gibibyte.
        self._blobs = _Blobs(self._file, self._tile_px)
        self.count += 1

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _room(self) -> None:
        if self._file.tell() >= self._limit_bytes:
            self._file.close()
            self._open_next()

    def place(self, jpeg: bytes) -> tuple[int, int, int]:
        """Return offset, length and file number of an image, which is written if it is new."""
        self._room()
        offset, length = self._blobs.place(jpeg)
        return offset, length, self.count - 1

    def append(self, blob: bytes) -> tuple[int, int, int]:
        """Append a blob that is not an image, and return its offset, length and file number."""
        self._room()
        offset = self._file.tell()
        if offset + len(blob) > _INT32_MAX:
            raise ValueError("a MIRAX data file would pass 2 GiB: lower data_file_bytes")
        self._file.write(blob)
        return offset, len(blob), self.count - 1


def _mirax_index(slide_id: str, levels: list[list[tuple[int, ...]]], position_place: tuple[int, int, int]) -> bytes:
    head = b"01.02" + slide_id.encode()
    hier_table = len(head) + 8
    nonhier_table = hier_table + 4 * len(levels)
    index = bytearray(head + struct.pack("<ii", hier_table, nonhier_table) + b"\0" * (4 * len(levels) + 4))
    position_items: list[tuple[int, ...]] = [(0, 0, *position_place)]
    for number, items in enumerate([*levels, position_items]):
        record = len(index)
        struct.pack_into("<i", index, hier_table + 4 * number, record)
        index += struct.pack("<ii", 0, record + 8)  # no items on the first page, then the page that follows
        index += struct.pack("<ii", len(items), 0)
        for item in items:
            index += struct.pack(f"<{len(item)}i", *item)
    return bytes(index)


def _mirax_ini(
    slide_id: str,
    grid: tuple[int, int],
    mpp: float,
    factors: Sequence[int],
    tile_px: int,
    objective: int,
    fill: tuple[int, int, int],
    data_files: int,
) -> bytes:
    ini = configparser.ConfigParser(interpolation=None)
    ini.optionxform = str  # type: ignore[assignment,method-assign]  # keys are upper case; the documented way to keep them
    ini["GENERAL"] = {
        "SLIDE_ID": slide_id,
        "SLIDE_VERSION": "01.02",
        "IMAGENUMBER_X": str(grid[0]),
        "IMAGENUMBER_Y": str(grid[1]),
        "OBJECTIVE_MAGNIFICATION": str(objective),
        "CameraImageDivisionsPerSide": "1",
    }
    hierarchy = {
        "INDEXFILE": "Index.dat",
        "HIER_COUNT": "1",
        "HIER_0_NAME": "Slide zoom level",
        "HIER_0_COUNT": str(len(factors)),
        "NONHIER_COUNT": "1",
        "NONHIER_0_NAME": "VIMSLIDE_POSITION_BUFFER",
        "NONHIER_0_COUNT": "1",
        "NONHIER_0_VAL_0": "default",
        "NONHIER_0_VAL_0_SECTION": "NONHIERLAYER_0_LEVEL_0_SECTION",
    }
    for level in range(len(factors)):
        hierarchy[f"HIER_0_VAL_{level}"] = f"ZoomLevel_{level}"
        hierarchy[f"HIER_0_VAL_{level}_SECTION"] = f"LAYER_0_LEVEL_{level}_SECTION"
    ini["HIERARCHICAL"] = hierarchy
    ini["DATAFILE"] = {"FILE_COUNT": str(data_files)} | {f"FILE_{i}": f"Data{i:04d}.dat" for i in range(data_files)}
    for level, factor in enumerate(factors):
        before = factors[level - 1] if level else 1
        ini[f"LAYER_0_LEVEL_{level}_SECTION"] = {
            "OVERLAP_X": "0",
            "OVERLAP_Y": "0",
            "MICROMETER_PER_PIXEL_X": repr(mpp * factor),
            "MICROMETER_PER_PIXEL_Y": repr(mpp * factor),
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_FILL_COLOR_BGR": str(fill[2] << 16 | fill[1] << 8 | fill[0]),
            "DIGITIZER_WIDTH": str(tile_px),
            "DIGITIZER_HEIGHT": str(tile_px),
            "IMAGE_CONCAT_FACTOR": str((factor // before).bit_length() - 1),  # log2 to the level before
        }
    text = io.StringIO()
    ini.write(text)
    return b"\xef\xbb\xbf" + text.getvalue().replace("\n", "\r\n").encode()
