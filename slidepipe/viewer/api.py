"""Routes of data: what the scripts of the pages request, as JSON, and the labels that they send.

Objects are sent as columns of small numbers, because a page may show a hundred thousand of them. Object ids come from here: the
scripts never build or split one.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from slidepipe.classification.object_table import STATES
from slidepipe.review.labels import EDGES, WRONG_BOX, genus_of_label, parse_label
from slidepipe.store.object_id import MissedId
from slidepipe.viewer.colours import css_colours
from slidepipe.viewer.label_book import LabelEntry
from slidepipe.viewer.reference_images import may_have_image, short_name
from slidepipe.viewer.results_index import ALL, SORTS, Query, ResultsIndex
from slidepipe.viewer.scans import scan_bounds, why_missing
from slidepipe.viewer.state import NOT_CACHED, ViewerState, read_body
from slidepipe.viewer.tiles import OVERLAP_PX, TILE_PX

#: Columns of an object that the panel of the slide page shows.
_OBJECT_COLUMNS = (
    "object_id", "slide_id", "sample_id", "state", "genus", "candidate", "reason", "p_value", "distance", "width_um",
    "height_um",
)  # fmt: skip

#: The shortest side of a drawn box, in level-0 pixels.
_MIN_BOX_PX = 4

Genus = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\W_][^\x00-\x1f\x7f]*$")]
Label = Annotated[str, Field(max_length=120, pattern=r"^([^\W_][^\x00-\x1f\x7f]*)?$")]
Reviewer = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class LabelBody(_Body):
    """One label: a genus, "" for not a fossil, "wrong box", or null to withdraw it."""

    object_id: str = Field(max_length=2000)
    label: Label | None


class LabelsBody(_Body):
    """Labels to write. A label is left out if its object does not have the label in `expected` any more."""

    labels: list[LabelBody] = Field(max_length=200_000)
    expected: list[Label | None] | None = None
    reviewer: Reviewer = ""


class MissedBody(_Body):
    """A fossil that the detector missed; `box` is x0, y0, x1, y1, half-open, level-0 pixels of the whole slide."""

    slide_id: str
    box: tuple[int, int, int, int]
    genus: Genus
    reviewer: Reviewer = ""


def routes(state: ViewerState) -> list[BaseRoute]:
    """Return the routes of data."""
    compressed = [Middleware(GZipMiddleware, compresslevel=3)]
    return [
        Route("/api/objects", partial(_objects, state), middleware=compressed),
        Route("/api/object/{number:int}", partial(_object, state), middleware=compressed),
        Route("/api/slide/{slide:int}", partial(_slide, state), middleware=compressed),
        Route("/api/counts", partial(_counts, state), middleware=compressed),
        Route("/api/labels", partial(_labels, state), methods=["GET"], middleware=compressed),
        Route("/api/labels", partial(_add_labels, state), methods=["POST"]),
        Route("/api/missed", partial(_add_missed, state), methods=["POST"]),
    ]


# -- objects and slides ---------------------------------------------------------------------------------------------------


def _objects(state: ViewerState, request: Request) -> Response:
    """Return the objects of a query, in its order."""
    index = state.opened.index
    numbers = index.select(_query(request), state.opened.labels())
    return _json({"version": index.version, "number": numbers.tolist(), **_columns(index, index.objects.iloc[numbers])})


def _query(request: Request) -> Query:
    values = request.query_params
    sort, labelled, seed = values.get("sort", "certain"), values.get("labelled", "any"), values.get("seed", "0")
    if sort not in SORTS or labelled not in ("any", "yes", "no") or not seed.isdigit():
        raise HTTPException(
            400, f"sort must be one of {', '.join(SORTS)}; labelled must be any, yes or no; seed must be a number"
        )
    return Query(values.get("name", ALL), values.get("sample", ""), sort, labelled, int(seed))  # type: ignore[arg-type]  # checked above


def _object(state: ViewerState, request: Request) -> Response:
    """Return an object with its box and its neighbours in the reference set."""
    index, number = state.requested_object(request)
    row = index.objects.iloc[number]
    cells = {name: None if pd.isna(row[name]) else row[name] for name in _OBJECT_COLUMNS}
    nearest = [
        {
            **neighbour,
            "has_image": may_have_image(index, neighbour["reference"]),
            "reference": short_name(neighbour["reference"]),
        }
        for neighbour in index.nearest(number)
    ]
    return _json({"version": index.version, "number": number, **cells, "box": _box(row), "nearest": nearest})


def _slide(state: ViewerState, request: Request) -> Response:
    """Return what is needed to show a slide's scan, and its objects with their boxes."""
    index, number = state.requested_slide(request)
    record = index.slides[number]
    bounds = scan_bounds(record)
    missing = state.pixel_threads.submit(why_missing, record, state.scans).result()
    rows = index.objects[index.objects["slide_id"] == record.slide_id]
    scan = {
        "slide_id": record.slide_id,
        "sample_id": record.sample_id,
        "missing": missing,
        "bounds": [bounds.x0, bounds.y0, bounds.x1, bounds.y1],
        "mpp": [record.opened.mpp_x, record.opened.mpp_y],
        "tile_px": TILE_PX,
        "overlap_px": OVERLAP_PX,
        "colours": css_colours(index),
    }
    boxes = rows[list(EDGES)].to_numpy().tolist()
    numbers = [int(row) for row in rows.index]
    return _json({"version": index.version, **scan, "number": numbers, **_columns(index, rows), "boxes": boxes})


