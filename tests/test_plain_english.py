"""The check for plain English finds the words it is meant to find, and leaves other words alone."""

from pathlib import Path

import pytest

from tests import plain_english


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that gives the words found in a line of text."""
    monkeypatch.setattr(plain_english, "ROOT", tmp_path)

    def find(text: str) -> list[str]:
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return [words for _, words, _ in plain_english.find_words(path)]

    return find


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The user is told.", ["told"]),
        ("_told(summary)", ["told"]),
        ("Mends the folder anew", ["Mends", "anew"]),
        ("one row a sample", ["one row a sample"]),
        ("8 bytes a pixel", ["8 bytes a pixel"]),
        ("the cards of a machine", ["cards"]),
        ("backbone.beside", ["beside"]),
        ("class Index:", ["class Index"]),
    ],
)
def test_old_words_found(found, text: str, words: list[str]) -> None:
    assert found(text) == words


@pytest.mark.parametrize(
    "text", ["one row per sample", "a discarded amendment", "an index of a sample", "welfare", "class IndexPage:"]
)
def test_other_words_left_alone(found, text: str) -> None:
    assert found(text) == []


def test_allowed_words(found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_english, "ALLOWED", {"page.md": ("views",)})
    assert found("views are told") == ["told"]
