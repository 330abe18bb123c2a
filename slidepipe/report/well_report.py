"""`report.html`: a well on one page that opens from disk, from the depth chart to the pictures behind each count."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from slidepipe.exports.geojson import write as write_geojson
from slidepipe.html import render
from slidepipe.report import sections
from slidepipe.report.chart import draw_chart, write_chart
from slidepipe.report.chart_data import Link, chart_samples, genera_in_order
from slidepipe.report.gallery import read_objects
from slidepipe.report.specimens import Specimens
from slidepipe.results import Results
from slidepipe.store.files import write_text


def write_all(results_path: Path) -> None:
    """Write the charts, the GeoJSON files of all slides, and the report. The results are read only once.

    Args:
        results_path: a RESULTS folder.
    """
    results = Results(results_path)
    write_geojson(results, results_path / "geojson")
    charts = write_charts(results)
    write_text(results_path / "report.html", report_page(results, charts))


def write_charts(results: Results) -> dict[str, str]:
    """Write `chart.svg` and `chart.pdf`, and for each further well `chart-2.svg` and `chart-2.pdf` and so on.

    Returns:
        The name of the SVG file, by well.
    """
    names = {}
    for number, (well, figure) in enumerate(draw_charts(results), start=1):
        name = "chart" if number == 1 else f"chart-{number}"
        write_chart(figure, results.path, name)
        names[well] = f"{name}.svg"
    return names


def draw_charts(results: Results, link: Link | None = None) -> Iterator[tuple[str, Figure]]:
    """Yield the name of each well and its chart.

    Args:
        results: the results of a run.
        link: see `slidepipe.report.chart.draw_chart`.
    """
    for well in dict.fromkeys(results.counts["well"].astype(str)):
        own = results.counts[results.counts["well"].astype(str) == well]
        long = results.counts_long[results.counts_long["sample_id"].isin(own["sample_id"])]
        yield well, draw_chart(f"Well {well}", *chart_samples(own, long), link)


def report_page(results: Results, charts: Mapping[str, str]) -> Markup:
    """Return the report as HTML.

    Args:
        results: the results of a run.
        charts: name of each well's SVG file in the RESULTS folder, by well.
    """
    anchors = {slide.slide_id: f"slide-{number}" for number, slide in enumerate(results.manifest.slides, 1)}
    genera = genera_in_order(results.counts, results.counts_long)
    specimens = Specimens(results, read_objects(results), genera)
    counts = {genus: len(objects) for genus, objects in specimens.by_genus.items()}
    parts = [
        sections.failures(results, anchors),
        sections.glance(results),
        *(sections.chart(results.path / name, well) for well, name in charts.items()),
        sections.contents(specimens.genera, counts, len(specimens.groups)),
        sections.sample_table(results, genera),
        sections.reviewed_counts(results),
        sections.further_tables(results),
        *specimens.sections(anchors),
        sections.slide_table(results, anchors),
        sections.how_made(results),
    ]
    return render(
        "slidepipe.report",
        "report.html",
        title="Well " + ", ".join(charts),
        subtitle=sections.subtitle(results),
        sections=parts,
    )
