"""Slide readers: the class that opens the scans of a format, and the registry of all readers.

OpenSlide is the built-in reader. Another format is one class that derives from `SlideReader`, in an installed package with an
entry point in the group `slidepipe.readers` or in a file given with `--plugin`. The whole program then works with its
files: discovery in a well's folder, `slidepipe info`, detection, crops and the viewer.
"""

import functools
import hashlib
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from slidepipe import plugins
from slidepipe.errors import PluginError, SlideError, SlidepipeError
from slidepipe.interfaces import BoolArray, UInt8Array
from slidepipe.slides.geometry import Level, SlideMeta, check_scan_size

_log = logging.getLogger(__name__)

#: Cache of decoded tiles per open slide, in bytes, while crops are cut. Neighbouring crops share tiles.
TILE_CACHE_BYTES = 64 * 2**20
#: The same while blocks are read. Each block is read once, so a larger cache would only use memory.
BLOCK_CACHE_BYTES = 16 * 2**20

#: The built-in reader. It opens what no other reader claims, because OpenSlide recognises more formats than suffixes show.
BUILT_IN = "openslide"

# Identity of a slide: this number of pieces of this number of bytes is read from each file, evenly spread, with the first and the
# last bytes among them.
_PIECES, _PIECE_BYTES = 16, 64 * 1024


class SlideReader(ABC):
    """An open scan of one format. Use it as a context manager, and from one thread at a time.

    A subclass sets `name`, `suffixes` and, in its constructor, `meta`; it implements `read` and `close`. The other members have
    defaults for a format with one file per slide.
    """

    name: ClassVar[str]
    """Name of the reader, as in `slidepipe plugins list`."""
    version: ClassVar[str] = ""
    """Changes when the reader returns other pixels for the same file; stored results are then computed again."""
    suffixes: ClassVar[frozenset[str]] = frozenset()
    """Suffixes of the files that name a slide, in lower case with the dot: `frozenset({".svs"})`."""

    meta: SlideMeta
    """Metadata of the scan, set by the constructor."""

    @abstractmethod
    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Open a scan.

        Args:
            path: The file that names the slide.
            mpp: Micrometres per level-0 pixel given by the user; it replaces the resolution in the file.

        Raises:
            SlideError: The file is not a slide, or parts of it are missing.
            ResolutionError: The file has no usable resolution and `mpp` is not given.
        """

    @classmethod
    def can_read(cls, path: Path) -> bool:
        """Return whether this reader claims a file. The default compares the suffix.

        It is called for every file and folder below a well, so it must be fast, and it must not raise. Claim a damaged file of
        the format too: the run then lists the slide as failed instead of leaving it out.
        """
        return path.suffix.lower() in cls.suffixes

    @classmethod
    def files_of(cls, path: Path) -> list[Path]:
        """Return all files of the slide `path`, in a fixed order. The default is the file alone.

        Raises:
            OSError: A folder of the slide cannot be listed.
        """
        return [path]

    @classmethod
    def slide_of_folder(cls, folder: Path) -> Path | None:
        """Return the slide whose data a folder holds, even if that file is missing; None for any other folder (default)."""
        return None

    @abstractmethod
    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        """Read a rectangle of one level.

        Args:
            level: The level, one of `meta.levels`.
            x: Left edge in pixels of that level. It may lie outside the slide, where nothing is scanned.
            y: Top edge in pixels of that level.
            width: Width in pixels of that level.
            height: Height in pixels of that level.

        Returns:
            uint8 (height, width, 3) sRGB, with unscanned pixels in `meta.background`, and bool (height, width), True where
            the slide was scanned.

        Raises:
            RegionError: The rectangle cannot be decoded. The reader must stay usable for other rectangles.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the files. It may be called twice."""

    def set_cache_size(self, cache_bytes: int) -> None:  # noqa: B027  # optional: a reader without a cache inherits it
        """Set the size of the cache of decoded tiles, in bytes. The default does nothing, for readers without a cache."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def list_readers() -> tuple[type[SlideReader], ...]:
    """Return the installed and registered readers, sorted by name, the built-in one last.

    A reader that cannot be imported is left out with a warning.
    """
    return _import_readers(plugins.registered_files())


