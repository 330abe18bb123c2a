"""The checks of detectors, above all that objects do not depend on the blocks into which a slide is cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from slidepipe.interfaces import Detections, Detector, Region
from slidepipe.testing.checks import CheckFunctions, require, require_attributes

if TYPE_CHECKING:
    from slidepipe.interfaces import BoolArray

FIELD_UM = 700.0
"""Least side of the drawn field, in micrometres."""

BACKGROUND = (242, 240, 236)
"""Colour of the drawn field, sRGB."""

FIELDS = tuple(Detections.__annotations__)


class DetectorChecks:
    """The checks of a detector, on a drawn field of dark discs of 24 to 70 um, at the working resolution of the detector.

    Args:
        make: returns a new detector.
    """

    def __init__(self, make: Callable[[], Detector]) -> None:
        self._make = make

    def by_name(self) -> CheckFunctions:
        """Return the checks by name."""
        return {
            "attributes": self.attributes,
            "finds objects": self.finds_objects,
            "fields": self.fields,
            "boxes": self.boxes,
            "nothing where nothing is": self.nothing_in_empty_regions,
            "cut at unscanned pixels": self.cut,
            "determinism": self.determinism,
            "region untouched": self.region_untouched,
            "owned objects": self.owned_objects,
            "independence of blocks": self.independence_of_blocks,
        }

    @cached_property
    def detector(self) -> Detector:
        """The detector."""
        return self._make()

    @cached_property
    def field(self) -> DrawnField:
        """The drawn field."""
        return DrawnField(self.detector)

    @cached_property
    def found(self) -> Detections:
        """The objects found in the whole field."""
        return self.detector.detect(self._whole())

    def _whole(self) -> Region:
        return self.field.region(0, 0, self.field.side_px, self.field.side_px)

    def attributes(self) -> None:
        """Check the type and meaning of the attributes."""
        detector = self.detector
        require_attributes(detector, {"name": str, "mpp": (int, float), "halo_um": (int, float), "align_px": int})
        require(detector.mpp > 0, f"mpp is {detector.mpp}. It must be positive")
        require(detector.align_px >= 1, f"align_px is {detector.align_px}. It must be at least 1")
        require(detector.halo_um >= 0, f"halo_um is {detector.halo_um}. It must not be negative")

    def fields(self) -> None:
        """Check the shapes and dtypes of detections."""
        count = len(self.found.boxes)
        shapes = {"boxes": (count, 4), "owner": (count, 2), "area": (count,), "score": (count,), "cut": (count,)}
        for name, shape in shapes.items():
            value = getattr(self.found, name)
            dtype = np.dtype(np.bool_ if name == "cut" else np.float64)
            require(
                np.shape(value) == shape and value.dtype == dtype,
                f"{name} is {value.dtype} {np.shape(value)}. It must be {dtype} {shape}",
            )
            require(bool(np.isfinite(value).all()), f"{name} is not finite")

    def finds_objects(self) -> None:
        """Check that the detector finds anything."""
        require(len(self.found.boxes) > 0, f"no object is found in a field with {len(self.field.discs)} dark discs")

    def boxes(self) -> None:
        """Check that boxes, areas and scores have possible values."""
        x0, y0, x1, y1 = self.found.boxes.T
        require(bool(((x1 > x0) & (y1 > y0)).all()), "a box is empty. A box is half-open: x0, y0, x1, y1")
        inside = (x0 >= 0) & (y0 >= 0) & (x1 <= self.field.side_px) & (y1 <= self.field.side_px)
        require(bool(inside.all()), "a box extends beyond the region")
        area = self.found.area
        require(bool(((area > 0) & (area <= (x1 - x0) * (y1 - y0))).all()), "an area is not in (0, area of the box]")
        score = self.found.score
        require(bool(((score >= 0) & (score <= 1)).all()), "a score is not between 0 and 1")

    def nothing_in_empty_regions(self) -> None:
        """Check that nothing is found in an empty field and in an unscanned region."""
        side = self.field.side_px
        blank = np.broadcast_to(np.array(BACKGROUND, np.uint8), (side, side, 3)).copy()
        for words, scanned in (("an empty field", True), ("an unscanned region", False)):
            found = self.detector.detect(Region(blank, np.full((side, side), scanned), self.detector.mpp))
            require(len(found.boxes) == 0, f"{len(found.boxes)} objects are found in {words}")

    def cut(self) -> None:
        """Check that `cut` marks the objects that touch unscanned pixels, and no others."""
        side = self.field.side_px
        region = self._whole()
        hidden = np.zeros((side, side), np.bool_)
        for x, _, radius in self.field.discs[:: max(1, len(self.field.discs) // 4)]:
            edge = round(x + radius / 3)
            hidden[:, edge : edge + 3 + round(radius)] = True
        rgb = np.where(hidden[..., None], np.array(BACKGROUND, np.uint8), region.rgb)
        found = self.detector.detect(Region(rgb, region.scanned & ~hidden, region.mpp))
        _require_right_cut(found, hidden, self.field.discs)

    def determinism(self) -> None:
        """Check that the same region gives the same objects."""
        again = self._make().detect(self._whole())
        _require_same_objects(again, self.found, "detecting twice in the same region gives different objects")

    def region_untouched(self) -> None:
        """Check that `detect` does not change its input."""
        region, original = self._whole(), self._whole()
        self.detector.detect(region)
        require(
            bool((region.rgb == original.rgb).all() and (region.scanned == original.scanned).all()),
            "detect changes the region that it receives",
        )

    def owned_objects(self) -> None:
        """Check that `detect_owned` returns the objects of `detect` whose owner point lies in the core."""
        side = self.field.side_px
        core = (side // 4, side // 4, side - side // 4, side // 2)
        owned = self.detector.detect_owned(self._whole(), core)
        message = "detect_owned and detect find different objects in a core"
        _require_same_objects(_owned_by(owned, core[:2], core[2:]), _owned_by(self.found, core[:2], core[2:]), message)

    def independence_of_blocks(self) -> None:
        """Check that the objects do not depend on how the field is cut into blocks."""
        whole = self.field.detect_in_blocks(())
        require(len(whole.boxes) > 0, "no object is found, so blocks cannot be compared")
        for cuts in ((0.5,), (0.31, 0.72)):
            parts = self.field.detect_in_blocks(cuts)
            number = len(cuts) + 1
            message = f"the objects depend on how the slide is cut into blocks ({number} x {number})"
            _require_same_objects(parts, whole, message)


class DrawnField:
    """A scan of dark discs on a light background, which is read in regions as a run reads them.

    Attributes:
        detector: the detector whose working resolution the scan has.
        side_px: side of the scan, in pixels.
        discs: centre x, centre y and radius of each disc, in pixels.
        rgb: uint8 (side_px, side_px, 3).
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        mpp = detector.mpp
        self.side_px = max(math.ceil(FIELD_UM / mpp), math.ceil(2.2 * detector.align_px))
        rng = np.random.default_rng(7)
        canvas = np.array(BACKGROUND) + rng.normal(0, 2, (self.side_px, self.side_px, 3))
        y, x = np.mgrid[: self.side_px, : self.side_px]
        step = 100.0 / mpp
        self.discs: list[tuple[float, float, float]] = []
        for row in range(int(self.side_px / step)):
            for column in range(int(self.side_px / step)):
                centre_x, centre_y = (np.array([column, row]) + 0.5 + rng.uniform(-0.12, 0.12, 2)) * step
                radius = rng.uniform(12, 35) / mpp
                disc = np.hypot(x - centre_x, y - centre_y) < radius
                canvas[disc] *= rng.uniform(0.45, 0.65)
                self.discs.append((float(centre_x), float(centre_y), radius))
        self.rgb = canvas.round().clip(0, 255).astype(np.uint8)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> Region:
        """Return a region. Where it extends beyond the scan, it has the background colour and is not scanned."""
        rgb = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        rgb[:] = BACKGROUND
        scanned = np.zeros(rgb.shape[:2], np.bool_)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, self.side_px), min(y1, self.side_px)
        target = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]
        rgb[target] = self.rgb[top:bottom, left:right]
        scanned[target] = True
        return Region(rgb, scanned, self.detector.mpp)

    def detect_in_blocks(self, cuts: tuple[float, ...]) -> Detections:
        """Return the objects of a run that cuts the field into blocks.

        Args:
            cuts: where to cut both sides, as fractions of the side, ascending.
        """
        edges = [0, *(round(fraction * self.side_px) for fraction in cuts), self.side_px]
        spans = list(itertools.pairwise(edges))
        parts = [self._detect_in_block(columns, rows) for rows in spans for columns in spans]
        return Detections(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))

    def _detect_in_block(self, columns: tuple[int, int], rows: tuple[int, int]) -> Detections:
        align, halo = self.detector.align_px, math.ceil(self.detector.halo_um / self.detector.mpp)

        def with_halo(span: tuple[int, int]) -> tuple[int, int]:
            first = max((span[0] - halo) // align, -1) * align
            last = min(-(-(span[1] + halo) // align), -(-self.side_px // align) + 1) * align
            return first, last

        (x0, x1), (y0, y1) = with_halo(columns), with_halo(rows)
        found = self.detector.detect(self.region(x0, y0, x1, y1))
        moved = Detections(
            found.boxes + np.array([x0, y0, x0, y0]),
            found.owner + np.array([x0, y0]),
            found.area,
            found.score,
            found.cut,
        )
        return _owned_by(moved, (columns[0], rows[0]), (columns[1], rows[1]))


def _owned_by(found: Detections, low: tuple[int, int], high: tuple[int, int]) -> Detections:
    """Return the objects whose owner point lies in the half-open rectangle from `low` to `high` (x, y)."""
    owned = (found.owner >= low).all(axis=1) & (found.owner < high).all(axis=1)
    return Detections(*(getattr(found, name)[owned] for name in FIELDS))


def _require_same_objects(left: Detections, right: Detections, message: str) -> None:
    counts = len(left.boxes), len(right.boxes)
    require(counts[0] == counts[1], f"{message}: {counts[0]} and {counts[1]} objects")
    for name in FIELDS:
        values = [getattr(found, name)[np.lexsort(found.boxes.round(3).T)] for found in (left, right)]
        require(bool(np.allclose(values[0], values[1], rtol=1e-6, atol=1e-6)), f"{message}: {name} differs")


def _require_right_cut(found: Detections, hidden: BoolArray, discs: list[tuple[float, float, float]]) -> None:
    side = len(hidden)
    for (x0, y0, x1, y1), marked in zip(found.boxes, found.cut, strict=True):
        window = hidden[max(0, int(y0) - 3) : int(y1) + 4, max(0, int(x0) - 3) : int(x1) + 4]
        away_from_border = min(x0, y0) >= 3 and max(x1, y1) <= side - 3
        if marked and away_from_border:
            require(bool(window.any()), "cut is True for an object that is not near unscanned pixels")
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        for disc_x, disc_y, radius in discs:
            is_hidden = hidden[min(round(disc_y), side - 1), min(round(disc_x + radius / 3) + 1, side - 1)]
            if is_hidden and np.hypot(middle_x - disc_x, middle_y - disc_y) < radius / 2 and x1 - x0 < 2.2 * radius:
                require(bool(marked), "cut is False for an object that touches unscanned pixels")
