"""The report of a well: one page, its depth charts, and the GeoJSON files of its slides."""

from pathlib import Path


def write_report(results_path: Path) -> None:
    """Write `chart.svg`, `chart.pdf`, `report.html` and `geojson/` into a RESULTS folder.

    Args:
        results_path: the RESULTS folder of a finished run.

    Raises:
        ResultsError: `results_path` holds no finished results, or a file that they name cannot be read.
    """
    # Imported here because matplotlib is slow to import, and the viewer imports this package for its sections only.
    from slidepipe.report.well_report import write_all

    write_all(results_path)
