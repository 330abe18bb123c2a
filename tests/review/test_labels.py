import logging
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.errors import ResultsError
from slidepipe.review.corrected_counts import renew_corrected_tables, review_counts
from slidepipe.review.draw import sample_review
from slidepipe.review.labels import (
    WRONG_BOX,
    MissedFossil,
    genus_of_label,
    incomplete_last_line,
    read_labels,
    read_labels_file,
    read_missed,
)
from slidepipe.store.object_id import MissedId
from tests.made_results import GENERA, make, slide, table

HEAD = "object_id,genus,slide_id,x0,y0,x1,y1,who,when\n"
ANSWERS = ["azolla"] * 6 + ["deflandrea"] * 3 + [None] * 4 + ["unusable"]


def line(object_id: str, genus: str, box: str = "1,2,30,40", when: str = "2026-01-01T00:00:00+00:00") -> str:
    return f"{object_id},{genus},a,{box},anna,{when}\n"


def box(row: int) -> str:
    """The box of an object of :mod:`tests.made_results`."""
    return f"{row * 10},{row * 10 + 1},{row * 10 + 8},{row * 10 + 9}"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make(tmp_path / "r", {slide("a"): ANSWERS, slide("b", "200"): ANSWERS[:4], slide("c", "300"): None})
    return tmp_path / "r"


def test_last_line_counts(results: Path) -> None:
    """In a journal the last line of an object counts."""
    lines = [
        line("a:00000", "azolla"), line("a:00001", "spiniferites"), line("a:00000", "not a fossil"),
        line("a:00002", "azolla"), line("a:00002", "(withdrawn)"),
    ]  # fmt: skip
    (results / "labels.csv").write_text(HEAD + "".join(lines))
    assert read_labels(results) == {"a:00000": "", "a:00001": "spiniferites"}


def test_withdrawn_label(results: Path) -> None:
    """After a label is withdrawn, the label of review.csv counts again."""
    sample_review(results, 8)
    rows = table(results, "review.csv")
    rows.loc[0, "genus"] = "azolla"
    rows.to_csv(results / "review.csv", index=False)
    name = rows["object_id"][0]
    (results / "labels.csv").write_text(HEAD + line(name, "deflandrea"))
    assert read_labels(results)[name] == "deflandrea"
    (results / "labels.csv").write_text(HEAD + line(name, "deflandrea") + line(name, "(withdrawn)"))
    assert read_labels(results)[name] == "azolla"


def test_two_labels_without_journal(results: Path) -> None:
    """Two labels of an object are an error in a file that is no journal."""
    (results / "labels.csv").write_text("object_id,genus\na:00000,azolla\na:00000,deflandrea\n")
    with pytest.raises(ResultsError, match="has two labels"):
        read_labels(results)


@given(st.integers(0, 200))
def test_truncated_last_line(cut: int) -> None:
    """A last line cut at any byte is either read completely or ignored."""
    whole = line("a:00001", '"Genus, sp."')
    kept = whole[: min(cut, len(whole) - 1)]
    torn = incomplete_last_line(HEAD + line("a:00000", "azolla") + kept, 9)
    assert torn in (kept, "")
    if not torn and kept:  # the line counts as complete, so only the time may be cut
        assert kept.startswith('a:00001,"Genus, sp.",a,1,2,30,40,anna,')


