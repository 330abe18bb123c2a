"""MIRAX scans: which files belong to one, and whether its header is plausible.

The header is checked before OpenSlide opens the scan, for two reasons. OpenSlide allocates memory by some numbers of
`Slidedat.ini` and of the index, and ends the process where it gets none. And it searches for tiles up to the farthest stored
position, so one damaged position makes every read take minutes, or never end.

File format: https://openslide.org/formats/mirax/.
"""

import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slidepipe.errors import SlideError

# The largest plausible values. A large slide at 0.1 um per pixel has about 3000 x 7000 images of 256 px.
_LIMITS = {
    "IMAGENUMBER_X": 2**16,
    "IMAGENUMBER_Y": 2**16,
    "DIGITIZER_WIDTH": 2**13,
    "DIGITIZER_HEIGHT": 2**13,
    "CameraImageDivisionsPerSide": 64,
    "IMAGE_CONCAT_FACTOR": 16,
    "FILE_COUNT": 2**16,
}
_SUFFIX = ".mrxs"
_COUNT_LIMIT = 1000
_IMAGES_LIMIT = 2**24
_LINE = re.compile(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
_COUNT = re.compile(r"(NON)?HIER_(\d+_)?COUNT")
_NUMBER = re.compile(r"[+-]?\d+")

# A camera position in the position buffer: whether it was scanned, and its place in level-0 pixels.
_POSITION = np.dtype([("flag", "u1"), ("x", "<i4"), ("y", "<i4")])
_POSITION_LAYERS = ("VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer")


def is_mirax(path: Path) -> bool:
    """Return whether a path has the suffix of a MIRAX scan."""
    return path.suffix.lower() == _SUFFIX


def data_files(path: Path) -> list[Path]:
    """Return the files in the data folder of the MIRAX scan `path`, sorted.

    Raises:
        OSError: The folder cannot be listed.
    """
    return sorted(file for file in path.with_suffix("").iterdir() if file.is_file())


def slide_of_folder(folder: Path) -> Path | None:
    """Return the MIRAX scan whose data a folder holds, even if the `.mrxs` file is missing; None for any other folder."""
    slide = folder.with_name(folder.name + _SUFFIX)
    # os.path.exists, because Path.exists raises an error for a folder without permission.
    is_data = slide.exists() or os.path.exists(folder / "Slidedat.ini")  # noqa: PTH110
    return slide if is_data else None


def check_mirax(path: Path) -> None:
    """Check the header and the tile positions of the MIRAX scan `path`. OpenSlide itself reports any other damage.

    Raises:
        SlideError: The data folder is missing, or a number is not possible.
        OSError: A file cannot be read.
    """
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise SlideError(
            f"{path}: its folder '{path.stem}' with the image data is missing. Copy the folder to where the .mrxs file is"
        )
    header = folder / "Slidedat.ini"
    values: dict[str, str] = {}
    for key, text in _LINE.findall(header.read_bytes()):
        name, value = key.decode("latin-1"), text.decode("latin-1")
        values.setdefault(name, value)
        limit = _COUNT_LIMIT if _COUNT.fullmatch(name) else _LIMITS.get(name)
        if limit is not None and _NUMBER.fullmatch(value) and not 0 <= int(value) <= limit:
            raise SlideError(f"{header}: {name} = {value} is not possible. The file is damaged: copy it again")
    try:
        columns, rows = int(values["IMAGENUMBER_X"]), int(values["IMAGENUMBER_Y"])
        span_x, span_y = columns * int(values["DIGITIZER_WIDTH"]), rows * int(values["DIGITIZER_HEIGHT"])
    except (KeyError, ValueError):
        return  # OpenSlide reports which one is missing
    if columns * rows > _IMAGES_LIMIT:
        raise SlideError(f"{header}: {columns} x {rows} images are not possible. The file is damaged: copy it again")
    positions = _positions(folder, values)
    scanned = positions[(positions["flag"] & 1) == 1]
    for axis, span in (("x", span_x), ("y", span_y)):
        away = scanned[axis][(scanned[axis] < -span) | (scanned[axis] > 2 * span)]
        if len(away):
            raise SlideError(
                f"{path}: the stored position of a tile is {axis} = {away[0]} px, far outside the slide ({span} px). The data "
                "files are damaged: copy them again"
            )


def _positions(folder: Path, values: Mapping[str, str]) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """Return the position buffer. It is empty if the scan has none or if it cannot be found, which OpenSlide reports."""
    none = np.zeros(0, _POSITION)
    try:
        layers = [values[f"NONHIER_{layer}_NAME"] for layer in range(int(values["NONHIER_COUNT"]))]
        layer = next(layers.index(name) for name in _POSITION_LAYERS if name in layers)
        record = sum(int(values[f"NONHIER_{before}_COUNT"]) for before in range(layer))
        index = (folder / values["INDEXFILE"]).read_bytes()
        (table,) = struct.unpack_from("<i", index, len("01.02") + len(values["SLIDE_ID"]) + 4)
        (start,) = struct.unpack_from("<i", index, table + 4 * record)
        _, page = struct.unpack_from("<ii", index, start)
        offset, length, number = struct.unpack_from("<iii", index, page + 8 + 8)
        data = folder / values[f"FILE_{number}"]
        if offset < 0 or length < 0 or offset + length > data.stat().st_size:
            raise SlideError(
                f"{folder / values['INDEXFILE']}: {length} bytes at {offset} of {data.name} are outside that file. "
                "One of the two files is damaged or incomplete: copy both again"
            )
        with data.open("rb") as file:
            file.seek(offset)
            stored = file.read(length)
        if layers[layer] == "StitchingIntensityLayer":
            stored = zlib.decompressobj().decompress(stored, _IMAGES_LIMIT * _POSITION.itemsize)
    except (KeyError, ValueError, StopIteration, struct.error, OSError, zlib.error):
        return none
    return np.frombuffer(stored[: len(stored) // _POSITION.itemsize * _POSITION.itemsize], _POSITION)
