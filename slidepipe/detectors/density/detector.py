"""The built-in detector: find objects by their optical density relative to the local background, and split touching ones.

1. A mask of all pixels denser than the background is divided into connected components.
2. A component up to the largest object size is one object, or a clump that is split.
3. A larger component (a mat of organic matter, a drying ring, the edge of the cover slip) is searched again at stricter levels,
   where it falls apart. Components there are taken if they fit and stand out from their surroundings.

Whether a component fits depends on the image only, not on the window. design/detection.md explains why the boxes therefore do
not depend on blocks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from slidepipe.detectors.density.components import components
from slidepipe.detectors.density.optical_density import (
    BACKGROUND_REACH_PX,
    CELL_PX,
    UNKNOWN,
    Int16Array,
    background_of,
    density,
    grey_of,
)
from slidepipe.detectors.density.split import split_touching
from slidepipe.errors import SlideError
from slidepipe.interfaces import BoolArray, Detections, Detector, Region
from slidepipe.masks import (
    Place,
    close,
    dilate,
    fill_holes,
    framed,
    is_thin,
    largest_piece,
    open_,
    surroundings,
    without_tail,
)

# Stricter levels for a component that is too large: smallest density, as a multiple of min_density, and the radius of the opening
# that removes thin parts, in um.
_STRICTER = ((1.0, 3.0), (2.5, 2.0), (5.0, 2.0), (10.0, 2.0), (20.0, 2.0), (20.0, 6.0))
# The surroundings of a component at a stricter level are a ring between these distances, in pixels. The component is an object
# only if its surroundings have at most this share of its density; otherwise it is a darker part of something larger.
_RING_PX = (2, 6)
_SURROUNDINGS = 0.4
# A hole of at least this area shows the empty field, not a pale interior, if its median density is below this share of
# min_density.
_CLEAR_HOLE_UM2, _CLEAR = 1250.0, 0.3
# An object is a fibre or a rim if the radius of its largest inner disc is below this share of its length.
_THINNEST = 0.03
# A part thinner than twice this radius that extends the box by more than this length is a rim or fibre that the object lies on.
_TAIL_RADIUS_UM, _TAIL_UM = 3.0, 60.0
# The steepness of an edge is measured over this distance, in the steepest 5 % of the pixels.
_EDGE_UM, _EDGE_PERCENT = 4.0, 95
# Scanners blend the outermost scanned pixels with a fill colour. An object this close to unscanned pixels counts as cut.
_CUT_PX = 2
# The pixels may be up to a third coarser than wanted: a level of 0.67 um per pixel is averaged 2 x 2.
_COARSEST = 1.34


class DensitySettings(BaseModel):
    """Settings of the detector. Densities are optical densities (base 10) relative to the local background."""

    model_config = ConfigDict(extra="forbid")

    mpp: float = Field(default=1.0, ge=0.1, le=4, description="working resolution, micrometres per pixel")
    min_size_um: float = Field(default=15, gt=0, description="smallest length of the longer side of an object")
    max_size_um: float = Field(default=250, gt=0, le=2000, description="largest length of the longer side of an object")
    min_density: float = Field(default=0.025, ge=0.005, lt=0.1, description="smallest density of a pixel of an object")
    dense: float = Field(
        default=0.05, gt=0, lt=2, description="smallest density of the pixels whose shape shows where objects touch"
    )
    evidence_density: float = Field(
        default=0.06, gt=0, lt=2, description="smallest density of the pixels that prove an object"
    )
    evidence_um2: float = Field(default=60, ge=0, description="smallest area of such pixels in an object")
    min_edge: float = Field(
        default=0.04,
        ge=0,
        lt=2,
        description="smallest density step over 4 um at the edge of an object; smears out of focus have less",
    )
    close_um: float = Field(default=2, ge=0, le=10, description="gaps up to twice this width are closed")
    min_part_radius_um: float = Field(
        default=10, gt=0, description="radius of the disc that each part of a split clump contains"
    )
    neck_ratio: float = Field(
        default=0.72, gt=0, lt=1, description="largest width of a neck that is split, relative to the smaller part"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if not 8 * self.mpp <= self.min_size_um < self.max_size_um:
            raise ValueError(
                f"min_size_um is {self.min_size_um:g}: set it to at least 8 pixels ({8 * self.mpp:g} um at mpp {self.mpp:g}) and "
                f"below max_size_um ({self.max_size_um:g})"
            )
        return self


@dataclass(frozen=True)
class _Component:
    """A connected mask up to the largest object size.

    Attributes:
        place: Its rows and columns in the window.
        mask: bool, its pixels.
        filled: bool, its pixels with holes filled; the same array as `mask` if there are no holes.
        level: The level at which it was found: 0, or the number of a stricter level.
    """

    place: Place
    mask: BoolArray
    filled: BoolArray
    level: int

    @property
    def has_holes(self) -> bool:
        return self.filled is not self.mask


@dataclass(frozen=True)
class _Object:
    box: tuple[int, int, int, int]
    owner: tuple[float, float]
    area_px: int
    score: float
    cut: bool
    pixel: tuple[int, int]
    """Row and column of one pixel of the component that the object is part of."""


class DensityDetector(Detector):
    """Find objects by their optical density relative to the local background (see the module)."""

    name = "density"
    Settings = DensitySettings
    align_px: int = CELL_PX

    def __init__(self, settings: DensitySettings | None = None) -> None:
        self.settings = settings if settings is not None else DensitySettings()
        self.mpp: float = self.settings.mpp
        # A component at a stricter level is taken only if the component around it is too large. To decide this, the detector
        # needs the pixels within the largest object size, and all pixels that their values depend on.
        reach_px = BACKGROUND_REACH_PX + _RING_PX[1] + 2
        reach_um = _COARSEST * self.mpp * reach_px + 2 * (
            self.settings.close_um + max(radius for _, radius in _STRICTER)
        )
        self.halo_um: float = self.settings.max_size_um + reach_um

    def detect(self, region: Region) -> Detections:
        """Find the objects of a region (see `slidepipe.interfaces.Detector`).

        Args:
            region: The pixels.

        Raises:
            SlideError: The pixels are much coarser than the wanted resolution, so that the halo would be too narrow.
        """
        return self.detect_owned(region, (0, 0, region.scanned.shape[1], region.scanned.shape[0]))

    def detect_owned(self, region: Region, core: tuple[int, int, int, int]) -> Detections:
        """Find the objects of a region whose owner point lies in `core`. Other objects may be missing from the result.

        Args:
            region: The pixels.
            core: x0, y0, x1, y1, half-open, in pixels of the region.

        Raises:
            SlideError: As in `detect`.
        """
        if region.mpp > _COARSEST * self.mpp:
            raise SlideError(
                f"detector {self.name}: the scan has {region.mpp:g} um per pixel, too coarse for the detector setting mpp "
                f"{self.mpp:g}. Set mpp to {region.mpp:g} (and min_size_um to at least {8 * region.mpp:g})"
            )
        height, width = region.scanned.shape
        rgb, scanned = region.rgb, region.scanned
        if height % CELL_PX or width % CELL_PX:
            # The background needs whole cells. The added pixels count as not scanned.
            missing = ((0, -height % CELL_PX), (0, -width % CELL_PX))
            rgb, scanned = np.pad(rgb, (*missing, (0, 0))), np.pad(scanned, missing)
        grey = grey_of(rgb)
        background = background_of(grey, scanned)
        dens = density(grey, scanned, background)
        found = _Search(self.settings, region.mpp, dens, background, scanned, (height, width), core).objects()
        return Detections(
            boxes=np.array([one.box for one in found], np.float64).reshape(-1, 4),
            owner=np.array([one.owner for one in found], np.float64).reshape(-1, 2),
            area=np.array([one.area_px for one in found], np.float64),
            score=np.array([one.score for one in found], np.float64),
            cut=np.array([one.cut for one in found], np.bool_),
        )


class _Search:
    """The search for objects in one window.

    Args:
        settings: Settings of the detector.
        mpp: Micrometres per pixel of the window.
        dens: int16 (H, W), optical density of each pixel, in thousandths.
        background: int16 (H / 16, W / 16), background of each cell, in thousandths.
        scanned: bool (H, W), True where the slide was scanned.
        window: Height and width without padding, in pixels.
        core: x0, y0, x1, y1 of the area where owner points must lie, in pixels.
    """

    def __init__(
        self,
        settings: DensitySettings,
        mpp: float,
        dens: Int16Array,
        background: Int16Array,
        scanned: BoolArray,
        window: tuple[int, int],
        core: tuple[int, int, int, int],
    ) -> None:
        self.settings, self.mpp, self.window, self.core = settings, mpp, window, core
        self.dens, self.background, self.scanned = dens, background, scanned
        self.least_px, self.most_px = settings.min_size_um / mpp, settings.max_size_um / mpp
        self.part_radius_px = settings.min_part_radius_um / mpp

    def objects(self) -> list[_Object]:
        """Return the objects that the core owns, without those in a filled hole of another object."""
        mask = self._denser_than(self.settings.min_density, self.dens)
        mask = close(mask, round(self.settings.close_um / self.mpp)) & self.scanned
        enclosed = np.zeros(mask.shape, np.bool_)
        found: list[_Object] = []
        for component in self._fitting(mask, (0, 0), 0):
            # A component of another block matters here only if it encloses something.
            if not (self._owns(component) or component.has_holes):
                continue
            objects = self._objects_of(component)
            if objects:
                if component.has_holes:
                    enclosed[component.place] |= component.filled & ~component.mask
                found += objects
        return [one for one in found if not enclosed[one.pixel]]

    def _owns(self, component: _Component) -> bool:
        (x, y), (x0, y0, x1, y1) = _centre(component.place), self.core
        return x0 <= x < x1 and y0 <= y < y1

    def _reaches(self, place: Place) -> bool:
        """Return whether the core can own a component at this place, or something that it encloses."""
        (rows, columns), (x0, y0, x1, y1) = place, self.core
        return bool(columns.start < x1 and columns.stop > x0 and rows.start < y1 and rows.stop > y0)

    @staticmethod
    def _denser_than(threshold: float, dens: Int16Array) -> BoolArray:
        return dens > round(1000 * threshold)

    def _fitting(self, mask: BoolArray, origin: tuple[int, int], level: int) -> Iterator[_Component]:
        """Yield the components that fit. Search those that are too large, or extend beyond the window, at the next level."""
        pieces = components(mask)
        height, width = pieces.bottom - pieces.top, pieces.right - pieces.left
        for number in np.flatnonzero(np.maximum(height, width) >= self.least_px).tolist():
            rows = slice(int(pieces.top[number]) + origin[0], int(pieces.bottom[number]) + origin[0])
            columns = slice(int(pieces.left[number]) + origin[1], int(pieces.right[number]) + origin[1])
            if not self._reaches((rows, columns)):
                continue
            own = pieces.mask(number)
            inside = (
                rows.start > 0 and columns.start > 0 and rows.stop < self.window[0] and columns.stop < self.window[1]
            )
            if inside and max(own.shape) <= self.most_px:
                filled = fill_holes(own) if pieces.holes[number] else own
                component = _Component((rows, columns), own, filled, level)
                clear_px = self._clear_px(component)
                if level == 0 and clear_px * self.mpp**2 < _CLEAR_HOLE_UM2:
                    yield component
                    continue
                if level > 0:
                    # A component that is mostly hole is a bubble. One that does not stand out is a part of something too large.
                    if clear_px < component.filled.sum() / 2 and self._stands_out(component):
                        yield component
                    continue
            if level < len(_STRICTER):
                factor, radius_um = _STRICTER[level]
                stricter = own & self._denser_than(factor * self.settings.min_density, self.dens[rows, columns])
                radius_px = math.ceil(radius_um / self.mpp)
                opened = open_(framed(stricter, radius_px), radius_px)[radius_px:-radius_px, radius_px:-radius_px]
                yield from self._fitting(opened, (rows.start, columns.start), level + 1)

    def _clear_px(self, component: _Component) -> int:
        """Return the area of the largest hole if it shows the empty field, as in a drying ring or a bubble; otherwise 0."""
        if not component.has_holes:
            return 0
        holes = component.filled & ~component.mask
        if np.count_nonzero(holes) * self.mpp**2 < _CLEAR_HOLE_UM2 and component.level == 0:
            return 0
        hole = largest_piece(holes)
        area = int(np.count_nonzero(hole))
        if not area or np.median(self.dens[component.place][hole]) >= 1000 * _CLEAR * self.settings.min_density:
            return 0
        return area

    def _stands_out(self, component: _Component) -> bool:
        """Return whether a component at a stricter level is an object: solid, and much denser than its surroundings."""
        if open_(framed(component.filled, 1 + int(self.part_radius_px)), int(self.part_radius_px)).sum() == 0:
            return False
        near, far = _RING_PX
        rows, columns = component.place
        top, left = max(0, rows.start - far), max(0, columns.start - far)
        dens = self.dens[top : rows.stop + far, left : columns.stop + far]
        own = np.zeros(dens.shape, np.bool_)
        own[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = component.filled
        ring = surroundings(own, near, far)
        most = _SURROUNDINGS * float(np.median(dens[own]))
        return float(np.median(dens[ring])) <= most and self._background_range(component.place) <= most

    def _background_range(self, place: Place) -> int:
        """Return the range of the background over a place, in thousandths.

        Inside a very large thing the background is the level of the thing itself. A piece of its rim has the empty field on one
        side, and on the other side the thing, which looks like empty field.
        """
        rows, columns = place
        last_row, last_column = (rows.stop - 1) // CELL_PX, (columns.stop - 1) // CELL_PX
        cells = self.background[rows.start // CELL_PX : last_row + 1, columns.start // CELL_PX : last_column + 1]
        known = cells[cells != UNKNOWN]
        return int(known.max()) - int(known.min()) if known.size else 0

    def _objects_of(self, component: _Component) -> list[_Object]:
        """Return the objects in a component: itself, or the parts of a clump. Parts that are not objects are left out."""
        rows, columns = component.place
        dens, filled = self.dens[component.place], component.filled
        dense = close(self._denser_than(self.settings.dense, dens) & filled, 1)
        parts = split_touching(filled, dense, self.part_radius_px, self.settings.neck_ratio)
        owner = _centre(component.place)
        first = np.unravel_index(int(component.mask.argmax()), component.mask.shape)
        pixel = rows.start + int(first[0]), columns.start + int(first[1])
        found = []
        places = ndimage.find_objects(parts) if parts.max() > 1 else [np.s_[0 : filled.shape[0], 0 : filled.shape[1]]]
        for number, part in enumerate(places, start=1):
            whole = parts[part] == number if len(places) > 1 else filled
            mask, place = without_tail(whole, part, math.ceil(_TAIL_RADIUS_UM / self.mpp), _TAIL_UM / self.mpp)
            if not self.least_px <= max(mask.shape) <= self.most_px:
                continue
            score = self._score(mask, dens[place])
            if score is None:
                continue
            y0, x0 = rows.start + place[0].start, columns.start + place[1].start
            box = (x0, y0, x0 + mask.shape[1], y0 + mask.shape[0])
            area_px = int(np.count_nonzero(mask))
            found.append(_Object(box, owner, area_px, score, self._is_cut(mask, y0, x0), pixel))
        return found

    def _score(self, mask: BoolArray, dens: Int16Array) -> float | None:
        """Return the confidence that a mask is an object, 0 to 1, or None if it is not an object."""
        settings = self.settings
        evidence_px = int(np.count_nonzero(mask & self._denser_than(settings.evidence_density, dens)))
        if evidence_px * self.mpp**2 < settings.evidence_um2:
            return None
        edge = self._edge(mask, dens)
        if edge < settings.min_edge or is_thin(mask, _THINNEST):
            return None
        # The product of two saturating terms: one is 0.5 for a share of dense pixels of about 1/7, the other for an edge of three
        # times min_edge.
        share = evidence_px / int(np.count_nonzero(mask))
        return 1.2 * share / (share + 0.2) * edge / (edge + 3 * settings.min_edge)

    def _edge(self, mask: BoolArray, dens: Int16Array) -> float:
        """Return the density step over 4 um at the steepest pixels of the object."""
        step = max(2, round(_EDGE_UM / self.mpp))
        steepest = 0.0
        for values, inside in ((dens, mask), (dens.T, mask.T)):
            # Densities lie between -2.8 and 2.8, so a difference in thousandths fits in 16 bits.
            slopes = np.abs(values[step:] - values[:-step])[inside[step // 2 : step // 2 + len(values) - step]]
            if slopes.size:
                steepest = max(steepest, _percentile(slopes, _EDGE_PERCENT) / 1000)
        return steepest

    def _is_cut(self, mask: BoolArray, y0: int, x0: int) -> bool:
        """Return whether the object touches pixels that were not scanned."""
        top, left = max(0, y0 - _CUT_PX), max(0, x0 - _CUT_PX)
        unscanned = ~self.scanned[top : y0 + mask.shape[0] + _CUT_PX, left : x0 + mask.shape[1] + _CUT_PX]
        if not unscanned.any():
            return False
        own = np.zeros(unscanned.shape, np.bool_)
        own[y0 - top : y0 - top + mask.shape[0], x0 - left : x0 - left + mask.shape[1]] = mask
        return bool((dilate(own, _CUT_PX) & unscanned).any())


def _centre(place: Place) -> tuple[float, float]:
    """Return x, y of the centre of a place: the owner point of a component."""
    rows, columns = place
    return (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2


def _percentile(values: Int16Array, percent: float) -> float:
    """Return exactly `np.percentile(values, percent)`, faster: for a few hundred values numpy mostly spends time on checks."""
    position = (len(values) - 1) * (percent / 100)
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    # Partitioning at one rank is five times faster than at two. The value below it is the largest of the values before it.
    ordered = np.partition(values, high)
    above, share = int(ordered[high]), position - low
    below = int(ordered[:high].max()) if low < high else above
    # numpy interpolates from the nearer of the two values
    return below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)
