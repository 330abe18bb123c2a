"""Export counts as CSV for the R packages rioja (wide table) and tidypaleo (long table)."""

from pathlib import Path

from slidepipe.results import Results
from slidepipe.store.files import write_text

#: Names that tidypaleo expects for columns of `counts_long.csv` and of the samples.
_TIDYPALEO_NAMES = {"well": "location", "genus": "param", "depth_m": "depth", "percent": "rel_abund"}


def write(results: Results, folder: Path) -> list[Path]:
    """Write counts_wide.csv for rioja and counts_tidy.csv for tidypaleo. Samples that were not analysed are left out of both.

    counts_wide.csv has one row per sample, by ascending depth: `sample_id`, `well`, `depth_m`, `sample_type`, `status`, then one
    column per genus with its count. `strat.plot(d[, -(1:5)], yvar = d$depth_m, y.rev = TRUE)` draws it.

    counts_tidy.csv has one row per sample and genus: `location` (the well), `param` (the genus), `depth`, `sample_id`,
    `sample_type`, `status`, `count`, `rel_abund` (percent) with its 95 % interval `low` and `high`, then the other columns of
    counts_long.csv.

    Args:
        results: the results to export.
        folder: an existing folder.

    Returns:
        The files written.
    """
    genera = results.manifest.reference.genera
    counts = results.counts[results.counts["status"] != "failed"]
    samples = counts[["sample_id", "well", "depth_m", "sample_type", "status"]]
    wide = samples.join(counts[genera].astype("Int64"))
    tidy = results.counts_long.merge(
        samples, on="sample_id", how="inner", validate="many_to_one", suffixes=("", "_sample")
    ).rename(columns=_TIDYPALEO_NAMES)
    first = ["location", "param", "depth", "sample_id", "sample_type", "status", "count", "rel_abund", "low", "high"]
    tidy = tidy[[*first, *(name for name in tidy.columns if name not in first and not name.endswith("_sample"))]]
    written = []
    for name, frame in (("counts_wide.csv", wide), ("counts_tidy.csv", tidy)):
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
        written.append(folder / name)
    return written
