"""Routes of pictures. Pictures are requested by number, never by name or path, so no request reaches another file."""

from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from slidepipe.report.gallery import thumbnail
from slidepipe.viewer.reference_images import may_have_image, reference_jpeg
from slidepipe.viewer.results_index import ResultsIndex
from slidepipe.viewer.scans import open_scan
from slidepipe.viewer.state import CACHED, ViewerState
from slidepipe.viewer.tiles import render_tile

_NO_REFERENCE = "This reference image is no longer where it was during the run"


def routes(state: ViewerState) -> list[BaseRoute]:
    """Return the routes of pictures."""
    return [
        Route("/thumb/{number:int}.jpg", partial(_thumbnail, state)),
        Route("/crop/{number:int}.jpg", partial(_crop, state)),
        Route("/reference/{number:int}/{place:int}.jpg", partial(_reference, state)),
        Route("/tile/{slide:int}/{level:int}/{column:int}_{row:int}.jpg", partial(_tile, state)),
    ]


async def _thumbnail(state: ViewerState, request: Request) -> Response:
    """Return the thumbnail of an object."""
    index, number = state.requested_object(request)
    key = (index.version, number)
    return _jpeg(
        await state.in_pixel_thread(lambda: state.thumbnails.get(key, lambda: thumbnail(_stored_crop(index, number))))
    )


async def _crop(state: ViewerState, request: Request) -> Response:
    """Return the stored crop of an object."""
    index, number = state.requested_object(request)
    return _jpeg(await state.in_pixel_thread(lambda: _stored_crop(index, number)))


def _reference(state: ViewerState, request: Request) -> Response:
    """Return the thumbnail of a neighbour of an object in the reference set."""
    index, number = state.requested_object(request)
    nearest, place = index.nearest(number), int(request.path_params["place"])
    name = str(nearest[place]["reference"]) if place < len(nearest) else ""
    if not name or not may_have_image(index, name):
        raise HTTPException(404, _NO_REFERENCE)

    def make() -> bytes:
        data = reference_jpeg(index, name)
        if not data:
            raise HTTPException(404, _NO_REFERENCE)
        return thumbnail(data)

    return _jpeg(state.thumbnails.get((index.version, name), make))


async def _tile(state: ViewerState, request: Request) -> Response:
    """Return a tile of a scan."""
    index, number = state.requested_slide(request)
    level, column, row = (int(request.path_params[name]) for name in ("level", "column", "row"))

    def make() -> bytes:
        slide, pyramid = open_scan(index.slides[number], state.scans)
        box = pyramid.tile(level, column, row)
        if box is None:
            raise HTTPException(404, "There is no such tile")
        return render_tile(slide, pyramid, level, box)

    key = (index.version, number, level, column, row)
    return _jpeg(await state.in_pixel_thread(lambda: state.tiles.get(key, make)))


def _stored_crop(index: ResultsIndex, number: int) -> bytes:
    """Return the JPEG of an object's crop. Raises HTTPException if the run could not read its pixels."""
    data = index.results.jpeg(str(index.objects["object_id"].iloc[number]))
    if not data:
        raise HTTPException(404, "The pixels of this object could not be read from the slide")
    return data


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers=CACHED)
