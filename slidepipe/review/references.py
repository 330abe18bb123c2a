"""Reviewed objects as references: what a palynologist labelled in earlier results joins the reference set.

Those of a draw are found by ``review.csv``, those labelled elsewhere (in ``slidepipe view``) by the slide and box that their line
of ``labels.csv`` holds. A "wrong box" is no example of anything, and a fossil that the detector missed has no embedding.

An object never helps to judge its own slide: for a slide with reviewed objects the head is fitted without these, so neither its
references nor its calibration know them. Otherwise each would be its own nearest neighbour.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slidepipe.classification.object_table import OBJECTS_FILE
from slidepipe.classification.reference_set import DEBRIS, LEAST_DEBRIS, JoinedReference, ReferenceSet
from slidepipe.errors import ResultsError
from slidepipe.interfaces import Float32Array, IntArray
from slidepipe.review.draw import REVIEW_FILE, read_draw, read_labels
from slidepipe.review.labels import LABELS_FILE, read_labels_file
from slidepipe.store.manifest import read_manifest
from slidepipe.store.slide_store import SlideStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReviewedObject:
    """A labelled object: where it is stored, on which slide it lies (``slide``: its bytes' identity), what it is.

    ``drawn``: ``review.csv`` chose it. Others are found by their box, as their row may have changed since.
    """

    results: Path
    slide_id: str
    slide: str
    row: int
    box: tuple[int, int, int, int]
    genus: str
    file: str
    drawn: bool = True


def file_of_object(results: Path, object_id: str) -> str:
    """What stands for the reference file of an object that has none of its own, as the drawn ones have (``review/``)."""
    return f"{results / OBJECTS_FILE}#{object_id}"


def object_of_file(name: str) -> tuple[Path, str] | None:
    """The RESULTS folder and object that a name of :func:`file_of_object` means; None for any other name."""
    table, mark, object_id = name.partition(f"{OBJECTS_FILE}#")
    return (Path(table), object_id) if mark else None


def find_reviewed(
    folders: Sequence[Path], names: Sequence[str], backbone: Mapping[str, Any], own: Path
) -> list[ReviewedObject]:
    """The labelled objects of reviews, of the classes in ``names`` or not a fossil, by folder, slide and row.

    Args:
        folders: RESULTS folders with labels.
        names: the classes of the reference folder.
        backbone: what the embeddings must have been made with (name, version, settings, files, views).
        own: the RESULTS folder of this run, which is embedded anew where its backbone has changed.

    Raises:
        ResultsError: a folder without labels, or embedded with another backbone.
    """
    named = {name.lower(): name for name in names}
    found = []
    for results in dict.fromkeys(folder.resolve() for folder in folders):
        manifest, review, labels = read_manifest(results), read_draw(results), read_labels(results)
        if not manifest or not labels:
            raise ResultsError(
                f"{results}: no reviewed objects here. Label some with 'slidepipe view' or 'slidepipe review sample', "
                "or take it out of reference_results"
            )
        other = {key: manifest["backbone"].get(key) for key in backbone}
        if results != own.resolve() and other != dict(backbone):
            raise ResultsError(
                f"{results}: was embedded with another backbone ({other.get('name')}, or other settings or weights). "
                "Run it again with this one, or take it out of reference_results"
            )
        identities = {entry["slide_id"]: str(entry.get("identity", "")) for entry in manifest["slides"]}
        drawn = {} if review is None else {row["object_id"]: row for row in review.to_dict("records")}
        places = read_labels_file(results / LABELS_FILE).places
        for object_id, label in labels.items():
            genus = DEBRIS if label == "" else named.get(label.lower())
            if object_id in drawn:
                cells = drawn[object_id]
                box = (int(cells["x0"]), int(cells["y0"]), int(cells["x1"]), int(cells["y1"]))
                slide_id, file = str(cells["slide_id"]), str(results / str(cells["crop"]))
            elif object_id in places:
                (slide_id, box), file = places[object_id], file_of_object(results, object_id)
            else:  # written by hand, for an object that no draw chose: whether it is still that one nobody can tell
                continue
            row = object_id.rpartition(":")[2]
            if genus is None or not row.isdigit() or not (slide := identities.get(slide_id)):
                continue
            found.append(ReviewedObject(results, slide_id, slide, int(row), box, genus, file, drawn=object_id in drawn))
    return sorted(found, key=lambda item: (str(item.results), item.slide_id, item.row))


def join_reviewed(reference: ReferenceSet, objects: Sequence[ReviewedObject]) -> JoinedReference:
    """Add the embeddings that the results hold of reviewed objects; an object whose pixels could not be read stays out.

    So do objects outside the draw whose box the results no longer hold, which is told, and a handful "not a fossil" where the
    reference folder has no such class (see `slidepipe.classification.reference_set.LEAST_DEBRIS`).

    Raises:
        ResultsError: the review was drawn from other detections than the results hold now.
    """
    embeddings: list[Float32Array] = []
    kept: list[ReviewedObject] = []
    gone = Counter[Path]()
    opened: dict[tuple[Path, str], tuple[Any, Any]] = {}
    for item in objects:
        key = (item.results, item.slide_id)
        if key not in opened:
            store = SlideStore.in_results(*key)
            boxes = store.read_array("boxes", "boxes").reshape(-1, 4)
            opened[key] = boxes, store.read_array("embeddings", "embeddings")
        boxes, rows = opened[key]
        row = _row_of(item, boxes)
        if row is None and item.drawn:
            raise ResultsError(
                f"{item.results / REVIEW_FILE}: was drawn from other detections than these results hold now. "
                "Draw again, or take this folder out of reference_results"
            )
        if row is None:
            gone[item.results] += 1
        elif np.isfinite(rows[row]).all():
            embeddings.append(np.asarray(rows[row], np.float32))
            kept.append(item)
    for results, number in gone.items():
        logger.warning(
            "%s: %d labelled objects are not among the detections that these results hold now, and are no references",
            results / LABELS_FILE,
            number,
        )
    debris = [item.genus == DEBRIS for item in kept]
    if sum(debris) < LEAST_DEBRIS and not (reference.genera == DEBRIS).any():
        embeddings = [row for row, left_out in zip(embeddings, debris, strict=True) if not left_out]
        kept = [item for item, left_out in zip(kept, debris, strict=True) if not left_out]
    if not kept:
        return JoinedReference(reference, ("",) * len(reference.files))
    added = np.stack(embeddings)
    digest = hashlib.sha256(reference.fingerprint.encode())
    digest.update(added.tobytes())
    digest.update(repr([(item.slide, item.row, item.genus, item.file) for item in kept]).encode())
    joined = ReferenceSet(
        np.concatenate([reference.embeddings, added]),
        np.concatenate([reference.crop_like, added]),  # crops are all that there is of them
        np.concatenate([reference.genera, np.array([item.genus for item in kept])]),
        np.concatenate([reference.files, np.array([item.file for item in kept])]),
        digest.hexdigest(),
        reference.weights_sha256,
    )
    return JoinedReference(joined, (*("",) * len(reference.files), *(item.slide for item in kept)))


def _row_of(item: ReviewedObject, boxes: IntArray) -> int | None:
    """The row whose box is that of the object: its own, or for one outside the draw any."""
    if item.row < len(boxes) and tuple(boxes[item.row].tolist()) == item.box:
        return item.row
    same = np.flatnonzero((boxes == np.array(item.box)).all(axis=1))
    return int(same[0]) if len(same) and not item.drawn else None
