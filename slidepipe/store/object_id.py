"""The names of objects in tables, labels and pages, for example `6407_6-5 1430.43 mC:00012`.

An object that was detected is named after its slide and its row in the slide's table. A fossil that the detector missed and a
reviewer drew by hand is named `SLIDE_ID:missed-0001`. A slide id may contain colons, so the last colon separates the two parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from slidepipe.interfaces import IntArray

_MISSED = "missed-"


@dataclass(frozen=True)
class ObjectId:
    """The name of a detected object. `str(ObjectId("a", 12))` is `a:00012`.

    Attributes:
        slide_id: the slide, named as in `counts_slides.csv`.
        row: the row of the object in the tables of its slide, from 0.
    """

    slide_id: str
    row: int

    def __str__(self) -> str:
        return f"{self.slide_id}:{self.row:05d}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the object that `text` names, or None if it does not name a detected object. `a:12` names `a:00012`."""
        slide_id, colon, row = text.rpartition(":")
        return cls(slide_id, int(row)) if colon and row.isascii() and row.isdigit() else None


@dataclass(frozen=True)
class MissedId:
    """The name of a fossil that a reviewer drew by hand. `str(MissedId("a", 1))` is `a:missed-0001`.

    Attributes:
        slide_id: the slide, named as in `counts_slides.csv`.
        number: the number of the fossil among those drawn on the slide, from 1.
    """

    slide_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.slide_id}:{_MISSED}{self.number:04d}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the fossil that `text` names, or None if it does not name a fossil that was drawn by hand."""
        slide_id, colon, name = text.rpartition(":")
        number = name.removeprefix(_MISSED)
        return (
            cls(slide_id, int(number)) if colon and number != name and number.isascii() and number.isdigit() else None
        )


def slide_of(object_id: str) -> str:
    """Return the slide id in the name of a detected or drawn object; an empty string if it has none."""
    return object_id.rpartition(":")[0]


def rows_of(object_ids: Iterable[str]) -> IntArray:
    """Return the rows of detected objects in the tables of their slides.

    Args:
        object_ids: names of detected objects, for example a column of `objects.parquet`.

    Returns:
        int64 (N,).

    Raises:
        ValueError: a name is not that of a detected object.
    """
    return np.array([int(object_id.rpartition(":")[2]) for object_id in object_ids], np.int64)
