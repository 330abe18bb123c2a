"""The object of a crop on an even background."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from slidepipe.crops.isolate import align_to_long_axis, find_object, isolate, long_axis, rotate_object

EVEN = 230
PAPER = (235, 228, 220)
BROWN = (190, 130, 60)
BLACK = (12, 10, 10)


def drawn_crop(wall: tuple[int, int, int] = (190, 150, 90)) -> np.ndarray:
    """Draw a ring with an empty inside in the middle, and a black shard in the corner."""
    side = 200
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    draw.ellipse((side * 0.2, side * 0.2, side * 0.8, side * 0.8), outline=wall, width=side // 20)
    draw.polygon([(0, 0), (side * 0.12, 0), (0, side * 0.12)], fill=(20, 15, 15))
    return np.asarray(image)


def test_isolate_removes_neighbour():
    """The ring stays, the shard in the corner becomes background."""
    crop = drawn_crop()
    alone = isolate(crop)
    assert alone.shape == crop.shape
    assert alone.dtype == np.uint8
    assert (alone[:30, :30] == EVEN).all(), "the shard in the corner is not part of the object"
    wall = crop[44, 100].astype(float) / np.array(PAPER)
    np.testing.assert_allclose(alone[44, 100], wall * EVEN, atol=2)


def test_isolate_keeps_what_object_encloses():
    """A dark spot inside the ring belongs to the object."""
    crop = drawn_crop().copy()
    crop[95:105, 95:105] = (120, 60, 30)
    assert (isolate(crop)[97:103, 97:103] < 200).all()


def test_isolate_finds_pale_object():
    """A pale object is found although a dark shard lies in the crop."""
    crop = drawn_crop(wall=tuple(int(value * 0.93) for value in PAPER))
    alone = isolate(crop)
    assert (alone[:20, :20] == EVEN).all()
    assert abs(float(alone[44, 100].mean()) - 0.93 * EVEN) < 3


def test_isolate_without_object():
    """Where nothing differs from the background, the whole crop is the object."""
    crop = np.full((40, 60, 3), 200, np.uint8)
    assert (isolate(crop) == EVEN).all()
    found, dirt = find_object(np.full((40, 60, 3), EVEN, np.uint8))
    assert found.all()
    assert not dirt.any()


def cyst(*dirt: tuple[str, tuple[int, ...], tuple[int, int, int]]) -> np.ndarray:
    """Draw a brown disc in the middle, and shapes over it: (ellipse or rectangle, box, colour)."""
    image = Image.new("RGB", (200, 200), PAPER)
    draw = ImageDraw.Draw(image)
    draw.ellipse((50, 50, 150, 150), fill=BROWN)
    for shape, box, colour in dirt:
        getattr(draw, shape)(box, fill=colour)
    return np.asarray(image)


def differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other).max(axis=2) > 12


def test_isolate_removes_touching_black_dirt():
    """A black shard at the object's edge is removed, the object stays."""
    clean = isolate(cyst())
    alone = isolate(cyst(("rectangle", (140, 90, 195, 120), BLACK)))
    assert (alone[90:120, 158:] >= EVEN - 4).all()
    assert not differs(alone, clean)[:, :120].any()


def test_isolate_fills_under_black_dirt():
    """Dirt on top of the object is replaced by the object's own colour."""
    alone = isolate(cyst(("ellipse", (90, 90, 112, 112), BLACK)))
    assert not differs(alone, isolate(cyst())).any()


def test_isolate_keeps_black_object():
    """A black object, the dark middle of a brown one, and a thin black fold stay."""
    black = cyst(("ellipse", (50, 50, 150, 150), BLACK))
    assert (isolate(black)[60:140, 90:110] < 30).all()
    # The dark middle of a brown object, and a thin black fold, stay too.
    core = isolate(cyst(("ellipse", (65, 65, 135, 135), BLACK)))
    assert (core[80:120, 80:120] < 30).all()
    assert core[57, 100, 0] > 100, "the brown wall around it stays"
    fold = isolate(cyst(("rectangle", (70, 98, 130, 100), BLACK)))
    assert (fold[99, 80:120] < 60).all()


def test_isolate_removes_cut_neighbour():
    """A neighbour that touches the object and is cut by the crop's edge is removed."""
    clean = isolate(cyst())
    alone = isolate(cyst(("ellipse", (150, 85, 215, 125), BROWN)))
    assert (alone[80:130, 165:] >= EVEN - 4).all()
    assert not differs(alone, clean)[:, :130].any()