@functools.lru_cache(maxsize=1)
def _import_readers(registered: tuple[str, ...]) -> tuple[type[SlideReader], ...]:
    # `registered` is the key of the cache: a plugin file that is registered later adds its readers.
    readers: list[type[SlideReader]] = []
    for name in sorted(
        {info.name for info in plugins.list_plugins("reader")}, key=lambda name: (name == BUILT_IN, name)
    ):
        try:
            reader = plugins.get_class("reader", name)
            if not issubclass(reader, SlideReader):
                raise PluginError(
                    f"reader {name!r}: its class does not derive from slidepipe.slides.reader.SlideReader"
                )
        except PluginError as error:
            if name == BUILT_IN:
                raise
            _log.warning("%s. Slides of its format are not found", error)
        else:
            readers.append(reader)
    return tuple(readers)


def slide_suffixes() -> list[str]:
    """Return the suffixes of all readers, sorted."""
    return sorted({suffix for reader in list_readers() for suffix in reader.suffixes})


def is_slide(path: Path) -> bool:
    """Return whether a reader claims the file or folder `path`. The file is not opened by the built-in reader."""
    return any(reader.can_read(path) for reader in list_readers())


def slide_of_folder(folder: Path) -> Path | None:
    """Return the slide whose data a folder holds, even if that file is missing; None for any other folder."""
    slides = (reader.slide_of_folder(folder) for reader in list_readers())
    return next((slide for slide in slides if slide is not None), None)


def find_reader(path: Path) -> type[SlideReader]:
    """Return the reader that opens `path`.

    A third-party reader that claims the file goes before the built-in one. The built-in reader opens what nobody claims.

    Raises:
        SlideError: Two third-party readers claim the file.
        PluginError: The built-in reader is not installed.
    """
    readers = list_readers()
    claiming = [reader for reader in readers if reader.name != BUILT_IN and reader.can_read(path)]
    if len(claiming) > 1:
        names = " and ".join(reader.name for reader in claiming)
        raise SlideError(f"{path}: the readers {names} both claim this file. Uninstall one of them")
    if claiming:
        return claiming[0]
    built_in = next((reader for reader in readers if reader.name == BUILT_IN), None)
    if built_in is None:
        raise PluginError(f"the reader {BUILT_IN!r} is not installed. Install slidepipe again, with pip")
    return built_in


def open_slide(path: Path, mpp: float | None = None) -> SlideReader:
    """Open a scan with the reader of its format.

    Args:
        path: The file that names the slide.
        mpp: Micrometres per level-0 pixel; it replaces the resolution in the file.

    Raises:
        SlideError: The file is not a slide, or parts of it are missing.
        ResolutionError: The scan has no usable resolution and `mpp` is not given.
    """
    reader = find_reader(path)
    try:
        slide = reader(path, mpp)
    except SlidepipeError:
        raise
    except Exception as error:
        if reader.name == BUILT_IN:
            raise  # a fault of slidepipe, not of a plugin
        raise SlideError(
            f"{path}: the reader {reader.name!r} cannot open it ({type(error).__name__}: {error})"
        ) from error
    try:
        check_scan_size(slide.meta)
    except SlideError:
        slide.close()
        raise
    return slide


def read_meta(path: Path, mpp: float | None = None) -> SlideMeta:
    """Return the metadata of a scan. Arguments and errors are those of `open_slide`."""
    with open_slide(path, mpp) as slide:
        return slide.meta


def identify_slide(path: Path) -> str:
    """Return a SHA-256 that changes when the slide's data changes.

    It covers the name and size of each file of the slide and evenly spread pieces of its bytes. Hashing 2 GB for each of 100
    slides would take longer than the run that is resumed.

    Raises:
        SlideError: A file of the slide cannot be read.
    """
    reader = find_reader(path)
    digest = hashlib.sha256()
    if reader.name != BUILT_IN:  # another reader may return other pixels for the same bytes
        digest.update(f"{reader.name}\0{reader.version}\n".encode())
    try:
        for file in reader.files_of(path):
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\n".encode())
            with file.open("rb") as opened:
                last = max(0, size - _PIECE_BYTES)
                for index in range(_PIECES):
                    opened.seek(last * index // (_PIECES - 1))
                    digest.update(opened.read(_PIECE_BYTES))
    except OSError as error:
        raise SlideError(
            f"{error.filename or path}: cannot be read ({error.strerror}). Copy it again, or correct its permissions"
        ) from error
    return digest.hexdigest()
