import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.store.object_id import MissedId, ObjectId, rows_of, slide_of

SLIDES = st.text(min_size=1)


@given(SLIDES, st.integers(0, 10**9))
def test_round_trip(slide_id: str, number: int) -> None:
    """Both kinds of names are read as they were written, whatever the slide is called, and are never taken for each other."""
    detected, drawn = ObjectId(slide_id, number), MissedId(slide_id, number)
    assert ObjectId.parse(str(detected)) == detected
    assert MissedId.parse(str(drawn)) == drawn
    assert MissedId.parse(str(detected)) is None
    assert ObjectId.parse(str(drawn)) is None
    assert slide_of(str(detected)) == slide_of(str(drawn)) == slide_id


def test_text_format() -> None:
    """The text is stored in tables and labels, so it must not change."""
    assert str(ObjectId("a b/c", 12)) == "a b/c:00012"
    assert str(ObjectId("a", 123456)) == "a:123456"
    assert str(MissedId("a", 1)) == "a:missed-0001"
    assert MissedId.parse("x: y/missed-1:missed-0012") == MissedId("x: y/missed-1", 12)
    assert MissedId.parse("missed-0001:00012") is None


@pytest.mark.parametrize("text", ["", "a", "a:", "00012", "a:1.5", "a:-1", "a:²", "a:x"])
def test_other_text_is_not_an_object(text: str) -> None:
    assert ObjectId.parse(text) is None
    assert MissedId.parse(text) is None


def test_rows_of() -> None:
    assert rows_of(["a:00002", "b: c:00000"]).tolist() == [2, 0]
    assert len(rows_of([])) == 0
    with pytest.raises(ValueError, match="missed"):
        rows_of(["a:missed-0001"])
