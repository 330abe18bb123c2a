"""Labels that are written while several people work: nothing is lost, and every reader agrees."""

import tempfile
import threading
from pathlib import Path

import filelock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.errors import ResultsError
from slidepipe.review.labels import LABELS_FILE, read_labels, read_missed
from slidepipe.store.object_id import MissedId
from slidepipe.viewer import label_book
from slidepipe.viewer.label_book import LOCK, LabelBook, LabelEntry

BOX = (1, 2, 30, 40)


def entry(object_id: str, label: str | None) -> LabelEntry:
    return LabelEntry(object_id, label, "a", BOX)


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    """What the book writes is what `read_labels` reads; lines are only added."""
    book = LabelBook(tmp_path)
    assert book.write([entry("a:00000", "azolla"), entry("a:00001", "")], reviewer="anna, b.") == []
    book.write([entry("a:00000", None), entry("a:00002", "deflandrea")])
    assert book.labels() == read_labels(tmp_path) == {"a:00001": "", "a:00002": "deflandrea"}
    lines = (tmp_path / LABELS_FILE).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "object_id,genus,slide_id,x0,y0,x1,y1,who,when"
    assert lines[1].startswith('a:00000,azolla,a,1,2,30,40,"anna, b.",20')
    assert len(lines) == 5  # lines are only added


def test_file_written_by_hand_becomes_journal(tmp_path: Path) -> None:
    """A file with semicolons, a byte-order mark and a column of its own becomes a journal and keeps its cells."""
    (tmp_path / LABELS_FILE).write_text(
        "\ufeffobject_id;genus;remark\na:00000;azolla;nice\na:00001;;\n", encoding="utf-8"
    )
    book = LabelBook(tmp_path)
    assert book.labels() == {"a:00000": "azolla", "a:00001": ""}
    book.write([entry("a:00002", "azolla")])
    assert read_labels(tmp_path) == {"a:00000": "azolla", "a:00001": "", "a:00002": "azolla"}
    assert "nice" in (tmp_path / LABELS_FILE).read_text()
    book.write([entry("a:00000", "deflandrea")])
    assert read_labels(tmp_path)["a:00000"] == "deflandrea"


def test_copy_of_review_keeps_unreviewed_rows(tmp_path: Path) -> None:
    """In a copy of `review.csv` a row without a genus is still not a label after the first new line."""
    (tmp_path / LABELS_FILE).write_text("object_id,stratum,genus\na:00000,x,\na:00001,x,azolla\n")
    book = LabelBook(tmp_path)
    book.write([entry("a:00002", "")])
    assert read_labels(tmp_path) == {"a:00001": "azolla", "a:00002": ""}


def test_two_labels_for_one_object_are_an_error(tmp_path: Path) -> None:
    """A file without the column `when` does not show which of two labels is meant."""
    (tmp_path / LABELS_FILE).write_text("object_id,genus\na:00000,azolla\na:00000,deflandrea\n")
    with pytest.raises(ResultsError, match="has two labels"):
        LabelBook(tmp_path)


@pytest.mark.parametrize("incomplete", ["a:00001,azo", 'a:00001,"azo', "a", "a:00001,azolla,a,1,2,3"])
def test_incomplete_line_is_removed(tmp_path: Path, incomplete: str) -> None:
    """The next writer removes a line that a killed writer left incomplete."""
    book = LabelBook(tmp_path)
    book.write([entry("a:00000", "azolla")])
    with (tmp_path / LABELS_FILE).open("a") as file:
        file.write(incomplete)
    again = LabelBook(tmp_path)
    again.write([entry("a:00002", "deflandrea")])
    assert read_labels(tmp_path) == {"a:00000": "azolla", "a:00002": "deflandrea"}
    assert incomplete not in (tmp_path / LABELS_FILE).read_text().splitlines()


