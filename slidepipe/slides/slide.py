"""Slides: what OpenSlide opens, with the things that hurt put right once.

* Coordinates handed out are level-0 pixels of the whole slide (OpenSlide's own frame), boxes half-open.
* Pixels that were never scanned (alpha 0) come back in the slide's background colour and as ``False`` in a mask.
* One unreadable tile poisons an OpenSlide handle for good; after a failed read the handle is reopened, so that only
  the region that cannot be read is lost.
* OpenSlide reads one focal plane only, the default one of a z-stack.
"""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide

from slidepipe.errors import RegionError, ResolutionError, SlideError
from slidepipe.interfaces import BoolArray, UInt8Array
from slidepipe.slides.mirax import check_mirax

#: Micrometres a pixel that a microscope scan can have; outside it the number is a mistake (nanometres, a missing point).
PLAUSIBLE_MPP = (0.02, 20.0)

#: Bytes of decoded tiles a handle keeps, so that neighbouring crops, cut in bands there and back, decode a tile once.
TILE_CACHE_BYTES = 64 * 2**20
#: The same where blocks are read, each once: tiles kept for the next block would be memory and nothing else.
BLOCK_CACHE_BYTES = 16 * 2**20


#: No glass slide is larger than this; a header that claims more is damaged, and planning for it would take all memory.
LARGEST_SCAN_MM = 300.0

#: Pixels of a stored tile. OpenSlide asks for the memory of a whole one, and ends the process where it gets none.
_LARGEST_TILE_PX = 2**26


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle, x0 <= x < x1 and y0 <= y < y1, in level-0 pixels unless a name says otherwise."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Width in the box's own pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Height in the box's own pixels."""
        return self.y1 - self.y0

    def intersection(self, other: "Box") -> "Box":
        """The part both cover; of width or height 0 where they do not meet."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(x0, min(self.x1, other.x1)), max(y0, min(self.y1, other.y1)))


@dataclass(frozen=True)
class Level:
    """One pyramid level. ``downsample_x/y``: level-0 pixels a level pixel, true for each axis (rarely whole numbers)."""

    index: int
    width_px: int
    height_px: int
    downsample_x: float
    downsample_y: float
    #: What OpenSlide itself divides level-0 locations by (the mean of both axes).
    openslide_downsample: float


@dataclass(frozen=True)
class SlideMeta:
    """What a scan says of itself. ``mpp_x/y`` are micrometres a level-0 pixel; ``bounds`` is the scanned part."""

    path: Path
    vendor: str
    width_px: int
    height_px: int
    mpp_x: float
    mpp_y: float
    objective_power: float | None
    bounds: Box
    background: tuple[int, int, int]
    levels: tuple[Level, ...]

    @property
    def mpp(self) -> float:
        """Mean micrometres a level-0 pixel."""
        return (self.mpp_x + self.mpp_y) / 2


class Slide:
    """An open scan. Use it as a context manager; it may be read from one thread at a time.

    Raises:
        SlideError: the file is not a slide, parts of it are missing, or it has no usable resolution and ``mpp`` is not given.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._path = path
        self._cache_bytes = TILE_CACHE_BYTES
        self._handle: openslide.OpenSlide | None = self._open()
        self.meta = _read_meta(path, self._handle, mpp)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; safe to call twice."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def keep_tiles(self, cache_bytes: int) -> None:
        """Keep so many bytes of decoded tiles from now on; what is kept is dropped if that is another number."""
        if cache_bytes != self._cache_bytes:
            self._cache_bytes = cache_bytes
            if self._handle is not None:
                self._handle.set_cache(openslide.OpenSlideCache(cache_bytes))

    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        """Read a rectangle of one level.

        Args:
            level: the level to read.
            x: left edge in pixels of that level; may lie outside the slide, where nothing is scanned.
            y: top edge in pixels of that level.
            width: in pixels of that level.
            height: in pixels of that level.

        Returns:
            uint8 (height, width, 3) sRGB with unscanned pixels in the background colour, and bool (height, width),
            True where the scanner looked.

        Raises:
            RegionError: this rectangle cannot be decoded. The slide stays usable.
        """
        if self._handle is None:
            self._handle = self._open()
        scale = level.openslide_downsample
        try:
            image = self._handle.read_region((round(x * scale), round(y * scale)), level.index, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            self.close()  # the handle repeats this error for every later call, even for good regions
            raise RegionError(
                f"{self._path}: level {level.index}, {width} x {height} px at {x}, {y} cannot be read ({error})"
            ) from error
        rgba = np.asarray(image)
        return _composite(rgba, self.meta.background)

    def _open(self) -> openslide.OpenSlide:
        path = self._path
        try:
            if not path.exists():
                raise SlideError(f"{path}: no such file. Check the path, or whether the drive is mounted")
            if path.is_dir():
                raise SlideError(f"{path}: a folder, not a slide. Rename it, or put the scan's file in its place")
            with path.open("rb"):
                pass  # OpenSlide would say of a file that it may not read that it is no slide
            if path.suffix.lower() == ".mrxs":
                check_mirax(path)
        except OSError as error:
            raise SlideError(
                f"{error.filename or path}: cannot be read ({error.strerror}). Copy it again, or give yourself access"
            ) from error
        try:
            handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{path}: not a slide that OpenSlide can open. Export it from the scanner again as MIRAX, SVS or pyramidal TIFF"
            ) from error
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{path}: cannot be opened ({error}). The file is damaged or incomplete: copy it again"
            ) from error
        handle.set_cache(openslide.OpenSlideCache(self._cache_bytes))
        return handle


