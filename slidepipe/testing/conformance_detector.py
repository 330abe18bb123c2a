"""What the conformance checks of detectors do, first of all: that objects do not depend on the blocks a slide is cut into."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from slidepipe.interfaces import Detections, Detector, Region
from slidepipe.testing.conformance import Checks, require, require_attributes

if TYPE_CHECKING:
    from slidepipe.interfaces import BoolArray

FIELD_UM = 700.0
BACKGROUND = (242, 240, 236)


def detector_checks(make: Callable[[], Detector]) -> Checks:
    """The checks of a detector: a made-up field of round objects, 24 to 70 um across, at the detector's own mpp."""

    @functools.cache
    def detector() -> Detector:
        return make()

    @functools.cache
    def field() -> _Field:
        return _Field(detector())

    @functools.cache
    def found() -> Detections:
        return detector().detect(field().region(0, 0, field().side_px, field().side_px))

    def attributes() -> None:
        require_attributes(detector(), {"name": str, "mpp": (int, float), "halo_um": (int, float), "align_px": int})
        require(detector().mpp > 0 and detector().align_px >= 1, "mpp and align_px must be positive")
        require(detector().halo_um >= 0, "halo_um must not be negative")

    def fields() -> None:
        count = len(found().boxes)
        wanted = {"boxes": (count, 4), "owner": (count, 2), "area": (count,), "score": (count,), "cut": (count,)}
        for name, shape in wanted.items():
            value = getattr(found(), name)
            dtype = np.bool_ if name == "cut" else np.float64
            require(
                np.shape(value) == shape and value.dtype == dtype,
                f"{name} is {value.dtype} {np.shape(value)}, the contract says {np.dtype(dtype)} {shape}",
            )
            require(bool(np.isfinite(value).all()), f"{name} is not finite")

    def finds() -> None:
        count = len(found().boxes)
        require(count > 0, f"nothing is found in a field of {len(field().discs)} dark discs")

    def boxes() -> None:
        x0, y0, x1, y1 = found().boxes.T
        require(bool(((x1 > x0) & (y1 > y0)).all()), "a box is empty: it must be x0, y0, x1, y1, half-open")
        inside = (x0 >= 0) & (y0 >= 0) & (x1 <= field().side_px) & (y1 <= field().side_px)
        require(bool(inside.all()), "a box reaches out of the region")
        area = found().area
        require(bool(((area > 0) & (area <= (x1 - x0) * (y1 - y0))).all()), "an area is not of (0, area of its box]")
        require(bool(((found().score >= 0) & (found().score <= 1)).all()), "a score is not between 0 and 1")

    def nothing() -> None:
        side = field().side_px
        blank = np.broadcast_to(np.array(BACKGROUND, np.uint8), (side, side, 3)).copy()
        for what, scanned in (("an empty field", True), ("a region that was never scanned", False)):
            region = Region(blank, np.full((side, side), scanned), detector().mpp)
            _same_count(0, len(detector().detect(region).boxes), what)

    def cut() -> None:
        side = field().side_px
        region = field().region(0, 0, side, side)
        hidden = np.zeros((side, side), np.bool_)
        for x, _, radius in field().discs[:: max(1, len(field().discs) // 4)]:
            edge = round(x + radius / 3)
            hidden[:, edge : edge + 3 + round(radius)] = True
        rgb = np.where(hidden[..., None], np.array(BACKGROUND, np.uint8), region.rgb)
        detections = detector().detect(Region(rgb, region.scanned & ~hidden, region.mpp))
        _cut_marks(detections, hidden, field().discs)

    def determinism() -> None:
        side = field().side_px
        again = make().detect(field().region(0, 0, side, side))
        _same_objects(again, found(), "the same region twice gives other objects")

    def untouched() -> None:
        side = field().side_px
        region, kept = field().region(0, 0, side, side), field().region(0, 0, side, side)
        detector().detect(region)
        require(
            bool((region.rgb == kept.rgb).all() and (region.scanned == kept.scanned).all()),
            "detect changes the region it is given",
        )

    def blocks() -> None:
        whole = field().in_blocks(())
        require(len(whole.boxes) > 0, "no object is found, so nothing can be said of blocks")
        for cuts in ((0.5,), (0.31, 0.72)):
            parts = field().in_blocks(cuts)
            _same_objects(
                parts, whole, f"objects depend on how the slide is cut into blocks ({len(cuts) + 1} x {len(cuts) + 1})"
            )

    return {
        "attributes": attributes,
        "finds objects": finds,
        "fields": fields,
        "boxes": boxes,
        "nothing where nothing is": nothing,
        "cut at unscanned pixels": cut,
        "determinism": determinism,
        "region untouched": untouched,
        "independence of blocks": blocks,
    }


class _Field:
    """A scan's bounds with dark discs on a light ground, and regions of it as a run reads them."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        mpp = detector.mpp
        self.side_px = max(math.ceil(FIELD_UM / mpp), math.ceil(2.2 * detector.align_px))
        rng = np.random.default_rng(7)
        ground = np.array(BACKGROUND) + rng.normal(0, 2, (self.side_px, self.side_px, 3))
        y, x = np.mgrid[: self.side_px, : self.side_px]
        step = 100.0 / mpp
        self.discs: list[tuple[float, float, float]] = []
        for row in range(int(self.side_px / step)):
            for column in range(int(self.side_px / step)):
                centre_x, centre_y = (np.array([column, row]) + 0.5 + rng.uniform(-0.12, 0.12, 2)) * step
                radius = rng.uniform(12, 35) / mpp
                disc = np.hypot(x - centre_x, y - centre_y) < radius
                ground[disc] *= rng.uniform(0.45, 0.65)
                self.discs.append((float(centre_x), float(centre_y), radius))
        self.rgb = ground.round().clip(0, 255).astype(np.uint8)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> Region:
        """The pixels of a window, which may reach beyond the bounds: background there, and not scanned."""
        rgb = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        rgb[:] = BACKGROUND
        scanned = np.zeros(rgb.shape[:2], np.bool_)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, self.side_px), min(y1, self.side_px)
        target = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]
        rgb[target] = self.rgb[top:bottom, left:right]
        scanned[target] = True
        return Region(rgb, scanned, self.detector.mpp)

    def in_blocks(self, cuts: tuple[float, ...]) -> Detections:
        """What a run finds that cuts the field at these shares of its side: each block keeps what its core owns."""
        edges = [0, *(round(share * self.side_px) for share in cuts), self.side_px]
        spans = list(itertools.pairwise(edges))
        kept = [self._block(columns, rows) for rows in spans for columns in spans]
        return Detections(
            *(np.concatenate([getattr(part, name) for part in kept]) for name in Detections.__annotations__)
        )

    def _block(self, columns: tuple[int, int], rows: tuple[int, int]) -> Detections:
        align, halo = self.detector.align_px, math.ceil(self.detector.halo_um / self.detector.mpp)

        def reach(span: tuple[int, int]) -> tuple[int, int]:
            first = max((span[0] - halo) // align, -1) * align
            last = min(-(-(span[1] + halo) // align), -(-self.side_px // align) + 1) * align
            return first, last

        (x0, x1), (y0, y1) = reach(columns), reach(rows)
        detections = self.detector.detect(self.region(x0, y0, x1, y1))
        owner = detections.owner + np.array([x0, y0])
        mine = (owner >= (columns[0], rows[0])).all(axis=1) & (owner < (columns[1], rows[1])).all(axis=1)
        boxes = detections.boxes + np.array([x0, y0, x0, y0])
        return Detections(boxes[mine], owner[mine], detections.area[mine], detections.score[mine], detections.cut[mine])


def _same_count(wanted: int, got: int, where: str) -> None:
    require(wanted == got, f"{where} gives {got} objects")


def _same_objects(left: Detections, right: Detections, message: str) -> None:
    require(len(left.boxes) == len(right.boxes), f"{message}: {len(left.boxes)} and {len(right.boxes)} of them")
    for name in Detections.__annotations__:
        values = [getattr(detections, name)[np.lexsort(detections.boxes.round(3).T)] for detections in (left, right)]
        require(bool(np.allclose(values[0], values[1], rtol=1e-6, atol=1e-6)), f"{message}: their {name} differ")


def _cut_marks(detections: Detections, hidden: BoolArray, discs: list[tuple[float, float, float]]) -> None:
    side = len(hidden)
    for (x0, y0, x1, y1), marked in zip(detections.boxes, detections.cut, strict=True):
        window = hidden[max(0, int(y0) - 3) : int(y1) + 4, max(0, int(x0) - 3) : int(x1) + 4]
        free_of_edges = min(x0, y0) >= 3 and max(x1, y1) <= side - 3
        if marked and free_of_edges:
            require(bool(window.any()), "cut is set for an object that is nowhere near unscanned pixels")
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        for disc_x, disc_y, radius in discs:
            visible = hidden[min(round(disc_y), side - 1), min(round(disc_x + radius / 3) + 1, side - 1)]
            if visible and np.hypot(middle_x - disc_x, middle_y - disc_y) < radius / 2 and x1 - x0 < 2.2 * radius:
                require(bool(marked), "cut is not set for an object that runs into unscanned pixels")
