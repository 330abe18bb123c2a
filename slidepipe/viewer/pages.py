"""The viewer's pages. To add one: write `templates/NAME.html`, and here a function for its values and an entry in `PAGES`.

The template extends `viewer.html`; a page with a script adds `static/NAME.js` and loads it in the block `scripts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from slidepipe.classification.object_table import ACCEPTED, UNKNOWN, UNUSABLE
from slidepipe.html import render
from slidepipe.report import sections
from slidepipe.store.manifest import SlideRecord
from slidepipe.viewer.access import POLICY
from slidepipe.viewer.charts import chart_svgs, specimens_url
from slidepipe.viewer.colours import css_colours
from slidepipe.viewer.results_index import ALL, ResultsIndex
from slidepipe.viewer.state import NOT_CACHED, ViewerState

_PACKAGE = "slidepipe.viewer"


@dataclass(frozen=True)
class Page:
    """A page of the viewer.

    Attributes:
        name: name of its template, without `.html`.
        path: its path, for example `"/slide/{slide:int}"`.
        values: returns the values of the template. The value `settings` is what the page's script receives.
        link_text: text of its link in the navigation.
        link_url: returns the address of its link in the navigation.
    """

    name: str
    path: str
    values: Callable[[ViewerState, Request], dict[str, Any]]
    link_text: str
    link_url: Callable[[ResultsIndex], str]


def routes(state: ViewerState) -> list[BaseRoute]:
    """Return the routes of all pages."""
    compressed = [Middleware(GZipMiddleware, compresslevel=3)]
    return [Route(page.path, partial(_show, page, state), middleware=compressed) for page in PAGES]


def message_page(message: str) -> str:
    """Return a page with a message, for example why another page cannot be shown."""
    return render(_PACKAGE, "message.html", message=message, policy=POLICY)


def _show(page: Page, state: ViewerState, request: Request) -> Response:
    values = page.values(state, request)
    index = state.opened.index
    settings = {"version": index.version, "colours": css_colours(index), **values.pop("settings", {})}
    links = [
        {"url": other.link_url(index), "text": other.link_text, "current": other.name == page.name} for other in PAGES
    ]
    html = render(_PACKAGE, f"{page.name}.html", **values, settings=settings, links=links, policy=POLICY)
    return HTMLResponse(html, headers=NOT_CACHED)


# -- the values of each page ----------------------------------------------------------------------------------------------


def _well(state: ViewerState, request: Request) -> dict[str, Any]:
    index = state.opened.index
    results = index.results
    anchors = {slide.slide_id: f"slide-{number}" for number, slide in enumerate(index.slides, 1)}
    links = {slide.slide_id: f"/slide/{number}" for number, slide in _analysed_slides(index)}
    return {
        "well": _well_names(index),
        "subtitle": sections.subtitle(results),
        "report_style": sections.style(),
        "failures": sections.failures(results, anchors),
        "overview": sections.glance(results),
        "charts": [Markup(svg) for svg in chart_svgs(index)],  # noqa: S704  # matplotlib escapes the text in a chart
        "sample_table": sections.sample_table(results, index.genera_in_order, link=specimens_url),
        "slide_table": sections.slide_table(results, anchors, links),
        "settings": {"genera": index.genera},
    }


def _grid(state: ViewerState, request: Request) -> dict[str, Any]:
    index = state.opened.index
    return {
        "well": _well_names(index),
        "all_objects": ALL,
        "genera": index.genera_in_order,
        "uncounted_states": (UNKNOWN, UNUSABLE),
        "samples": index.samples,
        "settings": {"genera": index.genera_in_order},
    }


def _slide(state: ViewerState, request: Request) -> dict[str, Any]:
    index, number = state.requested_slide(request)
    return {
        "slide_id": index.slides[number].slide_id,
        "slides": [{"number": place, "slide_id": slide.slide_id} for place, slide in _analysed_slides(index)],
        "states": ((ACCEPTED, "a genus"), (UNKNOWN, "unknown"), (UNUSABLE, "unusable")),
        "all_objects": ALL,
        "settings": {"genera": index.genera_in_order, "slide": number},
    }


def _well_names(index: ResultsIndex) -> str:
    return ", ".join(dict.fromkeys(slide.well for slide in index.slides))


def _analysed_slides(index: ResultsIndex) -> list[tuple[int, SlideRecord]]:
    """Return number and record of the slides that have a scan to show."""
    return [(number, slide) for number, slide in enumerate(index.slides) if slide.scan is not None]


def _first_slide_url(index: ResultsIndex) -> str:
    return next((f"/slide/{number}" for number, _ in _analysed_slides(index)), "/")


PAGES = (
    Page("well", "/", _well, "Well", lambda index: "/"),
    Page("grid", "/grid", _grid, "Specimens", lambda index: "/grid"),
    Page("slide", "/slide/{slide:int}", _slide, "Slides", _first_slide_url),
)
