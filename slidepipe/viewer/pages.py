"""The three pages as HTML. Charts, tables and words are the report's; scripts and styles are files under ``static``."""

import json
from html import escape
from typing import Any
from urllib.parse import urlencode

from slidepipe.classification.object_table import UNKNOWN, UNUSABLE
from slidepipe.exports.geojson import STATE_COLOURS, genus_colours
from slidepipe.report import sections
from slidepipe.report.html import page
from slidepipe.store.files import write_json
from slidepipe.viewer.guard import POLICY
from slidepipe.viewer.well import ALL, Index

#: Drawn charts are kept here, below RESULTS, under the stamp of their tables.
CACHE = ".view"

_SORTS = (
    ("certain", "most certain first (p-value)"),
    ("uncertain", "least certain first (p-value)"),
    ("near", "nearest to a reference first"),
    ("far", "farthest from any reference first"),
    ("depth", "by depth"),
    ("random", "at random"),
    ("review", "as drawn by 'review sample'"),
)


def well_page(index: Index) -> str:
    """Failures and partial samples first, then the well in numbers, the chart, and counts that follow the labels."""
    results = index.results
    anchors = {str(slide["slide_id"]): f"slide-{number}" for number, slide in enumerate(index.slides, 1)}
    links = {
        str(slide["slide_id"]): f"/slide/{number}" for number, slide in enumerate(index.slides) if "bounds" in slide
    }
    wells = _wells(index)
    body = [
        f"<header><h1>Well {escape(wells)}</h1><p class='muted'>{escape(sections.subtitle(results))}</p></header>",
        "<main>",
        sections.failures(results, anchors),
        sections.glance(results),
        *(_chart_section(svg) for svg in charts(index)),
        "<section id='review'><h2>Counts, and what reviewers made of them</h2><p id='said' aria-live='polite'></p>"
        "<div class='wide' tabindex='0' role='region' aria-label='counts by genus'><table id='counts'><thead><tr>"
        "<th>genus</th><th class=number>counted</th><th class=number>reviewed</th><th class=number>of these drawn by hand</th>"
        "<th class=number>estimate from the draw</th><th class=number>95 %</th></tr></thead><tbody></tbody></table></div>"
        "<p class='muted'>Counted: as the head answered. Reviewed: with every label in place of its answer, and the "
        "fossils that somebody drew. Estimate: what labels of a random draw ('slidepipe review sample') say of all detected "
        "objects.</p></section>",
        sections.sample_table(results, index.genera_in_order, link=grid_link),
        sections.slide_table(results, anchors, links),
        "</main>",
    ]
    return _page(f"Well {wells}", index, "well", {"genera": index.genera}, "\n".join(body), sections.style())


def grid_page(index: Index) -> str:
    """Specimens, filled in by its script."""
    genera = "".join(f"<option>{escape(name)}</option>" for name in index.genera_in_order)
    samples = "".join(f"<option>{escape(name)}</option>" for name in index.samples)
    sorts = "".join(f'<option value="{value}">{escape(said)}</option>' for value, said in _SORTS)
    body = (
        "<main class='grid-page'><h1 class='hidden'>Specimens</h1><div class='tools' role='toolbar' aria-label='what is shown'>"
        f"<label>Show <select id='name'><option value='{ALL}'>all objects</option>"
        f"<optgroup label='Counted as'>{genera}</optgroup>"
        f"<optgroup label='Not counted'><option>{UNKNOWN}</option><option>{UNUSABLE}</option></optgroup></select></label>"
        f"<label>Sample <select id='sample'><option value=''>all samples</option>{samples}</select></label>"
        f"<label>Order <select id='sort'>{sorts}</select></label>"
        "<label>Labels <select id='labelled'><option value='any'>with or without</option><option value='no'>without</option>"
        "<option value='yes'>with</option></select></label>"
        "<label class='check'><input type='checkbox' id='blind'> hide names</label></div>"
        "<div class='tools' role='toolbar' aria-label='labels'>"
        "<button id='right' title='Space'><u>Space</u> right</button>"
        "<button id='nothing' title='Delete'><u>Del</u> not a fossil</button>"
        "<button id='wrong' title='Shift+Delete'><u>Shift+Del</u> wrong box</button>"
        "<button id='choose' title='any letter'><u>A&ndash;Z</u> genus &hellip;</button>"
        "<button id='undo' title='Ctrl+Z'><u>Ctrl+Z</u> undo</button>"
        "<button id='open' title='Enter'><u>Enter</u> on the slide</button>"
        "<button id='touch' aria-pressed='false'>select by drag</button>"
        "<span id='tally' class='tally' aria-live='polite'></span></div>"
        "<div id='palette' class='palette' role='toolbar' aria-label='genera'></div>"
        "<div id='grid' class='grid' role='listbox' aria-multiselectable='true' aria-label='specimens' tabindex='0'>"
        "<div id='sheet' class='sheet'></div></div>"
        "<div id='said' class='said' role='status' aria-live='polite'></div></main>"
    )
    return _page(f"Specimens of well {_wells(index)}", index, "grid", {"genera": index.genera_in_order}, body)


