"""Galleries: which specimens to show, small pictures of them, and captions that say where each lies."""

import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from slidepipe.report.html import picture
from slidepipe.results import Results

_COLUMNS = [
    "slide_id", "sample_id", "object_id", "x0", "y0", "x1", "y1", "width_um", "height_um",
    "state", "genus", "p_value", "distance", "candidate", "reason",
]  # fmt: skip
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 112, 80

_RANGE_PICTURES = 3

#: Pictures of a report: so many thumbnails stay below 15 MB, whatever they show.
MOST_PICTURES = 1400

STYLE = """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 10px; margin: 8px 0 16px; }
figure { margin: 0; padding: 5px; border: 1px solid var(--line); border-radius: 4px; background: var(--tint);
  break-inside: avoid; font-size: .75rem; line-height: 1.35; }
figure img { display: block; width: 100%; height: 112px; object-fit: contain; background: #fff; margin-bottom: 4px; }
figcaption { overflow-wrap: anywhere; } figure:target { outline: 3px solid var(--mark); }
"""


@dataclass(frozen=True)
class Shelf:
    """A row of a gallery: what was chosen, in words, and the rows of the object table."""

    title: str
    objects: pd.DataFrame


def read_objects(results: Results) -> pd.DataFrame:
    """The object table without its neighbours, which are many and needed for few (see :func:`read_nearest`)."""
    return results.object_table.read(_COLUMNS)


def read_nearest(results: Results, object_ids: Iterable[str]) -> dict[str, str]:
    """The nearest reference of each of the objects in words, by ``object_id``."""
    return {
        object_id: f"{neighbours[0]['reference']} ({neighbours[0]['distance']:.3g})"
        for object_id, neighbours in results.object_table.nearest(object_ids).items()
        if neighbours
    }


def choose(objects: pd.DataFrame, each: int, name: str) -> list[Shelf]:
    """The most certain, the least certain and random specimens of one genus.

    Certainty is the conformal p-value, then the distance to the nearest reference. The random ones are drawn from all, those
    on the other shelves included, so that they show what the genus's count is made of; the draw depends on ``name`` alone.
    """
    ordered = objects.sort_values(["p_value", "distance", "object_id"], ascending=[False, True, True], kind="stable")
    if len(ordered) <= 2 * each:
        return [Shelf(f"all {len(ordered)}, most certain first", ordered)] if len(ordered) else []
    drawn = np.random.default_rng(zlib.crc32(name.encode())).choice(
        len(ordered), min(each, len(ordered)), replace=False
    )
    return [
        Shelf(f"{each} most certain", ordered.iloc[:each]),
        Shelf(f"{each} least certain", ordered.iloc[::-1].iloc[:each]),
        Shelf(f"{len(drawn)} drawn at random from all {len(ordered)}", ordered.iloc[np.sort(drawn)]),
    ]


def range_shelves(objects: pd.DataFrame, ends: Mapping[str, Any]) -> list[Shelf]:
    """The specimens behind the top and the base of a genus; ``ends``: its row of ranges.csv, as text."""
    shelves = []
    for end, title in (("top", "highest find"), ("base", "lowest find")):
        named = [name for name in str(ends.get(f"{end}_object_ids", "")).split("; ") if name][:_RANGE_PICTURES]
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
        shelves.append(Shelf(f"{title}, {place}" + (f" ({note})" if note else ""), held))
    return shelves


class Frame:
    """Draws objects as figures. One is made for a page: the first figure of an object carries its id, for links to it."""

    def __init__(self, results: Results, anchors: Mapping[str, str], nearest: Mapping[str, str]) -> None:
        """``anchors``: the fragment of each slide's row on the page. ``nearest``: see :func:`read_nearest`."""
        self._results, self._anchors, self._nearest = results, anchors, nearest
        self._seen: set[str] = set()

    def gallery(self, objects: pd.DataFrame) -> str:
        """Figures of all rows of ``objects``, as HTML."""
        figures = "".join(self._figure(record) for record in objects.to_dict("records"))
        return f'<div class="gallery">{figures}</div>\n'

    def _figure(self, record: Mapping[Any, Any]) -> str:
        object_id, slide_id = str(record["object_id"]), str(record["slide_id"])
        jpeg = self._results.jpeg(object_id)
        if jpeg:
            image = f'<img src="{picture(thumbnail(jpeg))}" alt="{escape(object_id)}" loading="lazy">'
        else:
            image = "<p>no picture: these pixels cannot be read</p>"
        own = "" if object_id in self._seen else f' id="{escape(anchor(object_id))}"'
        self._seen.add(object_id)
        lines = [
            f'<a href="#{self._anchors[slide_id]}">{escape(object_id)}</a>',
            f"x {record['x0']}&ndash;{record['x1']}, y {record['y0']}&ndash;{record['y1']}",
            f"{record['width_um']:.0f} &times; {record['height_um']:.0f} &micro;m",
            *_certainty(record),
        ]
        if object_id in self._nearest:
            lines.append(f"nearest {escape(self._nearest[object_id])}")
        return f"<figure{own}>{image}<figcaption>{'<br>'.join(lines)}</figcaption></figure>\n"


def anchor(object_id: str) -> str:
    """The fragment of an object on the page."""
    return "object-" + "".join(letter if letter.isalnum() or letter in "._:-" else "_" for letter in object_id)


def thumbnail(jpeg: bytes) -> bytes:
    """A crop's JPEG with its long side brought down to the size of the galleries."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
        small = image.convert("RGB")
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


def shelf_length(genera: int) -> int:
    """Pictures a shelf, of three a genus, so that all genera together keep to :data:`MOST_PICTURES`."""
    own = (MOST_PICTURES - 300) // max(1, genera) - 2 * _RANGE_PICTURES
    return max(1, min(12, own // 3))


def all_ids(shelves: Iterable[Sequence[Shelf]]) -> Iterator[str]:
    """The ids of all objects on shelves."""
    for group in shelves:
        for shelf in group:
            yield from shelf.objects["object_id"].tolist()


def _certainty(record: Mapping[Any, Any]) -> list[str]:
    if record["p_value"] is None or np.isnan(record["p_value"]):
        return [] if record["reason"] is None else [escape(str(record["reason"]))]
    said = f"p {record['p_value']:.3f}, distance {record['distance']:.3g}"
    if record["state"] != "accepted" and record["candidate"] is not None:
        return [said, f"best guess {escape(str(record['candidate']))}"]
    return [said]