def read_meta(path: Path, mpp: float | None = None) -> SlideMeta:
    """Open ``path``, take what it says of itself, close it. Raises :class:`SlideError` as :class:`Slide` does."""
    with Slide(path, mpp) as slide:
        return slide.meta


#: What is read of each file to know it again: this many pieces of this many bytes, evenly spread, first and last among them.
_SAMPLES, _SAMPLE_BYTES = 16, 64 * 1024


def identify_slide(path: Path) -> str:
    """sha256 that changes with the slide's bytes: over the name and size of each of its files and evenly spread samples of it.

    Reading all of 2 GB for each of 100 slides would take longer than the run that is being resumed.

    Raises:
        SlideError: a file of the slide cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = [path]
        if path.suffix.lower() == ".mrxs":
            files += sorted(file for file in path.with_suffix("").iterdir() if file.is_file())
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\n".encode())
            with file.open("rb") as opened:
                last = max(0, size - _SAMPLE_BYTES)
                for index in range(_SAMPLES):
                    opened.seek(last * index // (_SAMPLES - 1))
                    digest.update(opened.read(_SAMPLE_BYTES))
    except OSError as error:
        raise SlideError(
            f"{error.filename or path}: cannot be read ({error.strerror}). Copy it again, or give yourself access"
        ) from error
    return digest.hexdigest()


def check_mpp(mpp: float, where: str) -> float:
    """``mpp`` if a microscope scan can have it; :class:`ResolutionError` naming ``where`` it came from if not."""
    low, high = PLAUSIBLE_MPP
    if not (math.isfinite(mpp) and low <= mpp <= high):
        raise ResolutionError(
            f"{where}: {mpp:g} um a pixel is not a resolution of a slide scan ({low:g} to {high:g}). Give the right one"
        )
    return mpp


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
    # A damaged header may hold text that is none (KeyError, UnicodeDecodeError) or a level without pixels.
    except (openslide.OpenSlideError, KeyError, ValueError, ZeroDivisionError) as error:
        reason = str(error) or "a property has no name"
        raise SlideError(f"{path}: its header cannot be read ({reason}). The file is damaged: copy it again") from error
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
    if path.suffix.lower() == ".svs" and vendor == "aperio":
        _check_pyramid(path, levels)
    mpp_x, mpp_y = (mpp, mpp) if mpp is not None else _own_mpp(path, vendor, properties)
    if mpp is not None:
        check_mpp(mpp, f"{path}: --mpp or samples.csv")
    bounds = _bounds(path, properties, width, height)
    width_mm, height_mm = bounds.width * mpp_x / 1000, bounds.height * mpp_y / 1000
    if max(width_mm, height_mm) > LARGEST_SCAN_MM:
        raise SlideError(
            f"{path}: {bounds.width} x {bounds.height} px of {mpp_x:g} um make {width_mm:.0f} x {height_mm:.0f} mm, more than "
            "any glass slide. The file is damaged (copy it again), or its resolution is wrong (give it in samples.csv)"
        )
    return SlideMeta(
        path=path,
        vendor=vendor,
        width_px=width,
        height_px=height,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        objective_power=_as_float(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        bounds=bounds,
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
                f"{path}: tiles of {width} x {height} px in level {index} cannot be right. The file is damaged: copy it again"
            )


def _check_pyramid(path: Path, levels: Sequence[Level]) -> None:
    # An Aperio level is level 0 divided by one number, rounded down. A width or height that was damaged would put every tile in
    # another place without any error.
    full = levels[0]
    for level in levels[1:]:
        sides = ((full.width_px, level.width_px), (full.height_px, level.height_px))
        least = max(side / (small + 2) for side, small in sides)
        most = min(side / max(1, small - 2) for side, small in sides)
        if least > most:
            raise SlideError(
                f"{path}: level {level.index} ({level.width_px} x {level.height_px} px) is not of the shape of level 0 "
                f"({full.width_px} x {full.height_px} px). The file is damaged: copy it again"
            )


def _own_mpp(path: Path, vendor: str, properties: Mapping[str, str]) -> tuple[float, float]:
    mpp_x = _as_float(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = _as_float(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if not (mpp_x and mpp_y) and path.suffix.lower() == ".svs" and vendor != "aperio":
        raise SlideError(
            f"{path}: its header tells neither that it is an Aperio scan nor how large a pixel is. The file is damaged "
            "(copy it again), or is no .svs (rename it, or give its resolution in the mpp column of samples.csv)"
        )
    if not mpp_x or not mpp_y:
        raise ResolutionError(
            f"{path}: the scan does not say how large a pixel is. Give it with --mpp (um a pixel, 0.25 for a 40x scan) "
            "or in the mpp column of samples.csv"
        )
    for value in (mpp_x, mpp_y):
        check_mpp(value, f"{path}: the scan's own mpp (override it with --mpp or samples.csv)")
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
    # Without bounds properties the whole canvas is scanned; with all four 0, no tile was (MIRAX).
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
    for channel in range(3):  # three times as fast as copying pixels of three bytes
        rgb[..., channel] = rgba[..., channel]
    # All four bytes of a pixel as one number, alpha the highest: the usual case, all of it scanned, is told in one look.
    if rgba.size and rgba.view("<u4").min() >= 0xFF000000:
        return rgb, np.ones(alpha.shape, np.bool_)
    scanned = alpha >= 128  # a resampled edge of the scan has partial alpha
    partial = alpha < 255
    if partial.any():
        weight = alpha[partial][:, None].astype(np.float32) / 255
        mixed = rgb[partial] * weight + np.asarray(background, np.float32) * (1 - weight)
        rgb[partial] = np.rint(mixed).astype(np.uint8)
    return rgb, scanned


#: Handles a thread keeps open. Two: the slide at hand and the one that is ending.
_HANDLES_PER_THREAD = 2


class _Handles(threading.local):
    def __init__(self) -> None:
        self.open: OrderedDict[tuple[Path, float | None, str], Slide] = OrderedDict()


_handles = _Handles()

#: Files that this process has compared with the identity they must have.
_known_files: set[tuple[Path, str]] = set()


def borrow_slide(path: Path, mpp: float | None = None, identity: str = "") -> Slide:
    """The calling thread's open handle for ``path``: opened at first use, the least used of more than two closed.

    Handles do not travel between processes, so a task is given the path and borrows the handle where it runs. ``identity`` (see
    :func:`identify_slide`) tells a file from one that replaces it.
    """
    key = (path, mpp, identity)
    slide = _handles.open.get(key)
    if slide is None:
        if identity and (path, identity) not in _known_files:
            if identify_slide(path) != identity:
                raise SlideError(
                    f"{path}: is not the file that the run was planned with. It was replaced, or 'paths' leads elsewhere"
                )
            _known_files.add((path, identity))
        slide = Slide(path, mpp)
        _handles.open[key] = slide
        while len(_handles.open) > _HANDLES_PER_THREAD:
            _handles.open.popitem(last=False)[1].close()
    _handles.open.move_to_end(key)
    return slide
