"""The scans of the results: where each one is now, and whether it is still the scan that was analysed."""

from pathlib import Path

from slidepipe.errors import SlideError
from slidepipe.slides.geometry import Box
from slidepipe.slides.handles import cached_slide
from slidepipe.slides.reader import SlideReader
from slidepipe.store.manifest import SlideRecord
from slidepipe.viewer.tiles import TilePyramid


def scan_path(record: SlideRecord, folder: Path | None) -> Path:
    """Return the path of a slide's scan.

    Args:
        record: the slide's record in the manifest.
        folder: folder that holds the well's scans now; None if they are where the run found them.
    """
    path = Path(record.path)
    return path if folder is None else folder / f"{record.slide_id}{path.suffix}"


def scan_bounds(record: SlideRecord) -> Box:
    """Return the scanned part of a slide, level-0 pixels of the whole slide.

    Args:
        record: the slide's record in the manifest.

    Raises:
        SlideError: the slide could not be analysed.
    """
    if record.scan is None:
        raise SlideError(
            f"{record.slide_id}: this slide could not be analysed, so its scan is not shown. "
            "failures.csv in the RESULTS folder holds the reason"
        )
    x0, y0, x1, y1 = record.opened.bounds
    return Box(x0, y0, x1, y1)


def open_scan(record: SlideRecord, folder: Path | None) -> tuple[SlideReader, TilePyramid]:
    """Return a slide's scan, opened for the calling thread, and the pyramid of its tiles.

    Args:
        record: the slide's record in the manifest.
        folder: as for `scan_path`.

    Raises:
        SlideError: the scan is not there, cannot be opened, or is not the scan that was analysed.
    """
    bounds = scan_bounds(record)
    path = scan_path(record, folder)
    slide = cached_slide(path, record.opened.mpp)
    size = (slide.meta.width_px, slide.meta.height_px)
    if size != (record.opened.width_px, record.opened.height_px):
        raise SlideError(
            f"{path}: the scan has {size[0]} x {size[1]} px, but the scan that was analysed had "
            f"{record.opened.width_px} x {record.opened.height_px} px. Run the well again, or put the analysed scan back"
        )
    return slide, TilePyramid(bounds)


def why_missing(record: SlideRecord, folder: Path | None) -> str:
    """Return why a slide's scan cannot be shown; empty if it can. Arguments as for `open_scan`."""
    try:
        open_scan(record, folder)
    except SlideError as error:
        return str(error)
    return ""