def test_incomplete_line_is_ignored(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An incomplete last line is ignored with a warning."""
    (results / "labels.csv").write_text(HEAD + line("a:00000", "azolla") + "a:00001,spini")
    with caplog.at_level(logging.WARNING):
        assert read_labels(results) == {"a:00000": "azolla"}
    assert "the last line ('a:00001,spini') is incomplete" in caplog.text
    # In a file written by hand the last line may lack a line break.
    (results / "labels.csv").write_text("object_id,genus\na:00001,spini")
    assert read_labels(results) == {"a:00001": "spini"}


def test_missed_fossils(results: Path) -> None:
    """Fossils drawn by hand are read with their boxes."""
    drawn, gone = str(MissedId("a", 1)), str(MissedId("a", 2))
    (results / "labels.csv").write_text(
        HEAD + line(drawn, "azolla") + line(gone, "azolla") + line(gone, "(withdrawn)") + line("a:00000", "azolla")
    )
    assert read_missed(results) == [MissedFossil(drawn, "a", (1, 2, 30, 40), "azolla")]
    assert read_labels(results) == {"a:00000": "azolla"}
    (results / "labels.csv").write_text(HEAD + line(drawn, "azolla", box="1,2,,"))
    with pytest.raises(ResultsError, match="the box of a:missed-0001 is missing or damaged"):
        read_missed(results)


def test_reviewed_columns_of_counts_csv(results: Path) -> None:
    """counts.csv gets the reviewed columns with labels, and loses them without."""
    before = (results / "counts.csv").read_bytes()
    elsewhere = line(str(MissedId("gone", 1)), "azolla").replace(",a,", ",gone,")
    (results / "labels.csv").write_text(
        HEAD + line("a:00000", "Deflandrea", box(0)) + line("a:00001", "not a fossil", box(1)) + line("a:00009", "azolla", box(9))
        + line("a:00010", "newgenus", box(10)) + line(str(MissedId("a", 1)), "spiniferites") + elsewhere
    )  # fmt: skip
    renew_corrected_tables(results)
    rows = table(results, "counts.csv").set_index("sample_id")
    raw = pd.read_csv(results / "counts.csv", dtype=str, keep_default_na=False)
    assert list(raw.columns[-6:]) == ["labelled", "missed", *(f"reviewed_{name}" for name in [*GENERA, "newgenus"])]
    first = rows.loc["1/2-3 100 mDC"]
    assert (first["azolla"], first["deflandrea"], first["spiniferites"]) == (
        "6",
        "3",
        "0",
    )  # the counted columns do not change
    assert (first["reviewed_azolla"], first["reviewed_deflandrea"]) == ("5", "4")
    assert (first["reviewed_spiniferites"], first["reviewed_newgenus"]) == ("1", "1")
    assert (first["labelled"], first["missed"]) == ("4", "1")
    assert rows.loc["1/2-3 200 mDC", "reviewed_azolla"] == "4"
    assert rows.loc["1/2-3 300 mDC", "reviewed_azolla"] == ""  # failed: not known
    once = (results / "counts.csv").read_bytes()
    renew_corrected_tables(results)
    assert (results / "counts.csv").read_bytes() == once
    (results / "labels.csv").unlink()
    renew_corrected_tables(results)
    assert (results / "counts.csv").read_bytes() == before


@given(
    st.dictionaries(st.integers(0, 13), st.sampled_from(["", "azolla", "AZOLLA", "deflandrea", "other"]), max_size=14)
)
def test_review_counts(labels: dict[int, str]) -> None:
    """Reviewed counts equal a count of all objects with labels in place of answers."""
    objects = pd.DataFrame(
        {
            "object_id": [f"a:{row:05d}" for row in range(len(ANSWERS))],
            "sample_id": "s",
            "state": ["unknown" if answer is None else "unusable" if answer == "unusable" else "accepted" for answer in ANSWERS],
            "genus": [answer if answer != "unusable" else None for answer in ANSWERS],
        }
    )  # fmt: skip
    reviewed = review_counts(objects, {f"a:{row:05d}": label for row, label in labels.items()}, [], {"a": "s"}, GENERA)
    expected: dict[str, int] = {}
    for row, answer in enumerate(ANSWERS):
        name = labels.get(row, "" if answer in (None, "unusable") else str(answer)).lower()
        if name:
            expected[name] = expected.get(name, 0) + 1
    assert {genus: number for (_, genus), number in reviewed.counts.items()} == expected
    assert sum(reviewed.labelled.values()) == len(labels)


def test_wrong_box(results: Path) -> None:
    """A wrong box is kept as a label and counts as no fossil."""
    sample_review(results, 1000)
    name = line("a:00001", "Wrong_Box", box(1)) + line(str(MissedId("a", 1)), "wrong box")
    (results / "labels.csv").write_text(HEAD + line("a:00000", "not a fossil", box(0)) + name)
    assert read_labels(results) == {"a:00000": "", "a:00001": WRONG_BOX}
    assert (genus_of_label(WRONG_BOX), genus_of_label(""), genus_of_label("azolla")) == ("", "", "azolla")
    assert read_missed(results) == []
    renew_corrected_tables(results)
    rows = table(results, "counts.csv").set_index("sample_id")
    assert rows.loc["1/2-3 100 mDC", "reviewed_azolla"] == "4"
    assert f"reviewed_{WRONG_BOX}" not in rows.columns
    assert WRONG_BOX not in table(results, "corrected.csv")["genus"].tolist()


def test_label_of_other_box(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A label whose object has another box now is not counted, with a warning."""
    lines = line("a:00000", "deflandrea", box(0)) + line("a:00001", "deflandrea", box(7))
    (results / "labels.csv").write_text(HEAD + lines)
    renew_corrected_tables(results)
    rows = table(results, "counts.csv").set_index("sample_id")
    assert [rows.loc["1/2-3 100 mDC", name] for name in ("labelled", "reviewed_azolla", "reviewed_deflandrea")] == [
        "1",
        "5",
        "4",
    ]
    assert "1 labels are not counted, because their objects are no longer in these results" in caplog.text
    (results / "labels.csv").write_text(
        "object_id,genus\na:00001,deflandrea\n"
    )  # written by hand, without boxes: the label is kept
    renew_corrected_tables(results)
    assert table(results, "counts.csv")["reviewed_azolla"][0] == "5"


def test_missing_label_files(tmp_path: Path) -> None:
    assert read_labels_file(tmp_path / "labels.csv").objects == {}
    assert read_missed(tmp_path) == []
