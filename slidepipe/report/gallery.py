"""Galleries: the choice of specimens to show, their thumbnails, and captions that say where each specimen lies."""

import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from slidepipe.html import picture, render, taxon_name
from slidepipe.results import Results

#: The columns of the object table that a report needs; the nearest references are large and are read separately.
_COLUMNS = [
    "slide_id", "sample_id", "object_id", "x0", "y0", "x1", "y1", "width_um", "height_um",
    "state", "genus", "p_value", "distance", "candidate", "reason",
]  # fmt: skip
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 112, 80
_PICTURES_PER_RANGE_END = 3

#: Largest number of pictures in a report. With this number a report stays below 15 MB, whatever the pictures show.
MAX_PICTURES = 1400


@dataclass(frozen=True)
class GalleryRow:
    """One row of a gallery.

    Attributes:
        title: which specimens these are, for example "12 most certain".
        objects: their rows of the object table.
    """

    title: str
    objects: pd.DataFrame


@dataclass(frozen=True)
class Figure:
    """One picture of a gallery with its caption.

    Attributes:
        object_id: as in the object table.
        anchor: value of the `id` attribute; empty if the object has a figure further up on the page.
        slide_anchor: fragment of the slide's row on the page.
        source: data URI of the thumbnail; empty if the pixels cannot be read.
        box: x0, y0, x1, y1, level-0 pixels of the whole slide.
        size_um: width and height, in micrometres.
        notes: further lines of the caption.
    """

    object_id: str
    anchor: str
    slide_anchor: str
    source: str
    box: tuple[int, int, int, int]
    size_um: tuple[float, float]
    notes: list[str]


def read_objects(results: Results) -> pd.DataFrame:
    """Return the object table without the column `nearest`, which is large (see `read_nearest`)."""
    return results.object_table.read(_COLUMNS)


def read_nearest(results: Results, object_ids: Iterable[str]) -> dict[str, str]:
    """Return the nearest reference image of objects.

    Args:
        results: the results of a run.
        object_ids: the objects.

    Returns:
        By `object_id`: the reference image and its distance, for example "azolla/17.jpg (0.32)".
    """
    return {
        object_id: f"{neighbours[0]['reference']} ({neighbours[0]['distance']:.3g})"
        for object_id, neighbours in results.object_table.nearest(object_ids).items()
        if neighbours
    }


def choose_specimens(objects: pd.DataFrame, count: int, name: str) -> list[GalleryRow]:
    """Choose the most certain, the least certain and random specimens of one genus.

    Certainty is the conformal p-value, then the distance to the nearest reference. The random specimens are drawn from
    all of them, including those in the other rows, so that they show what the genus's count consists of.

    Args:
        objects: the rows of the object table of the genus.
        count: number of specimens per row.
        name: seed of the draw. The same name and objects give the same draw.

    Returns:
        Three rows; a single row with all specimens if there are at most twice `count`; no row without specimens.
    """
    ordered = objects.sort_values(["p_value", "distance", "object_id"], ascending=[False, True, True], kind="stable")
    if len(ordered) <= 2 * count:
        return [GalleryRow(f"All {len(ordered)}, most certain first", ordered)] if len(ordered) else []
    drawn = np.random.default_rng(zlib.crc32(name.encode())).choice(
        len(ordered), min(count, len(ordered)), replace=False
    )
    return [
        GalleryRow(f"{count} most certain", ordered.iloc[:count]),
        GalleryRow(f"{count} least certain", ordered.iloc[::-1].iloc[:count]),
        GalleryRow(f"{len(drawn)} drawn at random from all {len(ordered)}", ordered.iloc[np.sort(drawn)]),
    ]