def _counts(state: ViewerState, request: Request) -> Response:
    """Return raw, reviewed and corrected counts."""
    return _json({"sequence": state.opened.book.sequence, **state.opened.counts()})


def _columns(index: ResultsIndex, rows: pd.DataFrame) -> dict[str, Any]:
    """Return objects as columns.

    `slide` holds numbers of slides, `state` positions in `states`, `name` positions in `names` (-1 without a name).
    """
    names = {name: place for place, name in enumerate(index.names)}
    slides = {slide.slide_id: place for place, slide in enumerate(index.slides)}
    states = {state: place for place, state in enumerate(STATES)}
    genus_or_candidate = rows["genus"].where(rows["genus"].notna(), rows["candidate"])
    return {
        "states": list(STATES),
        "names": index.names,
        "object_id": rows["object_id"].tolist(),
        "slide": rows["slide_id"].map(slides).tolist(),
        "state": rows["state"].map(states).tolist(),
        "name": [names.get(name, -1) for name in genus_or_candidate],
        "p_value": _rounded(rows["p_value"]),
        "distance": _rounded(rows["distance"]),
    }


def _rounded(column: "pd.Series[Any]") -> list[float | None]:
    """Return numbers with three decimals; None for NaN, which JSON does not have."""
    values = np.round(column.to_numpy(float), 3)
    return [None if np.isnan(value) else value for value in values.tolist()]


# -- labels ---------------------------------------------------------------------------------------------------------------


def _labels(state: ViewerState, request: Request) -> Response:
    """Return the drawn fossils, and all labels or, with `epoch` and `since`, those that changed.

    A withdrawn label is null.
    """
    book = state.opened.book
    since = request.query_params.get("since", "")
    labels, missed = state.opened.labels(), {item.object_id: item for item in book.missed()}
    complete = request.query_params.get("epoch") != state.epoch or not since.isdigit()
    sequence = book.sequence
    ids = labels.keys() | missed.keys() if complete else book.changed_since(int(since))
    return _json(
        {
            "epoch": state.epoch,
            "sequence": sequence,
            "complete": complete,
            "labels": {name: missed[name].genus if name in missed else labels.get(name) for name in ids},
            "missed": [
                {"object_id": item.object_id, "slide_id": item.slide_id, "box": list(item.box), "genus": item.genus}
                for item in missed.values()
            ],
        }
    )