def slide_page(index: Index, number: int) -> str:
    """One scan with its objects, filled in by its script."""
    entry = index.slides[number]
    genera = "".join(f"<option>{escape(name)}</option>" for name in index.genera_in_order)
    slides = "".join(
        f"<option value='{place}'{' selected' if place == number else ''}>{escape(str(slide['slide_id']))}</option>"
        for place, slide in enumerate(index.slides)
        if "bounds" in slide
    )
    states = "".join(
        f"<label class='check'><input type='checkbox' class='state' value='{value}' checked> {said}</label>"
        for value, said in (("accepted", "a genus"), ("unknown", "unknown"), ("unusable", "unusable"))
    )
    body = (
        f"<main class='slide-page'><h1 class='hidden'>Slide {escape(str(entry['slide_id']))}</h1>"
        "<div class='tools' role='toolbar' aria-label='what is shown'>"
        f"<label>Slide <select id='slide'>{slides}</select></label>"
        f"<span role='group' aria-label='objects shown'>{states}</span>"
        f"<label>Genus <select id='name'><option value='{ALL}'>all</option>{genera}</select></label>"
        "<button id='draw' aria-pressed='false' title='N'><u>N</u> draw a missed fossil</button>"
        "<button id='undo' title='Ctrl+Z'><u>Ctrl+Z</u> undo</button>"
        "<span id='tally' class='tally' aria-live='polite'></span></div>"
        "<div id='missing' class='alert' hidden></div>"
        "<div class='stage'><div id='viewer' class='viewer' tabindex='0' role='application' aria-label='scan: arrows move, "
        "plus and minus zoom, 0 shows all, comma and full stop step through the objects'>"
        "<canvas id='boxes' class='boxes' aria-hidden='true'></canvas>"
        "<div id='scale' class='scale'><span></span></div></div>"
        "<aside id='panel' class='panel' aria-label='object'><p class='muted'>Click a box to see its object. "
        "<kbd>,</kbd> and <kbd>.</kbd> step through them.</p><div id='legend'></div></aside></div>"
        "<div id='said' class='said' role='status' aria-live='polite'></div></main>"
    )
    settings = {"genera": index.genera_in_order, "slide": number}
    scripts = '<script src="/static/vendor/openseadragon.min.js"></script>\n'
    return _page(f"Slide {entry['slide_id']}", index, "slide", settings, body, scripts=scripts)


def message_page(message: str) -> str:
    """A page that says what is wrong."""
    body = f"<h1>This cannot be shown</h1><p>{escape(message)}</p><p><a href='/'>To the well</a></p>"
    return page("slidepipe", body, policy=POLICY)


def grid_link(sample_id: str, name: str) -> str:
    """Where the specimens of a genus in a sample are; nowhere for columns that are no kind of object."""
    if name in ("fossils", "total"):
        return ""
    return "/grid?" + urlencode({"name": name, "sample": sample_id})


def charts(index: Index) -> list[str]:
    """The report's depth charts as SVG whose finds are links; drawn once for each writing of the tables."""
    folder = index.results.path / CACHE
    path = folder / f"charts-{index.stamp}.json"
    if path.exists():
        try:
            return [str(svg) for svg in json.loads(path.read_text(encoding="utf-8"))]
        except ValueError:  # not ours, or cut: drawn anew
            pass
    # Here: what draws is slow to import, and not needed once the chart is there.
    from slidepipe.report.chart import chart_svg
    from slidepipe.report.well_report import draw_charts

    drawn = [_inline(chart_svg(figure)) for _, figure in draw_charts(index.results, grid_link)]
    folder.mkdir(exist_ok=True)
    for old in folder.glob("charts-*.json"):
        old.unlink()
    write_json(path, drawn)
    return drawn


def colours(index: Index) -> dict[str, str]:
    """A colour a genus and state, those of the exports to QuPath, as CSS."""
    known = {**genus_colours(index.genera), **STATE_COLOURS}
    return {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in known.items()}


def _inline(svg: str) -> str:
    """An SVG file as part of a page: without its prologue, and with links that stay in the page's window."""
    return svg[svg.index("<svg") :].replace(' target="_blank"', "")


def _chart_section(svg: str) -> str:
    return (
        "<section class='chart'><h2>Depth chart</h2><p class='muted'>Click a bar to see its specimens; the table of samples "
        "below has the same links for the keyboard.</p><div class='wide' tabindex='0' role='region' aria-label='depth chart'>"
        f"{svg}</div></section>"
    )


def _page(
    title: str, index: Index, script: str, settings: dict[str, Any], body: str, style: str = "", scripts: str = ""
) -> str:
    settings = {"stamp": index.stamp, "colours": colours(index), **settings}
    head = (
        '<link rel="icon" href="data:,">\n<link rel="stylesheet" href="/static/view.css">\n'
        f'{scripts}<script type="module" src="/static/{script}.js"></script>\n'
    )
    data = escape(json.dumps(settings, ensure_ascii=False))
    links: list[tuple[str, str, str]] = [
        ("well", "/", "Well"),
        ("grid", "/grid", "Specimens"),
        ("slide", _first_slide(index), "Slides"),
    ]
    items = "".join(
        f"<a href='{href}'{' aria-current=page' if name == script else ''}>{said}</a>" for name, href, said in links
    )
    top = (
        f'<nav class="top" id="page" data-page="{data}" aria-label="pages">{items}'
        "<label class='who'>Your name <input id='who' maxlength='80' autocomplete='name' placeholder='optional'></label></nav>"
        "<div id='alert' class='trouble' role='alert' hidden></div>"
    )
    return page(title, top + body, style, POLICY, head)


def _wells(index: Index) -> str:
    return ", ".join(dict.fromkeys(str(slide["well"]) for slide in index.slides))


def _first_slide(index: Index) -> str:
    return next((f"/slide/{number}" for number, slide in enumerate(index.slides) if "bounds" in slide), "/")