def test_isolate_keeps_halves_and_horns():
    """Two sacs of equal size stay, and so does a horn whose tip touches the crop's edge."""
    # The two sacs have the same size; the tip of the horn lies at the edge of the crop.
    sacs = cyst(("ellipse", (135, 55, 225, 145), BROWN))
    assert (isolate(sacs)[90:110, 160:198, 0] < 200).all()
    image = Image.fromarray(cyst())
    ImageDraw.Draw(image).polygon([(145, 85), (199, 99), (145, 115)], fill=BROWN)
    assert (isolate(np.asarray(image))[98:101, 150:190, 0] < 200).all()


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(0.75, 1.0)] * 3))
def test_isolate_ignores_scanner_light(light):
    """Scaling the channels does not change the isolated object."""
    crop = drawn_crop()
    dimmed = np.rint(crop * np.array(light)).astype(np.uint8)
    difference = isolate(crop).astype(int) - isolate(dimmed).astype(int)
    assert np.percentile(np.abs(difference), 99) <= 4


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_isolate_commutes_with_quarter_turns(turns):
    """Isolating a rotated crop gives the rotated isolated object."""
    crop = drawn_crop()
    difference = np.rot90(isolate(crop), turns).astype(int) - isolate(np.rot90(crop, turns)).astype(int)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (300, 2, 3), (700, 500, 3)])
def test_isolate_any_size(shape):
    """Very small, very narrow and large crops keep their size."""
    crop = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert isolate(crop).shape == shape


def bar(long_px: int = 120, wide_px: int = 20) -> np.ndarray:
    """Draw an isolated brown bar on an even background."""
    alone = np.full((wide_px + 10, long_px + 10, 3), EVEN, np.uint8)
    alone[5:-5, 5:-5] = (150, 110, 60)
    return alone


def test_rotate_object_fits_box():
    """The rotated object's box is tight, and rotating back restores the object."""
    slanting = rotate_object(bar(), 45)
    across = (120 + 20) / np.sqrt(2)
    np.testing.assert_allclose(slanting.shape[:2], (across, across), atol=3)
    level = rotate_object(slanting, -45)
    np.testing.assert_allclose(level.shape, (20, 120, 3), atol=4)
    np.testing.assert_allclose(level[10, 20:100], np.broadcast_to((150, 110, 60), (80, 3)), atol=2)


@settings(max_examples=20, deadline=None)
@given(st.floats(-360, 360))
def test_rotate_object_keeps_total_density(degrees):
    """Rotation neither adds to the object nor removes from it."""
    alone = isolate(drawn_crop())
    lost = np.subtract(*((EVEN - picture.astype(float)).sum() for picture in (alone, rotate_object(alone, degrees))))
    assert abs(lost) < 0.02 * (EVEN - alone.astype(float)).sum()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (40, 60, 3)])
def test_rotate_object_without_object(shape):
    """An empty crop can be rotated."""
    assert (rotate_object(np.full(shape, EVEN, np.uint8), 45) == EVEN).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(-180, 180), st.floats(1.8, 6))
def test_align_to_long_axis_is_rotation_invariant(degrees, elongation):
    """The aligned object does not depend on how the object lay."""
    lies, slanting = bar(140, round(140 / elongation)), rotate_object(bar(140, round(140 / elongation)), degrees)
    angle, measured = long_axis(slanting)
    assert abs((angle - degrees + 90) % 180 - 90) < 3
    np.testing.assert_allclose(measured, elongation, rtol=0.12)
    for one, other in zip(align_to_long_axis(lies), align_to_long_axis(slanting), strict=True):
        np.testing.assert_allclose(one.shape, other.shape, atol=8)


def test_align_to_long_axis_leaves_round_objects():
    """An object that is not elongated is returned itself."""
    lies = bar(100, 80)
    along, across = align_to_long_axis(lies)
    assert along is lies
    np.testing.assert_array_equal(across, rotate_object(lies, 45))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (40, 60, 3)])
@pytest.mark.parametrize("light", [EVEN, 120])
def test_align_to_long_axis_any_size(shape, light):
    """Very small and empty crops can be aligned."""
    assert all(pose.size for pose in align_to_long_axis(np.full(shape, light, np.uint8)))