def range_rows(objects: pd.DataFrame, ends: Mapping[str, Any]) -> list[GalleryRow]:
    """Return the specimens that make the top and the base of a genus's range.

    Args:
        objects: the rows of the object table of the genus.
        ends: the genus's row of `ranges.csv`, as text.
    """
    rows = []
    for end, title in (("top", "Highest find"), ("base", "Lowest find")):
        named = [name for name in str(ends.get(f"{end}_object_ids", "")).split("; ") if name][:_PICTURES_PER_RANGE_END]
        held = (
            objects[objects["object_id"].isin(named)]
            .set_index("object_id", drop=False)
            .reindex(named)
            .dropna(how="all")
        )
        if held.empty:
            continue
        note = str(ends.get(f"{end}_note", ""))
        place = f"{ends[f'{end}_m']} m {ends.get(f'{end}_sample_type', '')}".strip()
        rows.append(GalleryRow(f"{title}, {place}" + (f" ({note})" if note else ""), held))
    return rows


class GalleryRenderer:
    """Renders objects as galleries of one page.

    The first figure of an object on the page has the object's anchor as its `id`, so galleries must be rendered in the
    order in which they stand on the page.
    """

    def __init__(self, results: Results, slide_anchors: Mapping[str, str], nearest: Mapping[str, str]) -> None:
        """Prepare a page.

        Args:
            results: the results of a run.
            slide_anchors: fragment of each slide's row on the page, by `slide_id`.
            nearest: from `read_nearest`.
        """
        self._results, self._slide_anchors, self._nearest = results, slide_anchors, nearest
        self._seen: set[str] = set()

    def render(self, objects: pd.DataFrame) -> Markup:
        """Return the gallery of all rows of `objects` as HTML."""
        figures = (self._figure(record) for record in objects.to_dict("records"))
        return render("slidepipe.report", "gallery.html", figures=figures)

    def _figure(self, record: Mapping[Any, Any]) -> Figure:
        object_id = str(record["object_id"])
        jpeg = self._results.jpeg(object_id)
        is_first = object_id not in self._seen
        self._seen.add(object_id)
        notes = _certainty(record)
        if object_id in self._nearest:
            notes.append(f"nearest {self._nearest[object_id]}")
        return Figure(
            object_id=object_id,
            anchor=object_anchor(object_id) if is_first else "",
            slide_anchor=self._slide_anchors[str(record["slide_id"])],
            source=picture(thumbnail(jpeg)) if jpeg else "",
            box=(record["x0"], record["y0"], record["x1"], record["y1"]),
            size_um=(record["width_um"], record["height_um"]),
            notes=notes,
        )


def gallery_style() -> Markup:
    """Return the style sheet of galleries."""
    return render("slidepipe.report", "gallery.css")


def object_anchor(object_id: str) -> str:
    """Return the fragment of an object's figure on the page."""
    return "object-" + "".join(letter if letter.isalnum() or letter in "._:-" else "_" for letter in object_id)


def thumbnail(jpeg: bytes) -> bytes:
    """Return a crop's JPEG reduced to the size of the galleries: 112 px on its long side.

    Args:
        jpeg: the bytes of a JPEG file.
    """
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
        small = image.convert("RGB")
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


def specimens_per_row(genera: int) -> int:
    """Return how many specimens a gallery row shows, so that all genera together stay within `MAX_PICTURES`.

    Args:
        genera: number of genera on the page; each has three rows, and the specimens at the ends of its range.
    """
    per_genus = (MAX_PICTURES - 300) // max(1, genera) - 2 * _PICTURES_PER_RANGE_END
    return max(1, min(12, per_genus // 3))


def object_ids(galleries: Iterable[Sequence[GalleryRow]]) -> Iterator[str]:
    """Yield the ids of all objects in galleries."""
    for rows in galleries:
        for row in rows:
            yield from row.objects["object_id"].tolist()


def _certainty(record: Mapping[Any, Any]) -> list[str]:
    if record["p_value"] is None or np.isnan(record["p_value"]):
        return [] if record["reason"] is None else [str(record["reason"])]
    lines = [f"p {record['p_value']:.3f}, distance {record['distance']:.3g}"]
    if record["state"] != "accepted" and record["candidate"] is not None:
        lines.append(f"best guess {taxon_name(str(record['candidate']))}")
    return lines
