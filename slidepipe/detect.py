"""The built-in detector: objects by optical density against the local background, touching ones split.

A mask of everything denser than the background is cut into connected components. A component up to the largest size that an
object may have is an object, or a clump to be split. A larger one (a mat of organic matter, a drying ring, the edge of the
cover slip) is looked at again at stricter levels, where it falls apart; what then fits is taken. Whether a component fits is a
property of the image, never of the window it was seen in: design/detection.md says why that makes boxes independent of blocks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from slidepipe.density import BACKGROUND_REACH_PX, CELL_PX, Int16Array, density
from slidepipe.errors import RegionError
from slidepipe.interfaces import BoolArray, Detections, Region
from slidepipe.split import EIGHT, close, dilate, fill_holes, open_, split_touching

#: Stricter levels for a component that is too large: least density as a multiple of the first one, and the half width (um)
#: of what an opening removes.
_STRICTER = ((1.0, 3.0), (2.5, 2.0), (5.0, 2.0), (10.0, 2.0), (20.0, 2.0), (20.0, 6.0))
#: A reader may hand over pixels up to a third coarser than wanted (a level of 0.67 um averaged down twice).
_COARSEST = 1.34
#: Other reaches than the background's, in pixels: the rim of a mask, and rounding.
_RIM_PX = 4


class Settings(BaseModel):
    """What the detector looks for. Densities are optical densities (base 10) over the local background."""

    model_config = ConfigDict(extra="forbid")

    mpp: float = Field(default=1.0, gt=0.1, le=4, description="resolution to work at, um a pixel")
    min_size_um: float = Field(default=15, gt=0, description="objects whose long side is smaller are clutter")
    max_size_um: float = Field(default=250, gt=0, description="objects whose long side is larger are no fossils")
    min_density: float = Field(default=0.025, gt=0, lt=1, description="what is this dense belongs to an object")
    dense: float = Field(default=0.05, gt=0, lt=2, description="what is this dense tells the shape where objects touch")
    evidence_density: float = Field(default=0.06, gt=0, lt=2, description="an object has pixels at least this dense")
    evidence_um2: float = Field(default=60, ge=0, description="area of such pixels that an object has at the least")
    close_um: float = Field(default=2, ge=0, le=10, description="gaps up to twice this width belong to an object")
    min_part_radius_um: float = Field(default=9, gt=0, description="a part of a clump holds a disc of this radius")
    neck_ratio: float = Field(default=0.72, gt=0, lt=1, description="a neck narrower than this share of a part splits")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if not 8 * self.mpp <= self.min_size_um < self.max_size_um:
            raise ValueError(
                f"min_size_um must be at least 8 pixels ({8 * self.mpp:g} um at mpp {self.mpp:g}) and below max_size_um"
            )
        return self


@dataclass(frozen=True)
class _Component:
    """A connected mask that fits: its place in the window and its pixels."""

    place: tuple[slice, slice]
    mask: BoolArray


@dataclass(frozen=True)
class _Object:
    box: tuple[int, int, int, int]
    owner: tuple[float, float]
    area_px: int
    score: float
    cut: bool
    pixel: tuple[int, int]
    """Row and column of one pixel of the component that the object comes from."""


class DensityDetector:
    """Objects by optical density against the local background (see the module)."""

    name: ClassVar[str] = "density"
    Settings: ClassVar[type[Settings]] = Settings
    align_px: int = CELL_PX

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.mpp = self.settings.mpp
        opening_um = max(radius for _, radius in _STRICTER)
        reach_um = _COARSEST * self.mpp * (BACKGROUND_REACH_PX + _RIM_PX) + 2 * (self.settings.close_um + opening_um)
        self.halo_um = self.settings.max_size_um + reach_um

    def detect(self, region: Region) -> Detections:
        """Find the objects of a region (see :class:`slidepipe.interfaces.Detector`).

        Raises:
            RegionError: the region's pixels are so much coarser than the wanted resolution that the halo is too narrow.
        """
        if region.mpp > _COARSEST * self.mpp:
            raise RegionError(
                f"detector {self.name}: pixels of {region.mpp:g} um are too coarse for its mpp of {self.mpp:g}. "
                f"Set the detector's mpp to {region.mpp:g} (and min_size_um to at least {8 * region.mpp:g})"
            )
        height, width = region.scanned.shape
        # Whole cells of background: what is added counts as not scanned.
        missing = ((0, -height % CELL_PX), (0, -width % CELL_PX))
        rgb, scanned = region.rgb, region.scanned
        if any(after for _, after in missing):
            rgb, scanned = np.pad(rgb, (*missing, (0, 0))), np.pad(scanned, missing)
        dens = density(rgb, scanned)
        found = list(_Search(self.settings, region.mpp, dens, scanned, (height, width)).objects())
        return Detections(
            boxes=np.array([one.box for one in found], np.float64).reshape(-1, 4),
            owner=np.array([one.owner for one in found], np.float64).reshape(-1, 2),
            area=np.array([one.area_px for one in found], np.float64),
            score=np.array([one.score for one in found], np.float64),
            cut=np.array([one.cut for one in found], np.bool_),
        )


class _Search:
    """The search of one window; lengths in pixels of the window."""

    def __init__(
        self, settings: Settings, mpp: float, dens: Int16Array, scanned: BoolArray, window: tuple[int, int]
    ) -> None:
        self.settings, self.mpp, self.dens, self.scanned, self.window = settings, mpp, dens, scanned, window
        self.least_px = settings.min_size_um / mpp
        self.most_px = settings.max_size_um / mpp

    def objects(self) -> Iterator[_Object]:
        """All objects, less those that lie inside the filled hole of another."""
        mask = self.dens > round(1000 * self.settings.min_density)
        mask = close(mask, round(self.settings.close_um / self.mpp)) & self.scanned
        enclosed = np.zeros(mask.shape, np.bool_)
        found: list[_Object] = []
        for component in self._fitting(mask, (0, 0), 0):
            filled = fill_holes(component.mask)
            objects = self._objects_of(component, filled)
            if objects:
                enclosed[component.place] |= filled & ~component.mask
                found += objects
        return (one for one in found if not enclosed[one.pixel])

    def _fitting(self, mask: BoolArray, origin: tuple[int, int], level: int) -> Iterator[_Component]:
        """Components that fit; what is larger, or runs out of the window, is taken apart at the next level."""
        labels, _ = ndimage.label(mask, EIGHT)
        for number, inner in enumerate(ndimage.find_objects(labels), start=1):
            rows, columns = (
                slice(axis.start + start, axis.stop + start) for axis, start in zip(inner, origin, strict=True)
            )
            size = max(rows.stop - rows.start, columns.stop - columns.start)
            if size < self.least_px:
                continue
            component = labels[inner] == number
            is_inside = (
                rows.start > 0 and columns.start > 0 and rows.stop < self.window[0] and columns.stop < self.window[1]
            )
            if is_inside and size <= self.most_px:
                yield _Component((rows, columns), component)
            elif level < len(_STRICTER):
                factor, radius_um = _STRICTER[level]
                stricter = component & (self.dens[rows, columns] > round(1000 * factor * self.settings.min_density))
                radius_px = math.ceil(radius_um / self.mpp)
                yield from self._fitting(open_(stricter, radius_px), (rows.start, columns.start), level + 1)

    def _objects_of(self, component: _Component, filled: BoolArray) -> list[_Object]:
        rows, columns = component.place
        dens = self.dens[rows, columns]
        dense = close((dens > round(1000 * self.settings.dense)) & filled, 1)
        parts = split_touching(filled, dense, self.settings.min_part_radius_um / self.mpp, self.settings.neck_ratio)
        places = ndimage.find_objects(parts)
        centre = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
        row, column = np.unravel_index(int(component.mask.argmax()), component.mask.shape)
        found = []
        for number, place in enumerate(places, start=1):
            mask = parts[place] == number
            if not self.least_px <= max(mask.shape) <= self.most_px:
                continue
            score = self._score(mask, dens[place])
            if score is None:
                continue
            y0, x0 = rows.start + place[0].start, columns.start + place[1].start
            found.append(
                _Object(
                    box=(x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]),
                    owner=centre,
                    area_px=int(mask.sum()),
                    score=score,
                    cut=self._is_cut(mask, y0, x0),
                    pixel=(rows.start + int(row), columns.start + int(column)),
                )
            )
        return found

    def _score(self, mask: BoolArray, dens: Int16Array) -> float | None:
        """How surely this is an object, 0 to 1, or None where it is not."""
        evidence = int((mask & (dens > round(1000 * self.settings.evidence_density))).sum()) * self.mpp**2
        if evidence < self.settings.evidence_um2:
            return None
        return evidence / (evidence + mask.sum() * self.mpp**2 * 0.2)

    def _is_cut(self, mask: BoolArray, y0: int, x0: int) -> bool:
        """Does the object touch pixels that were not scanned? One pixel more, for the rim that the scanner blends with its fill."""
        margin = 2
        top, left = max(0, y0 - margin), max(0, x0 - margin)
        around = ~self.scanned[top : y0 + mask.shape[0] + margin, left : x0 + mask.shape[1] + margin]
        if not around.any():
            return False
        grown = np.zeros(around.shape, np.bool_)
        grown[y0 - top : y0 - top + mask.shape[0], x0 - left : x0 - left + mask.shape[1]] = mask
        return bool((dilate(grown, margin) & around).any())
