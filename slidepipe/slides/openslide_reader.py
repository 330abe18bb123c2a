"""Read scans with OpenSlide: MIRAX, Aperio SVS, Hamamatsu, Leica, Ventana, pyramidal TIFF and others.

This module works around four properties of OpenSlide:

* OpenSlide reports whole-slide coordinates, and MIRAX scans fill only part of them; `SlideMeta.bounds` is that part.
* Pixels that were never scanned have alpha 0. They are returned in the slide's background colour, and False in a mask.
* After one failed read, an OpenSlide handle repeats the error for every later read. The handle is opened again, so that only
  the region that cannot be read is lost.
* OpenSlide allocates memory by some numbers of the header, and ends the process where it gets none. These numbers are checked.

OpenSlide reads one focal plane: the default plane of a z-stack.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import openslide

from slidepipe.errors import RegionError, ResolutionError, SlideError
from slidepipe.interfaces import BoolArray, UInt8Array
from slidepipe.slides import mirax
from slidepipe.slides.geometry import Box, Level, SlideMeta, check_mpp
from slidepipe.slides.reader import BUILT_IN, TILE_CACHE_BYTES, SlideReader

# Largest plausible number of pixels in a stored tile. OpenSlide allocates memory for a whole tile.
_LARGEST_TILE_PX = 2**26


class OpenSlideReader(SlideReader):
    """An open scan, read with OpenSlide."""

    name: ClassVar[str] = BUILT_IN
    #: DICOM is left out, because one slide is many files: name such a slide in a list file.
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".mrxs", ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".bif", ".svslide"}
    )

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Open a scan. Arguments and errors are those of `SlideReader`."""
        self._path = path
        self._cache_bytes = TILE_CACHE_BYTES
        self._handle: openslide.OpenSlide | None = self._open()
        self.meta = _read_meta(path, self._handle, mpp)

    @classmethod
    def files_of(cls, path: Path) -> list[Path]:
        """Return the file, and for MIRAX also the files in its folder."""
        return [path, *mirax.data_files(path)] if mirax.is_mirax(path) else [path]

    @classmethod
    def slide_of_folder(cls, folder: Path) -> Path | None:
        """Return the MIRAX slide whose data the folder holds, or None."""
        return mirax.slide_of_folder(folder)

    def close(self) -> None:
        """Release the file. It may be called twice."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def set_cache_size(self, cache_bytes: int) -> None:
        """Set the size of the cache of decoded tiles, in bytes. A new size empties the cache."""
        if cache_bytes != self._cache_bytes:
            self._cache_bytes = cache_bytes
            if self._handle is not None:
                self._handle.set_cache(openslide.OpenSlideCache(cache_bytes))

    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        """Read a rectangle of one level. Arguments, result and errors are those of `SlideReader.read`."""
        if self._handle is None:
            self._handle = self._open()
        scale = level.downsample
        try:
            image = self._handle.read_region((round(x * scale), round(y * scale)), level.index, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            self.close()  # the handle would repeat this error for every later read
            raise RegionError(
                f"{self._path}: level {level.index}, {width} x {height} px at {x}, {y} cannot be read ({error})"
            ) from error
        return _composite(np.asarray(image), self.meta.background)

    def _open(self) -> openslide.OpenSlide:
        path = self._path
        try:
            if not path.exists():
                raise SlideError(f"{path}: no such file. Check the path, and that the drive is mounted")
            if path.is_dir():
                raise SlideError(f"{path}: a folder, not a slide. Rename it, or replace it by the file of the scan")
            with path.open("rb"):
                pass  # without this, OpenSlide calls a file without read permission an unsupported format
            if mirax.is_mirax(path):
                mirax.check_mirax(path)
        except OSError as error:
            raise SlideError(
                f"{error.filename or path}: cannot be read ({error.strerror}). Copy it again, or correct its permissions"
            ) from error
        try:
            handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{path}: not a slide that OpenSlide can open. Export it from the scanner again as MIRAX, SVS or pyramidal "
                "TIFF, or install a reader for its format"
            ) from error
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{path}: cannot be opened ({error}). The file is damaged or incomplete: copy it again"
            ) from error
        handle.set_cache(openslide.OpenSlideCache(self._cache_bytes))
        return handle


def _read_meta(path: Path, handle: openslide.OpenSlide, mpp: float | None) -> SlideMeta:
    try:
        properties = dict(handle.properties)
        width, height = handle.dimensions
        levels = tuple(
            Level(index, level_width, level_height, width / level_width, height / level_height, downsample)
            for index, ((level_width, level_height), downsample) in enumerate(
                zip(handle.level_dimensions, handle.level_downsamples, strict=True)
            )
        )
        _check_tiles(path, len(levels), properties)
    # The text of a damaged header may not be decodable (KeyError, UnicodeDecodeError), or a level may have no pixels.
    except (openslide.OpenSlideError, KeyError, ValueError, ZeroDivisionError) as error:
        reason = str(error) or "a property has no name"
        raise SlideError(f"{path}: its header cannot be read ({reason}). The file is damaged: copy it again") from error
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
    if path.suffix.lower() == ".svs" and vendor == "aperio":
        _check_pyramid(path, levels)
    mpp_x, mpp_y = (mpp, mpp) if mpp is not None else _own_mpp(path, vendor, properties)
    if mpp is not None:
        check_mpp(mpp, f"{path}: --mpp or samples.csv")
    return SlideMeta(
        path=path,
        vendor=vendor,
        width_px=width,
        height_px=height,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        objective_power=_as_float(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        bounds=_bounds(path, properties, width, height),
        background=_background(properties),
        levels=levels,
    )


def _check_tiles(path: Path, levels: int, properties: Mapping[str, str]) -> None:
    for index in range(levels):
        width, height = (
            int(properties.get(f"openslide.level[{index}].tile-{side}", 0)) for side in ("width", "height")
        )
        if width * height > _LARGEST_TILE_PX:
            raise SlideError(
                f"{path}: tiles of {width} x {height} px in level {index} are not possible. The file is damaged: copy it again"
            )


def _check_pyramid(path: Path, levels: Sequence[Level]) -> None:
    # An Aperio level is level 0 divided by one number, rounded down. A damaged width or height would move every tile to another
    # place without any error.
    full = levels[0]
    for level in levels[1:]:
        sides = ((full.width_px, level.width_px), (full.height_px, level.height_px))
        least = max(side / (small + 2) for side, small in sides)
        most = min(side / max(1, small - 2) for side, small in sides)
        if least > most:
            raise SlideError(
                f"{path}: level {level.index} ({level.width_px} x {level.height_px} px) has not the shape of level 0 "
                f"({full.width_px} x {full.height_px} px). The file is damaged: copy it again"
            )


def _own_mpp(path: Path, vendor: str, properties: Mapping[str, str]) -> tuple[float, float]:
    mpp_x = _as_float(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = _as_float(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if not (mpp_x and mpp_y) and path.suffix.lower() == ".svs" and vendor != "aperio":
        raise SlideError(
            f"{path}: its header names neither Aperio as its format nor a resolution. The file is damaged (copy it again), or it "
            "is not an SVS file (rename it, or give its resolution in the mpp column of samples.csv)"
        )
    if not mpp_x or not mpp_y:
        raise ResolutionError(
            f"{path}: the scan does not state its resolution. Give it with --mpp (um per pixel, 0.25 for a 40x scan) "
            "or in the mpp column of samples.csv"
        )
    for value in (mpp_x, mpp_y):
        check_mpp(value, f"{path}: the scan's own mpp (replace it with --mpp or in samples.csv)")
    if not 0.9 < mpp_x / mpp_y < 1.1:
        raise ResolutionError(
            f"{path}: pixels of {mpp_x:g} x {mpp_y:g} um are not square. Give the right resolution with --mpp or in samples.csv"
        )
    return mpp_x, mpp_y


def _as_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _bounds(path: Path, properties: Mapping[str, str], width: int, height: int) -> Box:
    # Without bounds the whole canvas is scanned. If all four bounds are 0, no tile was scanned (MIRAX).
    names = [
        properties.get(name)
        for name in (
            openslide.PROPERTY_NAME_BOUNDS_X,
            openslide.PROPERTY_NAME_BOUNDS_Y,
            openslide.PROPERTY_NAME_BOUNDS_WIDTH,
            openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
        )
    ]
    if any(value is None for value in names):
        return Box(0, 0, width, height)
    try:
        x, y, w, h = (int(float(value)) for value in names if value is not None)
    except (ValueError, OverflowError) as error:
        raise SlideError(f"{path}: its bounds are not numbers ({error}). Export the scan again") from error
    box = Box(x, y, x + w, y + h).intersection(Box(0, 0, width, height))
    if box.width == 0 or box.height == 0:
        raise SlideError(
            f"{path}: nothing was scanned (its bounds are empty). Scan the slide again, or exclude it in samples.csv"
        )
    return box


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF").lstrip("#")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _composite(rgba: UInt8Array, background: tuple[int, int, int]) -> tuple[UInt8Array, BoolArray]:
    alpha = rgba[..., 3]
    rgb = np.empty((*alpha.shape, 3), np.uint8)
    for channel in range(3):  # three times faster than copying pixels of three bytes
        rgb[..., channel] = rgba[..., channel]
    # The four bytes of a pixel as one number, with alpha as the highest byte: one comparison finds the usual case, a rectangle
    # that is scanned everywhere.
    if rgba.size and rgba.view("<u4").min() >= 0xFF000000:
        return rgb, np.ones(alpha.shape, np.bool_)
    scanned = alpha >= 128  # a resampled edge of the scan has partial alpha
    partial = alpha < 255
    if partial.any():
        weight = alpha[partial][:, None].astype(np.float32) / 255
        mixed = rgb[partial] * weight + np.asarray(background, np.float32) * (1 - weight)
        rgb[partial] = np.rint(mixed).astype(np.uint8)
    return rgb, scanned
