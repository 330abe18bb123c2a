"""The formats that `slidepipe export` writes. A new format is a module in this folder and one entry in `FORMATS`.

This module imports nothing heavy, so that the command line can list the formats quickly.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from slidepipe.errors import SettingsError


@dataclass(frozen=True)
class ExportFormat:
    """A format for other programs.

    Attributes:
        name: the value of `--format`.
        purpose: what it is for, shown in the help.
        module: module with the function `write(results: Results, folder: Path) -> list[Path]`, which writes the files into
            the existing folder and returns their paths. It reads objects with `results.object_table.rows(columns)` (columns
            of `object_table.SCHEMA`) and writes with `slidepipe.store.files.write_text`.
        folder: default output folder, below RESULTS.
    """

    name: str
    purpose: str
    module: str
    folder: str = "exports"


#: All formats, in the order of the help.
FORMATS = (
    ExportFormat("geojson", "detections for QuPath", "slidepipe.exports.geojson", folder="geojson"),
    ExportFormat("csv", "counts for rioja and tidypaleo", "slidepipe.exports.csv_tables"),
    ExportFormat("parquet", "counts and objects with column types", "slidepipe.exports.parquet_tables"),
    ExportFormat("coco", "boxes as COCO annotations", "slidepipe.exports.coco"),
)


def export(results_path: Path, name: str, folder: Path | None = None) -> list[Path]:
    """Write results in one format.

    Args:
        results_path: a finished RESULTS folder.
        name: name of one of `FORMATS`.
        folder: output folder; None uses the format's own folder below RESULTS.

    Returns:
        The files written.

    Raises:
        SettingsError: there is no such format.
        ResultsError: the folder holds no finished results.
    """
    from slidepipe.results import Results  # imports the tables and the slide reader, which the help does not need

    chosen = {form.name: form for form in FORMATS}.get(name)
    if chosen is None:
        raise SettingsError(f"format '{name}' does not exist. Use one of {', '.join(form.name for form in FORMATS)}")
    results = Results(results_path)
    folder = folder or results_path / chosen.folder
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = importlib.import_module(chosen.module).write(results, folder)
    return written
