"""slidepipe: from a folder of palynology slide scans to fossil counts per genus and depth.

In a notebook, `slidepipe.run(well, out, reference=...)` does the same as the command `slidepipe run`.
`slidepipe.open_results(out)` gives the tables as data frames, and the crops and embeddings of each object.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidepipe._version import __version__

if TYPE_CHECKING:
    from slidepipe.results import Results

__all__ = ["__version__", "open_results", "run"]


def run(
    well: Path | str, out: Path | str, *, config: Path | str | Mapping[str, Any] | None = None, **settings: Any
) -> "Results":
    """Count the fossils of a well, as `slidepipe run` does, and open the results.

    Args:
        well: a folder of slides, one slide, or a text file with one path of a slide per line.
        out: the RESULTS folder. The same call resumes an interrupted run, and does nothing after a finished one.
        config: a YAML file of settings, or a mapping with the same content.
        settings: settings that override `config`: `reference`, `mpp`, `plugins`; `backbone`, `head`, `detector` by name;
            `weights`, `orientations`, `companion`, `alpha`, `device`, `workers`, `scheduler`, `on_error`; or any setting of the
            YAML file with `__` instead of a dot, for example `crops__margin=0.2`.

    Returns:
        The results.

    Raises:
        SlidepipeError: wrong input or settings. A slide that fails raises nothing: see `failures` of the results.
    """
    from slidepipe.config import load_config, overrides_from_names
    from slidepipe.pipeline.flow import run_well
    from slidepipe.results import Results

    chosen = load_config(Path(config) if isinstance(config, str) else config, overrides_from_names(settings))
    return Results(run_well(Path(well), Path(out), chosen).results)


def open_results(path: Path | str) -> "Results":
    """Open a RESULTS folder.

    Args:
        path: the folder.

    Raises:
        ResultsError: it holds no finished results.
    """
    from slidepipe.results import Results

    return Results(path)