async def _add_labels(state: ViewerState, request: Request) -> Response:
    """Write labels. The answer is sent when they are on the disk."""
    body = await read_body(request, LabelsBody)
    if body.expected is not None and len(body.expected) != len(body.labels):
        raise HTTPException(400, "expected: give one label per object")
    return await asyncio.to_thread(_write_labels, state, body)


def _write_labels(state: ViewerState, body: LabelsBody) -> Response:
    index, book = state.opened.index, state.opened.book
    labels = _normalised(index, [item.label for item in body.labels])
    entries = [_entry(state, index, item.object_id, label) for item, label in zip(body.labels, labels, strict=True)]
    expected = None if body.expected is None else _normalised(index, body.expected)
    left_out = book.write(entries, body.reviewer, expected)
    return _json({"sequence": book.sequence, "left_out": left_out})


def _entry(state: ViewerState, index: ResultsIndex, object_id: str, label: str | None) -> LabelEntry:
    """Return the line that labels an object or a drawn fossil. Raises HTTPException if it does not exist."""
    if MissedId.parse(object_id) is not None:
        fossil = state.opened.book.missed_fossil(object_id)
        if label in ("", WRONG_BOX):
            raise HTTPException(400, f"{object_id}: the box was drawn by hand. Delete it if it does not hold a fossil")
        if fossil is not None:
            return LabelEntry(object_id, label, fossil.slide_id, fossil.box)
    elif (number := index.number.get(object_id)) is not None:
        row = index.objects.iloc[number]
        return LabelEntry(object_id, label, str(row["slide_id"]), _box(row))
    raise HTTPException(404, f"{object_id}: there is no such object. Load the page again: the results have changed")


async def _add_missed(state: ViewerState, request: Request) -> Response:
    """Write a fossil that a reviewer drew. The answer is sent when it is on the disk."""
    body = await read_body(request, MissedBody)
    return await asyncio.to_thread(_write_missed, state, body)


def _write_missed(state: ViewerState, body: MissedBody) -> Response:
    index, book = state.opened.index, state.opened.book
    number = index.slide_number(body.slide_id)
    if number is None:
        raise HTTPException(404, f"{body.slide_id}: there is no such slide. Load the page again")
    bounds = scan_bounds(index.slides[number])
    x0, y0, x1, y1 = body.box
    inside = bounds.x0 <= x0 < x1 <= bounds.x1 and bounds.y0 <= y0 < y1 <= bounds.y1
    if not inside or min(x1 - x0, y1 - y0) < _MIN_BOX_PX:
        raise HTTPException(
            400,
            f"The box must lie on the scanned part and be at least {_MIN_BOX_PX} pixels wide and high. Draw it again",
        )
    (genus,) = _normalised(index, [body.genus])
    if not genus or not genus_of_label(genus):
        raise HTTPException(400, f"'{body.genus}' is not a genus. A drawn box must hold a fossil: give its genus")
    object_id = book.write_missed(body.slide_id, body.box, genus, body.reviewer)
    return _json({"object_id": object_id, "sequence": book.sequence})


def _normalised(index: ResultsIndex, labels: Sequence[str | None]) -> list[str | None]:
    """Return labels as `labels.csv` is read: genera spelled as in the reference set, "" for every word for "not a fossil"."""
    genera = {genus.lower(): genus for genus in index.genera}
    read = [None if label is None else parse_label(label) for label in labels]
    return [None if label is None else genera.get(label.lower(), label) for label in read]


def _box(row: "pd.Series[Any]") -> tuple[int, int, int, int]:
    """Return the box in a row of the object table."""
    x0, y0, x1, y1 = (int(row[edge]) for edge in EDGES)
    return x0, y0, x1, y1


def _json(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers=NOT_CACHED)
