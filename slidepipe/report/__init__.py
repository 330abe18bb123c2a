"""What people read: pages, charts and tables made from results."""

from pathlib import Path


def write_report(results_path: Path) -> None:
    """Write chart.svg, chart.pdf, report.html and geojson/ of a finished RESULTS folder into it.

    Raises:
        ResultsError: ``results_path`` holds no finished results, or what they name cannot be read.
    """
    # Here, so that the page helpers can be used without what draws charts and clusters.
    from slidepipe.report.well_report import write_all

    write_all(results_path)