def test_complete_last_line_without_break_is_kept(tmp_path: Path) -> None:
    """Only the line break is missing, so the line is valid."""
    book = LabelBook(tmp_path)
    book.write([entry("a:00000", "azolla")])
    path = tmp_path / LABELS_FILE
    path.write_text(path.read_text().rstrip("\n"))
    book.write([entry("a:00001", "azolla")])
    assert set(read_labels(tmp_path)) == {"a:00000", "a:00001"}


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    """Three books in three threads write all their lines, and agree at the end."""
    books = [LabelBook(tmp_path) for _ in range(3)]

    def work(number: int) -> None:
        for row in range(15):
            books[number].write([entry(f"a:{100 * number + row:05d}", "azolla")])
            books[number].write_missed("a", BOX, "deflandrea")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_labels(tmp_path)) == 45
    assert len({item.object_id for item in read_missed(tmp_path)}) == 45
    assert all(book.labels() == read_labels(tmp_path) for book in books)


def test_undo_keeps_newer_label_of_other_writer(tmp_path: Path) -> None:
    """An entry is left out if its object does not have the expected label any more."""
    one, other = LabelBook(tmp_path), LabelBook(tmp_path)
    one.write([entry("a:00000", "azolla"), entry("a:00001", "azolla")])
    other.write([entry("a:00000", "deflandrea")])
    left = one.write([entry("a:00000", None), entry("a:00001", None)], expected=["azolla", "azolla"])
    assert left == ["a:00000"]
    assert read_labels(tmp_path) == {"a:00000": "deflandrea"}


def test_changed_since_includes_other_writers(tmp_path: Path) -> None:
    """Changes in the file are reported whoever wrote them."""
    one, other = LabelBook(tmp_path), LabelBook(tmp_path)
    one.write([entry("a:00000", "azolla")])
    at = one.sequence
    other.write([entry("a:00001", "azolla"), entry("a:00000", None)])
    assert one.changed_since(at) == {"a:00000", "a:00001"}
    assert one.changed_since(one.sequence) == set()


def test_number_of_deleted_fossil_is_not_reused(tmp_path: Path) -> None:
    """A deleted fossil keeps its id, so that an undo can restore it."""
    book = LabelBook(tmp_path)
    first = book.write_missed("a", BOX, "azolla")
    book.write([LabelEntry(first, None, "a", BOX)])
    assert book.missed() == []
    assert book.missed_fossil(first) is not None  # an undo can restore it
    assert book.write_missed("a", BOX, "azolla") == "a:missed-0002"
    book.write([LabelEntry(first, "deflandrea", "a", BOX)])
    assert [item.genus for item in book.missed()] == ["deflandrea", "azolla"]


def test_locked_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file; after the lock is released the label is written."""
    monkeypatch.setattr(label_book, "_LOCK_SECONDS", 0.05)
    book = LabelBook(tmp_path)
    with (
        filelock.FileLock(tmp_path / LOCK),
        pytest.raises(ResultsError, match=r"labels\.csv: another program has locked the file"),
    ):
        book.write([entry("a:00000", "azolla")])
    book.write([entry("a:00000", "azolla")])
    assert book.labels() == {"a:00000": "azolla"}


@settings(deadline=None)  # every label is written to the disk, which takes long on a busy machine
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["azolla", "deflandrea", "", None]), st.booleans()), max_size=20
    )
)
def test_book_agrees_with_reader(steps: list[tuple[int, str | None, bool]]) -> None:
    """After any sequence of writes, two books and `read_labels` hold the same labels."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        book, other = LabelBook(results), LabelBook(results)
        for row, label, by_other in steps:
            writer = other if by_other else book
            name = str(MissedId("a", row)) if row > 3 else f"a:{row:05d}"
            writer.write([entry(name, label)])
            assert writer.labels() == read_labels(results)
        assert book.labels() == other.labels() == read_labels(results)
        assert book.missed() == other.missed() == read_missed(results)
