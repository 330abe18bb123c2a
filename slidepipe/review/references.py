"""Add reviewed objects to the reference set: objects that a palynologist labelled in earlier results.

Objects of a draw are found by `review.csv`; objects labelled elsewhere (in `slidepipe view`) by the slide and box in their line
of `labels.csv`. An object with the label "wrong box" is not an example of any class, and a fossil that the detector missed has no
embedding, so neither is added.

An object is never used to classify its own slide, because it would be its own nearest neighbour. For a slide with reviewed
objects the head is fitted without these objects (`slidepipe.classification.fit`), so neither its references nor its calibration
contain them.
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
from slidepipe.review.draw import read_draw
from slidepipe.review.labels import LABELS_FILE, REVIEW_FILE, read_labels, read_labels_file
from slidepipe.store.manifest import read_manifest
from slidepipe.store.object_id import ObjectId
from slidepipe.store.slide_store import SlideStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReviewedObject:
    """A labelled object.

    Attributes:
        results: the RESULTS folder that stores it.
        slide_id: the slide it lies on, by its name in `results`.
        slide: identity of the slide, a hash of its bytes.
        row: its row in the slide's store when it was labelled.
        box: x0, y0, x1, y1, half-open, in level-0 pixels of the whole slide.
        genus: the class it joins.
        file: what stands for its image file in the reference set.
        drawn: whether `review.csv` chose it. Other objects are found by their box, because their row may have changed.
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
    """Return the name that stands for the image file of a reference object that is not part of a draw and has no file."""
    return f"{results / OBJECTS_FILE}#{object_id}"


def object_of_file(name: str) -> tuple[Path, str] | None:
    """Return the RESULTS folder and the object id in a name made by `file_of_object`; None for any other name."""
    table, mark, object_id = name.partition(f"{OBJECTS_FILE}#")
    return (Path(table), object_id) if mark else None


def find_reviewed(
    folders: Sequence[Path], names: Sequence[str], backbone: Mapping[str, Any], own: Path
) -> list[ReviewedObject]:
    """Find the labelled objects of RESULTS folders whose label is a class of the reference folder, or "not a fossil".

    Args:
        folders: RESULTS folders with labels.
        names: the classes of the reference folder.
        backbone: the entries of the manifest's `backbone` that the folders must have.
        own: the RESULTS folder of this run. It may have another backbone, because the run embeds it again in that case.

    Returns:
        The objects, sorted by folder, slide and row.

    Raises:
        ResultsError: a folder has no labels, or was embedded with another backbone.
    """
    named = {name.lower(): name for name in names}
    found = []
    for results in dict.fromkeys(folder.resolve() for folder in folders):
        manifest, review, labels = read_manifest(results), read_draw(results), read_labels(results)
        if manifest is None or not labels:
            raise ResultsError(
                f"{results}: no reviewed objects here. Label some with 'slidepipe view' or 'slidepipe review sample', "
                "or remove this folder from reference_results"
            )
        other = {key: manifest.backbone.get(key) for key in backbone}
        if results != own.resolve() and other != dict(backbone):
            raise ResultsError(
                f"{results}: was embedded with another backbone ({other.get('name')}, or other settings or weights). "
                "Run it again with the present backbone, or remove this folder from reference_results"
            )
        identities = {slide.slide_id: slide.scan.identity if slide.scan else "" for slide in manifest.slides}
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
            else:  # The line was written by hand and holds no box, so the object may be another one by now.
                continue
            detected = ObjectId.parse(object_id)
            if genus is None or detected is None or not (slide := identities.get(slide_id)):
                continue
            found.append(
                ReviewedObject(results, slide_id, slide, detected.row, box, genus, file, drawn=object_id in drawn)
            )
    return sorted(found, key=lambda item: (str(item.results), item.slide_id, item.row))


def join_reviewed(reference: ReferenceSet, objects: Sequence[ReviewedObject]) -> JoinedReference:
    """Append the stored embeddings of reviewed objects to a reference set.

    These objects are left out: those whose pixels could not be read; those outside the draw whose box is no longer in the results
    (a warning reports their number); and those that are not a fossil, if there are fewer than
    `slidepipe.classification.reference_set.LEAST_DEBRIS` and the reference folder has no such class.

    Args:
        reference: the embedded reference folder.
        objects: from `find_reviewed`.

    Raises:
        ResultsError: `review.csv` was drawn from other detections than the results hold now.
    """
    kept = _with_embeddings(objects)
    debris = sum(item.genus == DEBRIS for item, _ in kept)
    if debris < LEAST_DEBRIS and not (reference.genera == DEBRIS).any():
        kept = [(item, embedding) for item, embedding in kept if item.genus != DEBRIS]
    if not kept:
        return JoinedReference(reference, ("",) * len(reference.files))
    items = [item for item, _ in kept]
    added = np.stack([embedding for _, embedding in kept])
    digest = hashlib.sha256(reference.fingerprint.encode())
    digest.update(added.tobytes())
    digest.update(repr([(item.slide, item.row, item.genus, item.file) for item in items]).encode())
    joined = ReferenceSet(
        np.concatenate([reference.embeddings, added]),
        np.concatenate([reference.crop_like, added]),  # a reviewed object exists only as a crop
        np.concatenate([reference.genera, np.array([item.genus for item in items])]),
        np.concatenate([reference.files, np.array([item.file for item in items])]),
        digest.hexdigest(),
        reference.weights_sha256,
    )
    return JoinedReference(joined, (*("",) * len(reference.files), *(item.slide for item in items)))


def _with_embeddings(objects: Sequence[ReviewedObject]) -> list[tuple[ReviewedObject, Float32Array]]:
    """Return the objects that still have an embedding, each with its embedding, and warn about those no longer detected.

    Raises:
        ResultsError: an object of a draw is no longer detected.
    """
    kept: list[tuple[ReviewedObject, Float32Array]] = []
    missing = Counter[Path]()
    opened: dict[tuple[Path, str], tuple[Any, Any]] = {}
    for item in objects:
        key = (item.results, item.slide_id)
        if key not in opened:
            store = SlideStore.in_results(*key)
            boxes = store.read_array("boxes", "boxes").reshape(-1, 4)
            opened[key] = boxes, store.read_array("embeddings", "embeddings")
        boxes, embeddings = opened[key]
        row = _find_row(item, boxes)
        if row is None and item.drawn:
            raise ResultsError(
                f"{item.results / REVIEW_FILE}: was drawn from other detections than these results hold now. "
                "Draw again, or remove this folder from reference_results"
            )
        if row is None:
            missing[item.results] += 1
        elif np.isfinite(embeddings[row]).all():
            kept.append((item, np.asarray(embeddings[row], np.float32)))
    for results, number in missing.items():
        logger.warning(
            "%s: %d labelled objects are no longer among the detections of these results, so they are not used as references",
            results / LABELS_FILE,
            number,
        )
    return kept


def _find_row(item: ReviewedObject, boxes: IntArray) -> int | None:
    """Return the row that has the box of the object, or None.

    Args:
        item: the object. Of a drawn object only its own row is considered, of others any row.
        boxes: int64 (N, 4), the boxes of the slide.
    """
    if item.row < len(boxes) and tuple(boxes[item.row].tolist()) == item.box:
        return item.row
    same = np.flatnonzero((boxes == np.array(item.box)).all(axis=1))
    return int(same[0]) if len(same) and not item.drawn else None
