"""The web application: the routes of pages, pictures and data, and how errors are shown."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from slidepipe.errors import ResultsError, SlideError, SlidepipeError
from slidepipe.viewer import api, images, pages
from slidepipe.viewer.access import AccessControl
from slidepipe.viewer.open_results import OpenResults
from slidepipe.viewer.state import NOT_CACHED, ViewerState

_STATIC = Path(__file__).with_name("static")


def build_app(opened: OpenResults, host: str, token: str, scans: Path | None = None) -> Starlette:
    """Return the ASGI application.

    Args:
        opened: the results that are viewed.
        host: address that the server listens on.
        token: the token that a request needs; empty if none is needed.
        scans: folder that holds the well's scans now; None if they are where the run found them.
    """
    state = ViewerState(opened, scans)
    static = Mount("/static", StaticFiles(directory=_STATIC), middleware=[Middleware(GZipMiddleware, compresslevel=3)])
    return Starlette(
        routes=[*pages.routes(state), *images.routes(state), *api.routes(state), static],
        middleware=[Middleware(AccessControl, host=host, token=token)],
        exception_handlers={SlidepipeError: _slidepipe_error, HTTPException: _http_error},
    )


async def _slidepipe_error(request: Request, error: Exception) -> Response:
    """Show an error of slidepipe: 404 for a scan, 503 while a run writes the results."""
    status = 404 if isinstance(error, SlideError) else 503 if isinstance(error, ResultsError) else 400
    return _message(request, str(error), status)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _message(request, error.detail, error.status_code)


def _message(request: Request, message: str, status: int) -> Response:
    """Return a message as JSON to a script, as a page to a person."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status, headers=NOT_CACHED)
    return HTMLResponse(pages.message_page(message), status, headers=NOT_CACHED)
