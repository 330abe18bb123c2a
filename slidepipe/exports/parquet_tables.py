"""Export counts and objects as Parquet files."""

import functools
from pathlib import Path

from slidepipe.classification.object_table import OBJECTS_FILE
from slidepipe.counting.counts import INTEGER_COLUMNS
from slidepipe.results import Results
from slidepipe.review.reviewed_counts import is_reviewed_column
from slidepipe.store.files import write_file


def write(results: Results, folder: Path) -> list[Path]:
    """Write counts.parquet and counts_long.parquet with column types, and a copy of objects.parquet.

    Counts are integers; they are null where nothing was analysed.

    Args:
        results: the results to export.
        folder: an existing folder.

    Returns:
        The files written.
    """
    genera = results.manifest.reference.genera
    counts = results.counts.copy()
    integers = [name for name in (*genera, *INTEGER_COLUMNS) if name in counts.columns]
    integers += [name for name in counts.columns if is_reviewed_column(name)]
    counts[integers] = counts[integers].astype("Int64")
    counts["depth_m"] = counts["depth_m"].astype("float64")
    written = []
    for name, frame in (("counts.parquet", counts), ("counts_long.parquet", results.counts_long)):
        write_file(folder / name, functools.partial(frame.to_parquet, index=False))
        written.append(folder / name)
    write_file(folder / OBJECTS_FILE, results.object_table.copy)
    return [*written, folder / OBJECTS_FILE]
