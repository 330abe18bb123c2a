"""Describe a scan: boxes, pyramid levels, metadata, and regions that could not be read.

Coordinates are level-0 pixels of the whole slide (OpenSlide's frame) unless a name says otherwise. Boxes are half-open.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slidepipe.errors import ResolutionError, SlideError

#: Smallest and largest plausible resolution of a microscope scan, in micrometres per pixel. A value outside this range is a
#: mistake, for example nanometres or a missing decimal point.
PLAUSIBLE_MPP = (0.02, 20.0)

#: No glass slide is larger than this, in mm. A header that claims more is damaged, and planning its blocks would use all memory.
LARGEST_SCAN_MM = 300.0


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle: x0 <= x < x1 and y0 <= y < y1, in level-0 pixels unless a name says otherwise."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __str__(self) -> str:
        """Return "x0,y0,x1,y1", the form in `failures.csv` and in stored attributes."""
        return f"{self.x0},{self.y0},{self.x1},{self.y1}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the box that `str` wrote as "x0,y0,x1,y1".

        Raises:
            ValueError: The text is not four whole numbers.
        """
        x0, y0, x1, y1 = (int(edge) for edge in text.split(","))
        return cls(x0, y0, x1, y1)

    @property
    def width(self) -> int:
        """Width in the pixels of the box."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Height in the pixels of the box."""
        return self.y1 - self.y0

    def intersection(self, other: "Box") -> "Box":
        """Return the area that both boxes cover. Its width or height is 0 where they do not meet."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(x0, min(self.x1, other.x1)), max(y0, min(self.y1, other.y1)))


@dataclass(frozen=True)
class LostRegion:
    """A region of a slide that could not be read.

    Attributes:
        box: The region in level-0 pixels.
        reason: Why it could not be read, one line.
    """

    box: Box
    reason: str

    @classmethod
    def from_stored(cls, pair: Sequence[str]) -> Self:
        """Return the region of a stored pair, as `to_stored` writes it."""
        box, reason = pair
        return cls(Box.parse(box), reason)

    def to_stored(self) -> list[str]:
        """Return ["x0,y0,x1,y1", reason] for the attributes of a stage in the store."""
        return [str(self.box), self.reason]


@dataclass(frozen=True)
class Level:
    """One level of a scan's image pyramid.

    Attributes:
        index: Number of the level; 0 has the full resolution.
        width_px: Width in pixels of this level.
        height_px: Height in pixels of this level.
        downsample_x: Level-0 pixels per pixel of this level along x, rarely a whole number.
        downsample_y: The same along y.
        downsample: The one factor by which the reader converts level-0 coordinates, for both axes. OpenSlide uses the mean of
            the two axes.
    """

    index: int
    width_px: int
    height_px: int
    downsample_x: float
    downsample_y: float
    downsample: float


@dataclass(frozen=True)
class SlideMeta:
    """Metadata of a scan.

    Attributes:
        path: The file that names the slide.
        vendor: Name of the format, for example "mirax".
        width_px: Width of level 0.
        height_px: Height of level 0.
        mpp_x: Micrometres per level-0 pixel along x.
        mpp_y: Micrometres per level-0 pixel along y.
        objective_power: Magnification of the objective, or None where the scan does not state it.
        bounds: The scanned part, in level-0 pixels.
        background: sRGB colour of the pixels that were not scanned.
        levels: The pyramid, level 0 first.
    """

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
        """Mean of both axes, in micrometres per level-0 pixel."""
        return (self.mpp_x + self.mpp_y) / 2


def check_mpp(mpp: float, source: str) -> float:
    """Return `mpp` if a microscope scan can have this resolution.

    Args:
        mpp: Micrometres per pixel.
        source: Where the value comes from, for the message.

    Raises:
        ResolutionError: The value is not a number or outside `PLAUSIBLE_MPP`.
    """
    low, high = PLAUSIBLE_MPP
    if not (math.isfinite(mpp) and low <= mpp <= high):
        raise ResolutionError(
            f"{source}: {mpp:g} um per pixel is not a resolution of a slide scan ({low:g} to {high:g}). "
            "Give the right resolution"
        )
    return mpp


def check_scan_size(meta: SlideMeta) -> None:
    """Check that the scanned part fits on a glass slide.

    Raises:
        SlideError: It is larger than `LARGEST_SCAN_MM`.
    """
    bounds = meta.bounds
    width_mm, height_mm = bounds.width * meta.mpp_x / 1000, bounds.height * meta.mpp_y / 1000
    if max(width_mm, height_mm) > LARGEST_SCAN_MM:
        raise SlideError(
            f"{meta.path}: {bounds.width} x {bounds.height} px of {meta.mpp_x:g} um make {width_mm:.0f} x {height_mm:.0f} mm, "
            "more than any glass slide. The file is damaged (copy it again), or its resolution is wrong (give it in samples.csv)"
        )
