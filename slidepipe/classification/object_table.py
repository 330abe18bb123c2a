"""The object table, `objects.parquet`: one row per detected object. Every count of a run can be recomputed from it.

`ObjectTable` is the only reader and writer of the file. A new column is added to `SCHEMA` here and filled in
`slidepipe.classification.classify_slide`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slidepipe.crops.quality import RULES
from slidepipe.errors import ResultsError
from slidepipe.store.files import write_file

OBJECTS_FILE = "objects.parquet"

#: The states of an object: counted as a genus; like none of the genera; or not to be judged, for the reason in `reason`.
ACCEPTED, UNKNOWN, UNUSABLE = "accepted", "unknown", "unusable"
STATES = (ACCEPTED, UNKNOWN, UNUSABLE)

#: One reference image near an object, and its distance in the head's metric.
_NEIGHBOUR = pa.struct([("genus", pa.string()), ("reference", pa.string()), ("distance", pa.float64())])

#: The columns of `objects.parquet`, in order. Boxes are half-open, in level-0 pixels of the whole slide. `genus` is null unless
#: the state is accepted; `candidate` is the best genus even where it was not accepted. `reason` says why an object is unusable.
#: The last columns are the properties that the quality rules measure (`slidepipe.crops.quality`).
SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("sample_id", pa.string()),
        ("well", pa.string()),
        ("depth_m", pa.float64()),
        ("sample_type", pa.string()),
        ("object_id", pa.string()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("x1", pa.int64()),
        ("y1", pa.int64()),
        ("width_um", pa.float64()),
        ("height_um", pa.float64()),
        ("area_um2", pa.float64()),
        ("detect_score", pa.float64()),
        ("state", pa.string()),
        ("genus", pa.string()),
        ("p_value", pa.float64()),
        ("distance", pa.float64()),
        ("nearest", pa.list_(_NEIGHBOUR)),
        ("candidate", pa.string()),
        ("reason", pa.string()),
        *((rule.column, pa.float64()) for rule in RULES),
    ]
)


@dataclass(frozen=True)
class SlideObjects:
    """The objects of one slide.

    Attributes:
        slide_id: the slide.
        table: its rows, in the order of the slide's store, with the columns of `SCHEMA`.
    """

    slide_id: str
    table: pa.Table


class ObjectTable:
    """The object table of one RESULTS folder.

    Nothing is kept in memory between calls. Columns and rows that are not asked for are not loaded, which matters because the
    column `nearest` is most of the file.
    """

    def __init__(self, results: Path) -> None:
        """Name the table of the folder `results`. The file is opened by the methods, not here."""
        self.path = results / OBJECTS_FILE

    def write(self, slides: Iterable[SlideObjects]) -> None:
        """Write the table slide by slide, so that a well's objects are never in memory together.

        The file appears under its name when it is complete.

        Args:
            slides: consumed one at a time, in the order of the rows.
        """

        def write_part(path: Path) -> None:
            with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
                for slide in slides:
                    writer.write_table(slide.table)

        write_file(self.path, write_part)

    def copy(self, path: Path) -> None:
        """Write all rows and columns to another Parquet file.

        Raises:
            ResultsError: the table cannot be read.
        """
        pq.write_table(self._read(None), path, compression="zstd")

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return all objects as a data frame.

        Args:
            columns: names from `SCHEMA`; None reads all of them.

        Raises:
            ResultsError: the table cannot be read.
        """
        frame: pd.DataFrame = self._read(columns).to_pandas()
        return frame

    def read_accepted(self, columns: Sequence[str]) -> pd.DataFrame:
        """Return the objects that were accepted as a genus, as a data frame.

        Raises:
            ResultsError: the table cannot be read.
        """
        frame: pd.DataFrame = self._read(columns, ("state", "=", ACCEPTED)).to_pandas()
        return frame

    def rows(self, columns: Sequence[str], slide_id: str | None = None) -> list[dict[str, Any]]:
        """Return objects as dictionaries, in the order of the table.

        Args:
            columns: names from `SCHEMA`.
            slide_id: only the objects of this slide; None returns those of all slides.

        Raises:
            ResultsError: the table cannot be read.
        """
        rows: list[dict[str, Any]] = self._read(
            columns, None if slide_id is None else ("slide_id", "==", slide_id)
        ).to_pylist()
        return rows

    def rows_of(self, object_ids: Iterable[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return some objects by their ids. An id that the table does not hold is left out.

        Args:
            object_ids: the ids, `SLIDE_ID:NUMBER`.
            columns: names from `SCHEMA`; `object_id` is always read.

        Raises:
            ResultsError: the table cannot be read.
        """
        wanted = sorted(set(object_ids))
        if not wanted:  # pyarrow cannot infer the type of an empty set
            return {}
        table = self._read(list(dict.fromkeys(["object_id", *columns])), ("object_id", "in", wanted))
        return {row["object_id"]: row for row in table.to_pylist()}

    def nearest(self, object_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the nearest reference images of some objects, by object id.

        Each list holds `genus`, `reference` (the image file) and `distance`, nearest first. It is empty where an object's pixels
        could not be read.

        Raises:
            ResultsError: the table cannot be read.
        """
        return {
            object_id: list(row["nearest"] or []) for object_id, row in self.rows_of(object_ids, ["nearest"]).items()
        }

    def _read(self, columns: Sequence[str] | None, condition: tuple[str, str, object] | None = None) -> pa.Table:
        try:
            return pq.read_table(
                self.path,
                columns=None if columns is None else list(columns),
                filters=None if condition is None else [condition],
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise ResultsError(
                f"{self.path}: cannot be read ({error}). Run the same command again to write it again"
            ) from error
