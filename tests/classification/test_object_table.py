"""The only reader and writer of objects.parquet."""

from pathlib import Path

import pyarrow as pa
import pytest

from slidepipe.classification.object_table import SCHEMA, ObjectTable, SlideObjects
from slidepipe.crops.quality import RULES
from slidepipe.errors import ResultsError
from tests.made_results import objects_of, slide


@pytest.fixture
def table(tmp_path: Path) -> ObjectTable:
    """Two slides: an accepted, an unknown and an unusable object, then an accepted one with neighbours."""
    of = slide("b", "200")
    near = objects_of(of, ["deflandrea"]).table.to_pylist()
    near[0]["nearest"] = [{"genus": "deflandrea", "reference": "deflandrea/1.png", "distance": 0.5}]
    made = ObjectTable(tmp_path)
    made.write(
        iter(
            [
                objects_of(slide("a"), ["azolla", None, "unusable"]),
                SlideObjects(of.slide_id, pa.Table.from_pylist(near, schema=SCHEMA)),
            ]
        )
    )
    return made


def test_read_returns_slides_in_order(table: ObjectTable) -> None:
    """All rows are returned, slide after slide, with all columns or those asked for."""
    assert list(table.read().columns) == SCHEMA.names
    states = table.read(["object_id", "state"])
    assert list(states.columns) == ["object_id", "state"]
    assert list(states["object_id"]) == ["a:00000", "a:00001", "a:00002", "b:00000"]
    assert list(states["state"]) == ["accepted", "unknown", "unusable", "accepted"]


def test_read_accepted(table: ObjectTable) -> None:
    """Only accepted objects are returned."""
    assert list(table.read_accepted(["genus"])["genus"]) == ["azolla", "deflandrea"]


def test_rows_of_slide_and_of_objects(table: ObjectTable) -> None:
    """Rows are found by slide and by id; unknown ids are left out, and no ids give no rows."""
    assert table.rows(["object_id"], "b") == [{"object_id": "b:00000"}]
    assert len(table.rows(["object_id"])) == 4
    assert table.rows_of(["b:00000", "a:00001", "c:00000"], ["state"]) == {
        "a:00001": {"object_id": "a:00001", "state": "unknown"},
        "b:00000": {"object_id": "b:00000", "state": "accepted"},
    }
    assert table.rows_of([], ["state"]) == {}


def test_nearest(table: ObjectTable) -> None:
    """Neighbours are returned by object id; an object without neighbours has an empty list."""
    assert table.nearest(["a:00000", "b:00000"]) == {
        "a:00000": [],
        "b:00000": [{"genus": "deflandrea", "reference": "deflandrea/1.png", "distance": 0.5}],
    }


def test_copy(table: ObjectTable, tmp_path: Path) -> None:
    """A copy holds the same rows."""
    (tmp_path / "copy").mkdir()
    table.copy(tmp_path / "copy" / "objects.parquet")
    assert ObjectTable(tmp_path / "copy").rows(SCHEMA.names) == table.rows(SCHEMA.names)


@pytest.mark.parametrize("content", [None, b"not parquet"])
def test_unreadable_table_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    """A table that is missing or damaged is an error that names the file and the fix."""
    if content is not None:
        (tmp_path / "objects.parquet").write_bytes(content)
    with pytest.raises(ResultsError, match=r"objects\.parquet: cannot be read .* Run the same command again"):
        ObjectTable(tmp_path).read()


def test_interrupted_write_leaves_earlier_table(table: ObjectTable) -> None:
    """A table appears under its name only when it is complete."""

    def slides():
        yield objects_of(slide("c"), ["azolla"])
        raise KeyboardInterrupt

    before = table.path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        table.write(slides())
    assert table.path.read_bytes() == before


def test_every_quality_rule_has_a_column() -> None:
    """A new quality rule reaches the object table without a change of the schema."""
    assert SCHEMA.names[-len(RULES) :] == [rule.column for rule in RULES]
