"""The scans behind the results: where each is now, and whether it is still the one that was analysed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidepipe.errors import SlideError
from slidepipe.slides.geometry import Box
from slidepipe.slides.handles import cached_slide
from slidepipe.slides.reader import SlideReader
from slidepipe.viewer.tiles import Pyramid


def scan_path(entry: Mapping[str, Any], folder: Path | None) -> Path:
    """The file of a slide; ``folder`` is where the well's scans have been moved to, if they have."""
    path = Path(str(entry["path"]))
    return path if folder is None else folder / f"{entry['slide_id']}{path.suffix}"


def scan_bounds(entry: Mapping[str, Any]) -> Box:
    """The scanned part of a slide, level-0 pixels. Raises :class:`SlideError` where the slide could not be analysed at all."""
    if "bounds" not in entry:
        raise SlideError(f"{entry['slide_id']}: this slide could not be analysed, so nothing is known of its scan")
    x0, y0, x1, y1 = (int(edge) for edge in entry["bounds"])
    return Box(x0, y0, x1, y1)


def open_scan(entry: Mapping[str, Any], folder: Path | None) -> tuple[SlideReader, Pyramid]:
    """The calling thread's open scan of a slide.

    Raises:
        SlideError: it is not there, cannot be opened, or is another scan than the one that was analysed.
    """
    bounds = scan_bounds(entry)
    path = scan_path(entry, folder)
    slide = cached_slide(path, (float(entry["mpp_x"]) + float(entry["mpp_y"])) / 2)
    size = (slide.meta.width_px, slide.meta.height_px)
    if size != (entry["width_px"], entry["height_px"]):
        raise SlideError(
            f"{path}: is {size[0]} x {size[1]} px, the scan that was analysed {entry['width_px']} x {entry['height_px']} px. "
            "Run the well again, or put the scan back"
        )
    return slide, Pyramid(bounds)


def why_missing(entry: Mapping[str, Any], folder: Path | None) -> str:
    """Why a slide's scan cannot be shown; empty where it can."""
    try:
        open_scan(entry, folder)
    except SlideError as error:
        return str(error)
    return ""
