from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.errors import ResolutionError, SlideError
from slidepipe.slides.geometry import Box, Level, LostRegion, SlideMeta, check_mpp, check_scan_size

edges = st.integers(-(2**40), 2**40)
boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h), edges, edges, st.integers(0, 2**40), st.integers(0, 2**40)
)
points = st.tuples(st.integers(-20, 20), st.integers(-20, 20))
small = st.integers(-15, 15)
small_boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h), small, small, st.integers(0, 20), st.integers(0, 20)
)


def holds(box: Box, x: int, y: int) -> bool:
    return box.x0 <= x < box.x1 and box.y0 <= y < box.y1


@given(small_boxes, small_boxes, points)
def test_intersection_holds_points_of_both(one: Box, other: Box, point: tuple[int, int]) -> None:
    """A point lies in the intersection exactly if it lies in both boxes."""
    assert holds(one.intersection(other), *point) == (holds(one, *point) and holds(other, *point))


@given(boxes, boxes)
def test_intersection_has_no_negative_side(one: Box, other: Box) -> None:
    common = one.intersection(other)
    assert common.width >= 0
    assert common.height >= 0
    assert one.intersection(one) == one


@given(boxes)
def test_box_text_round_trip(box: Box) -> None:
    assert Box.parse(str(box)) == box


def test_box_text() -> None:
    """The text stands in failures.csv and in stored attributes, so it must not change."""
    assert str(Box(0, -1, 20, 300)) == "0,-1,20,300"
    with pytest.raises(ValueError, match="not enough values"):
        Box.parse("1,2,3")


@given(boxes, st.text())
def test_lost_region_round_trip(box: Box, reason: str) -> None:
    stored = LostRegion(box, reason).to_stored()
    assert stored == [str(box), reason]
    assert LostRegion.from_stored(stored) == LostRegion(box, reason)


def meta(width_px: int, mpp: float) -> SlideMeta:
    level = Level(0, width_px, 10, 1.0, 1.0, 1.0)
    return SlideMeta(
        Path("x.svs"), "aperio", width_px, 10, mpp, mpp, None, Box(0, 0, width_px, 10), (255, 255, 255), (level,)
    )


def test_scan_larger_than_glass() -> None:
    check_scan_size(meta(300_000, 1.0))
    with pytest.raises(SlideError, match=r"x.svs: 300001 x 10 px of 1 um make 300 x 0 mm, more than any glass slide"):
        check_scan_size(meta(300_001, 1.0))


@pytest.mark.parametrize("mpp", [0.0199, 20.1, float("nan"), float("inf"), -1.0])
def test_implausible_mpp(mpp: float) -> None:
    with pytest.raises(ResolutionError, match=r"^x.svs: .* um per pixel is not a resolution of a slide scan"):
        check_mpp(mpp, "x.svs")


def test_plausible_mpp() -> None:
    assert [check_mpp(mpp, "x") for mpp in (0.02, 0.25, 20.0)] == [0.02, 0.25, 20.0]
