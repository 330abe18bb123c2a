"""The answers of a search as a page and a table."""

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from slidepipe.classification.reference_set import read_image
from slidepipe.report.gallery import STYLE, thumbnail
from slidepipe.report.html import page, picture
from slidepipe.results import Results
from slidepipe.store.files import write_text

_QUERY_PX = 224


def write_search(hits: pd.DataFrame, query: str, results_paths: list[Path], folder: Path) -> list[Path]:
    """Write search.html and search.csv of the answers of :func:`slidepipe.search.index.search` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = {str(path): Results(path) for path in results_paths}
    write_text(folder / "search.csv", hits.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "search.html", _page(hits, query, opened))
    return [folder / "search.html", folder / "search.csv"]


def _page(hits: pd.DataFrame, query: str, opened: dict[str, Results]) -> str:
    measure = "similarity" if "similarity" in hits.columns else "distance"
    told = "cosine similarity" if measure == "similarity" else "Euclidean distance"
    figures = []
    for record in hits.to_dict("records"):
        object_id, results = str(record["object_id"]), opened[str(record["results"])]
        jpeg = results.jpeg(object_id)
        image = f'<img src="{picture(thumbnail(jpeg))}" alt="{escape(object_id)}">' if jpeg else "<p>no picture</p>"
        name = (
            record["genus"] if record["state"] == "accepted" else f"{record['state']} (nearest {record['candidate']})"
        )
        lines = [
            f"<b>{record['rank']}. {escape(str(name))}</b>",
            f"{told} {record[measure]:.4g}",
            escape(object_id),
            f"{escape(str(record['sample_id']))}",
            f"x {record['x0']}&ndash;{record['x1']}, y {record['y0']}&ndash;{record['y1']}",
        ]
        if len(opened) > 1:
            lines.append(f'<span class="muted">{escape(results.path.name)}</span>')
        figures.append(f"<figure>{image}<figcaption>{'<br>'.join(lines)}</figcaption></figure>\n")
    body = (
        f"<h1>Search</h1><p>The {len(hits)} objects most like {escape(query)}, by {told} of the embeddings, best first.</p>"
        f"{_query_image(query, list(opened.values()))}"
        f'<div class="gallery">{"".join(figures)}</div>'
        '<p class="muted">The same rows are in <a href="search.csv">search.csv</a>.</p>'
    )
    return page(f"Search: {query}", body, STYLE)


def _query_image(query: str, opened: list[Results]) -> str:
    if Path(query).is_file():
        image = Image.fromarray(read_image(Path(query)))
        image.thumbnail((_QUERY_PX, _QUERY_PX))
        source = picture(np.asarray(image))
    else:
        slide_id, _, row = query.rpartition(":")
        owner = next(r for r in opened if slide_id in {str(slide["slide_id"]) for slide in r.manifest["slides"]})
        source = picture(owner.crop_reader(slide_id).jpeg(int(row)))
    return f'<p><img src="{source}" alt="what was searched for" style="max-width:{_QUERY_PX}px"></p>'
