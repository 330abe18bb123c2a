"""The server's routes. Pictures and objects are asked for by number, never by name or path: no path leads out of the well."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from slidepipe.classification.object_table import STATES
from slidepipe.errors import ResultsError, SlideError, SlidepipeError
from slidepipe.report.gallery import thumbnail
from slidepipe.review.labels import WRONG_BOX, genus_of_label, missed_number, parse_label
from slidepipe.viewer import pages
from slidepipe.viewer.book import Line
from slidepipe.viewer.cache import BytesCache
from slidepipe.viewer.guard import Guard
from slidepipe.viewer.references import has_picture, reference_jpeg, shown_name
from slidepipe.viewer.scans import open_scan, scan_bounds, why_missing
from slidepipe.viewer.tiles import OVERLAP_PX, TILE_PX, render_tile
from slidepipe.viewer.well import ALL, SORTS, Index, Query, Well

STATIC = Path(__file__).with_name("static")

#: Threads that read pixels. Each holds at most two scans open (see :func:`slidepipe.slides.handles.cached_slide`).
_PIXEL_THREADS = 2
_TILE_CACHE_BYTES, _THUMBNAIL_CACHE_BYTES = 48 * 2**20, 96 * 2**20

#: Pictures never change under one stamp of the tables, which is part of their address.
_KEEP = {"Cache-Control": "private, max-age=86400, immutable"}
_FRESH = {"Cache-Control": "no-store"}

Genus = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\W_][^\x00-\x1f\x7f]*$")]
Label = Annotated[str, Field(max_length=120, pattern=r"^([^\W_][^\x00-\x1f\x7f]*)?$")]
Who = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


_T = TypeVar("_T", bound=_Body)


class LabelBody(_Body):
    """One label: a genus, "" for not a fossil, "wrong box", null to withdraw."""

    object_id: str = Field(max_length=2000)
    label: Label | None


class LabelsBody(_Body):
    """Labels to be written. ``expected``: what each replaces; one that is something else by now is left out."""

    labels: list[LabelBody] = Field(max_length=200_000)
    expected: list[Label | None] | None = None
    who: Who = ""


class MissedBody(_Body):
    """A fossil that the detector missed: its box in level-0 pixels of the whole slide."""

    slide_id: str
    box: tuple[int, int, int, int]
    genus: Genus
    who: Who = ""


class Server:
    """The routes over one well. ``slides``: the folder where its scans are now, if not where the run found them."""

    def __init__(self, well: Well, slides: Path | None = None) -> None:
        self.well, self._slides = well, slides
        self._epoch = secrets.token_hex(8)
        self._pixels = ThreadPoolExecutor(_PIXEL_THREADS, thread_name_prefix="pixels")
        self._tiles, self._thumbnails = BytesCache(_TILE_CACHE_BYTES), BytesCache(_THUMBNAIL_CACHE_BYTES)

    def app(self, host: str, token: str) -> Starlette:
        """The ASGI application; ``token`` empty asks for none."""
        packed = [Middleware(GZipMiddleware, compresslevel=3)]  # pictures are packed as they are
        routes: list[BaseRoute] = [
            Route("/thumb/{number:int}.jpg", self.thumb),
            Route("/crop/{number:int}.jpg", self.crop),
            Route("/reference/{number:int}/{place:int}.jpg", self.reference),
            Route("/tile/{slide:int}/{level:int}/{column:int}_{row:int}.jpg", self.tile),
            Route("/", self.well_page, middleware=packed),
            Route("/grid", self.grid_page, middleware=packed),
            Route("/slide/{slide:int}", self.slide_page, middleware=packed),
            Route("/api/objects", self.objects, middleware=packed),
            Route("/api/object/{number:int}", self.object, middleware=packed),
            Route("/api/slide/{slide:int}", self.slide, middleware=packed),
            Route("/api/counts", self.counts, middleware=packed),
            Route("/api/labels", self.labels, methods=["GET"], middleware=packed),
            Route("/api/labels", self.add_labels, methods=["POST"]),
            Route("/api/missed", self.add_missed, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC), middleware=packed),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Guard, host=host, token=token)],
            exception_handlers={SlidepipeError: _told, HTTPException: _refused},
        )

    # -- pages ----------------------------------------------------------------------------------------------------------

    def well_page(self, request: Request) -> Response:
        """The well: what failed, the depth chart, counts."""
        return HTMLResponse(pages.well_page(self.well.index), headers=_FRESH)

    def grid_page(self, request: Request) -> Response:
        """Specimens."""
        return HTMLResponse(pages.grid_page(self.well.index), headers=_FRESH)

    def slide_page(self, request: Request) -> Response:
        """One slide."""
        index, number = self._slide(request)
        return HTMLResponse(pages.slide_page(index, number), headers=_FRESH)

    # -- pictures -------------------------------------------------------------------------------------------------------

    async def thumb(self, request: Request) -> Response:
        """The small picture of an object."""
        index, number = self._object(request)
        key = (index.stamp, number)
        data = await self._in_pixels(lambda: self._thumbnails.get(key, lambda: thumbnail(_jpeg(index, number))))
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    async def crop(self, request: Request) -> Response:
        """The stored crop of an object."""
        index, number = self._object(request)
        data = await self._in_pixels(lambda: _jpeg(index, number))
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    def reference(self, request: Request) -> Response:
        """The small picture of a neighbour of an object in the reference set."""
        index, number = self._object(request)
        nearest, place = index.nearest(number), int(request.path_params["place"])
        name = str(nearest[place]["reference"]) if place < len(nearest) else ""
        if not name or not has_picture(index, name):
            raise HTTPException(404, "This reference image is not where it was when the run was made")
        data = self._thumbnails.get((index.stamp, name), lambda: _thumbnail_of(reference_jpeg(index, name)))
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    async def tile(self, request: Request) -> Response:
        """A tile of a scan."""
        index, number = self._slide(request)
        level, column, row = (int(request.path_params[name]) for name in ("level", "column", "row"))
        entry = index.slides[number]

        def make() -> bytes:
            slide, pyramid = open_scan(entry, self._slides)
            box = pyramid.tile(level, column, row)
            if box is None:
                raise HTTPException(404, "There is no such tile")
            return render_tile(slide, pyramid, level, box)

        key = (index.stamp, number, level, column, row)
        data = await self._in_pixels(lambda: self._tiles.get(key, make))
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    async def _in_pixels(self, make: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pixels, make)

    # -- data -----------------------------------------------------------------------------------------------------------

    def objects(self, request: Request) -> Response:
        """The objects of a query, in its order, as columns."""
        index = self.well.index
        said = request.query_params
        sort, labelled = said.get("sort", "certain"), said.get("labelled", "any")
        if sort not in SORTS or labelled not in ("any", "yes", "no") or not said.get("seed", "0").isdigit():
            raise HTTPException(400, f"Give sort one of {', '.join(SORTS)}, labelled any, yes or no, seed a number")
        query = Query(said.get("name", ALL), said.get("sample", ""), sort, labelled, int(said.get("seed", "0")))  # type: ignore[arg-type]  # checked above
        numbers = index.select(query, self.well.labels())
        rows = index.objects.iloc[numbers]
        return JSONResponse(
            {
                "stamp": index.stamp,
                "slides": _slides(index),
                "names": index.names,
                **_columns(index, rows),
                "n": numbers.tolist(),
            },
            headers=_FRESH,
        )

    def object(self, request: Request) -> Response:
        """All that is known of one object, its neighbours in the reference set too."""
        index, number = self._object(request)
        row = index.objects.iloc[number]
        told = {
            name: None if row[name] != row[name] else row[name]
            for name in (
                "object_id", "slide_id", "sample_id", "state", "genus", "candidate", "reason", "p_value", "distance",
                "width_um", "height_um",
            )
        }  # fmt: skip
        nearest = [
            {**other, "picture": has_picture(index, other["reference"]), "reference": shown_name(other["reference"])}
            for other in index.nearest(number)
        ]
        box = [int(row[edge]) for edge in ("x0", "y0", "x1", "y1")]
        return JSONResponse({"stamp": index.stamp, "n": number, **told, "box": box, "nearest": nearest}, headers=_FRESH)

    def slide(self, request: Request) -> Response:
        """A slide's scan and objects, with the boxes of these."""
        index, number = self._slide(request)
        entry = index.slides[number]
        bounds = scan_bounds(entry)
        missing = self._pixels.submit(why_missing, entry, self._slides).result()
        rows = index.objects[index.objects["slide_id"] == entry["slide_id"]]
        boxes = rows[["x0", "y0", "x1", "y1"]].to_numpy().tolist()
        return JSONResponse(
            {
                "stamp": index.stamp, "slide_id": entry["slide_id"], "sample_id": entry["sample_id"], "missing": missing,
                "bounds": [bounds.x0, bounds.y0, bounds.x1, bounds.y1], "mpp": [entry["mpp_x"], entry["mpp_y"]],
                "tile_px": TILE_PX, "overlap_px": OVERLAP_PX, "names": index.names, "colours": pages.colours(index),
                **_columns(index, rows), "n": [int(n) for n in rows.index], "boxes": boxes, "slides": _slides(index),
            },
            headers=_FRESH,
        )  # fmt: skip

    def counts(self, request: Request) -> Response:
        """Counts, as they are, as reviewed, and corrected."""
        return JSONResponse({"sequence": self.well.book.sequence, **self.well.counts()}, headers=_FRESH)

    def labels(self, request: Request) -> Response:
        """Labels: all, or those that changed since ``epoch`` and ``since``; null for one that was withdrawn."""
        book = self.well.book
        since = request.query_params.get("since", "")
        labels, missed = self.well.labels(), {item.object_id: item for item in book.missed()}
        whole = request.query_params.get("epoch") != self._epoch or not since.isdigit()
        sequence = book.sequence
        ids = labels.keys() | missed.keys() if whole else book.since(int(since))
        told = {name: missed[name].genus if name in missed else labels.get(name) for name in ids}
        drawn = [
            {"object_id": item.object_id, "slide_id": item.slide_id, "box": list(item.box), "genus": item.genus}
            for item in missed.values()
        ]
        return JSONResponse(
            {"epoch": self._epoch, "sequence": sequence, "whole": whole, "labels": told, "missed": drawn},
            headers=_FRESH,
        )

    async def add_labels(self, request: Request) -> Response:
        """Write labels; answered when they are on the disk."""
        body = await _body(request, LabelsBody)
        if body.expected is not None and len(body.expected) != len(body.labels):
            raise HTTPException(400, "expected: give one label an object")
        return await asyncio.to_thread(self._add_labels, body)

    def _add_labels(self, body: LabelsBody) -> Response:
        index = self.well.index
        labels = _as_kept(index, [item.label for item in body.labels])
        lines = [self._line(index, item.object_id, label) for item, label in zip(body.labels, labels, strict=True)]
        expected = None if body.expected is None else _as_kept(index, body.expected)
        clash = self.well.book.write(lines, body.who, expected)
        return JSONResponse({"sequence": self.well.book.sequence, "left_out": clash}, headers=_FRESH)

    def _line(self, index: Index, object_id: str, label: str | None) -> Line:
        if missed_number(object_id) is not None:
            drawn = self.well.book.missed_fossil(object_id)
            if label in ("", WRONG_BOX):
                raise HTTPException(400, f"{object_id}: was drawn by hand; delete its box if it is no fossil")
            if drawn is not None:
                return Line(object_id, label, drawn.slide_id, drawn.box)
        elif (number := index.number.get(object_id)) is not None:
            row = index.objects.iloc[number]
            x0, y0, x1, y1 = (int(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
            return Line(object_id, label, str(row["slide_id"]), (x0, y0, x1, y1))
        raise HTTPException(404, f"{object_id}: there is no such object. Load the page again: the results have changed")

    async def add_missed(self, request: Request) -> Response:
        """Write a drawn fossil; answered when it is on the disk."""
        body = await _body(request, MissedBody)
        return await asyncio.to_thread(self._add_missed, body)

    def _add_missed(self, body: MissedBody) -> Response:
        index = self.well.index
        number = index.slide_number(body.slide_id)
        if number is None:
            raise HTTPException(404, f"{body.slide_id}: there is no such slide")
        bounds = scan_bounds(index.slides[number])
        x0, y0, x1, y1 = body.box
        inside = bounds.x0 <= x0 < x1 <= bounds.x1 and bounds.y0 <= y0 < y1 <= bounds.y1
        if not inside or min(x1 - x0, y1 - y0) < 4:
            raise HTTPException(400, "The box must lie on the scanned part, and be at least 4 pixels wide and high")
        (genus,) = _as_kept(index, [body.genus])
        if not genus or not genus_of_label(genus):
            raise HTTPException(400, f"'{body.genus}' is no genus: a drawn box is of a fossil that was missed")
        object_id = self.well.book.write_missed(body.slide_id, body.box, genus, body.who)
        return JSONResponse({"object_id": object_id, "sequence": self.well.book.sequence}, headers=_FRESH)

    # -- what a request is about ----------------------------------------------------------------------------------------

    def _object(self, request: Request) -> tuple[Index, int]:
        index, number = self.well.index, int(request.path_params["number"])
        if number >= len(index.objects):
            raise HTTPException(404, "There is no such object")
        _same_tables(request, index)
        return index, number

    def _slide(self, request: Request) -> tuple[Index, int]:
        index, number = self.well.index, int(request.path_params["slide"])
        if number >= len(index.slides):
            raise HTTPException(404, "There is no such slide")
        _same_tables(request, index)
        return index, number


def _same_tables(request: Request, index: Index) -> None:
    if request.query_params.get("v", index.stamp) != index.stamp:
        raise HTTPException(409, "A run has written these results again: load the page again")


def _as_kept(index: Index, said: Sequence[str | None]) -> list[str | None]:
    """Labels as the file will be read: genera as the reference set writes them, one word for all that say "no fossil"."""
    named = {genus.lower(): genus for genus in index.genera}
    labels = [None if label is None else parse_label(label) for label in said]
    return [label if label is None else named.get(label.lower(), label) for label in labels]


def _columns(index: Index, rows: Any) -> dict[str, Any]:
    """Objects as columns of small numbers: names and states by their place in ``names`` and :data:`STATES`."""
    if rows.empty:
        kinds = ("slide", "row", "state", "name", "p_value", "distance")
        return {"states": list(STATES), **{kind: [] for kind in kinds}}
    names = {name: place for place, name in enumerate(index.names)}
    slides = {str(slide["slide_id"]): place for place, slide in enumerate(index.slides)}
    candidates = rows["genus"].where(rows["genus"].notna(), rows["candidate"])
    return {
        "states": list(STATES),
        "slide": rows["slide_id"].map(slides).tolist(),
        "row": rows["object_id"].str.rpartition(":")[2].astype(int).tolist(),
        "state": rows["state"].map({state: place for place, state in enumerate(STATES)}).tolist(),
        "name": candidates.map(names).fillna(-1).astype(int).tolist(),
        "p_value": _numbers(rows["p_value"]),
        "distance": _numbers(rows["distance"]),
    }


def _numbers(column: Any) -> list[float | None]:
    values = np.round(column.to_numpy(float), 3)
    return [value if value == value else None for value in values.tolist()]


def _slides(index: Index) -> list[str]:
    return [str(slide["slide_id"]) for slide in index.slides]


def _thumbnail_of(data: bytes) -> bytes:
    if not data:
        raise HTTPException(404, "This reference image is not where it was when the run was made")
    return thumbnail(data)


def _jpeg(index: Index, number: int) -> bytes:
    object_id = str(index.objects["object_id"].iloc[number])
    data = index.results.jpeg(object_id)
    if not data:
        raise HTTPException(404, "These pixels could not be read from the slide")
    return data


async def _body(request: Request, model: type[_T]) -> _T:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON")  # no form of another site's page can
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HTTPException(400, f"{where}: {first['msg']}") from error


async def _told(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, SlideError) else 503 if isinstance(error, ResultsError) else 400
    return _say(request, str(error), status)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _say(request, error.detail, error.status_code)


def _say(request: Request, message: str, status: int) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status, headers=_FRESH)
    return HTMLResponse(pages.message_page(message), status, headers=_FRESH)
