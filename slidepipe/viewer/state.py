"""What all routes of the server share: the results, the threads and caches for pictures, and the reading of requests."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from slidepipe.viewer.bytes_cache import BytesCache
from slidepipe.viewer.open_results import OpenResults
from slidepipe.viewer.results_index import ResultsIndex

#: Threads that read pixels. Each one keeps at most two scans open (see `slidepipe.slides.handles.cached_slide`).
_PIXEL_THREADS = 2
_TILE_CACHE_BYTES, _THUMBNAIL_CACHE_BYTES = 48 * 2**20, 96 * 2**20

#: Headers of pictures. A picture never changes under one version of the tables, which is part of its address.
CACHED = {"Cache-Control": "private, max-age=86400, immutable"}
#: Headers of pages and data.
NOT_CACHED = {"Cache-Control": "no-store"}

_Body = TypeVar("_Body", bound=BaseModel)


class ViewerState:
    """What all routes share.

    Args:
        opened: the results that are viewed.
        scans: folder that holds the well's scans now; None if they are where the run found them.

    Attributes:
        opened: as the argument.
        scans: as the argument.
        epoch: identifies this start of the server; label changes are numbered from its start.
        pixel_threads: the threads that open scans and read pixels.
        tiles: JPEGs of tiles.
        thumbnails: JPEGs of thumbnails.
    """

    def __init__(self, opened: OpenResults, scans: Path | None = None) -> None:
        self.opened, self.scans = opened, scans
        self.epoch = secrets.token_hex(8)
        self.pixel_threads = ThreadPoolExecutor(_PIXEL_THREADS, thread_name_prefix="pixels")
        self.tiles, self.thumbnails = BytesCache(_TILE_CACHE_BYTES), BytesCache(_THUMBNAIL_CACHE_BYTES)

    async def in_pixel_thread(self, make: Callable[[], bytes]) -> bytes:
        """Return the result of `make`, called in one of the threads that read pixels."""
        return await asyncio.get_running_loop().run_in_executor(self.pixel_threads, make)

    def requested_object(self, request: Request) -> tuple[ResultsIndex, int]:
        """Return the tables, and the number of the object that a request names.

        Raises:
            HTTPException: there is no such object, or the page shows an older version of the tables.
        """
        index, number = self.opened.index, int(request.path_params["number"])
        if number >= len(index.objects):
            raise HTTPException(404, "There is no such object. Load the page again: the results have changed")
        _check_version(request, index)
        return index, number

    def requested_slide(self, request: Request) -> tuple[ResultsIndex, int]:
        """Return the tables, and the number of the slide that a request names. Raises as `requested_object`."""
        index, number = self.opened.index, int(request.path_params["slide"])
        if number >= len(index.slides):
            raise HTTPException(404, "There is no such slide. Go back to the well")
        _check_version(request, index)
        return index, number


async def read_body(request: Request, model: type[_Body]) -> _Body:
    """Return the JSON body of a request, validated.

    Args:
        request: the request.
        model: the pydantic model of the body.

    Raises:
        HTTPException: the body is not JSON, or it does not fit the model.
    """
    # A form of another site's page cannot send this content type.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON with the content type application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HTTPException(400, f"{place}: {first['msg']}") from error


def _check_version(request: Request, index: ResultsIndex) -> None:
    if request.query_params.get("v", index.version) != index.version:
        raise HTTPException(409, "A run has written these results again. Load the page again")
