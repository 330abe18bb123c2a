"""The results of a search as an HTML page and a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from slidepipe.classification.reference_set import read_image
from slidepipe.html import picture, render
from slidepipe.report.gallery import gallery_style, thumbnail
from slidepipe.results import Results
from slidepipe.store.files import write_text
from slidepipe.store.object_id import slide_of

_QUERY_PX = 224


def write_search(hits: pd.DataFrame, query: str, results_paths: list[Path], folder: Path) -> list[Path]:
    """Write the results of a search as `search.html` and `search.csv`.

    Args:
        hits: from `slidepipe.search.index.search`, best first.
        query: the image file or the object id that was searched for.
        results_paths: the RESULTS folders that were searched.
        folder: output folder, created if it does not exist.

    Returns:
        The paths of the two files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = {str(path): Results(path) for path in results_paths}
    write_text(folder / "search.csv", hits.to_csv(index=False, lineterminator="\n"))
    page = render(
        "slidepipe.search",
        "search.html",
        style=gallery_style(),
        query=query,
        query_picture=_query_picture(query, list(opened.values())),
        query_px=_QUERY_PX,
        column="similarity" if "similarity" in hits.columns else "distance",
        measure="cosine similarity" if "similarity" in hits.columns else "Euclidean distance",
        hits=[_hit(record, opened) for record in hits.to_dict("records")],
    )
    write_text(folder / "search.html", page)
    return [folder / "search.html", folder / "search.csv"]


def _hit(record: dict[Any, Any], opened: dict[str, Results]) -> dict[Any, Any]:
    results = opened[str(record["results"])]
    jpeg = results.jpeg(str(record["object_id"]))
    return {
        **record,
        "picture": picture(thumbnail(jpeg)) if jpeg else "",
        # The folder is shown only if several RESULTS folders were searched.
        "folder": results.path.name if len(opened) > 1 else "",
    }


def _query_picture(query: str, opened: list[Results]) -> str:
    """Return the data URI of what was searched for: an image file or an object of one of the results."""
    if Path(query).is_file():
        image = Image.fromarray(read_image(Path(query)))
        image.thumbnail((_QUERY_PX, _QUERY_PX))
        return picture(np.asarray(image))
    owner = next(r for r in opened if slide_of(query) in r.manifest.slides_by_id)
    return picture(owner.jpeg(query))
