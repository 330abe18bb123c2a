"""The report's depth charts as SVG whose bars link to specimens. Drawn once per version of the tables and then kept."""

import json
from urllib.parse import urlencode

from slidepipe.store.files import write_json
from slidepipe.viewer.results_index import ResultsIndex

#: Folder in RESULTS that holds the drawn charts.
CACHE_FOLDER = ".view"


def chart_svgs(index: ResultsIndex) -> list[str]:
    """Return the depth charts of the well as `svg` elements, one per well of the results.

    Args:
        index: the tables.
    """
    folder = index.results.path / CACHE_FOLDER
    path = folder / f"charts-{index.version}.json"
    if path.exists():
        try:
            return [str(svg) for svg in json.loads(path.read_text(encoding="utf-8"))]
        except ValueError:  # The file is damaged, so the charts are drawn again.
            pass
    # Imported here: matplotlib is slow to import and is not needed when the charts exist.
    from slidepipe.report.chart import chart_svg
    from slidepipe.report.well_report import draw_charts

    svgs = [_embedded(chart_svg(figure)) for _, figure in draw_charts(index.results, specimens_url)]
    folder.mkdir(exist_ok=True)
    for old in folder.glob("charts-*.json"):
        old.unlink()
    write_json(path, svgs)
    return svgs


def specimens_url(sample_id: str, name: str) -> str:
    """Return the address of the specimens of a genus or state in a sample; empty for a column of sums.

    Args:
        sample_id: id of the sample.
        name: column of `counts.csv`.
    """
    if name in ("fossils", "total"):
        return ""
    return "/grid?" + urlencode({"name": name, "sample": sample_id})


def _embedded(svg: str) -> str:
    """Return the `svg` element of an SVG file, with links that open in the window of the page."""
    return svg[svg.index("<svg") :].replace(' target="_blank"', "")
