"""The labelled images of the benchmark: the published ones, or any image folder with or without `groups.csv`."""

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from slidepipe.benchmark.fetch import published_images
from slidepipe.benchmark.scores import Split, slide_splits, stratified_splits
from slidepipe.classification.reference_set import ImageFolder, read_image, scan_image_folder
from slidepipe.embedding.square import to_squares
from slidepipe.errors import ReferenceSetError
from slidepipe.interfaces import IntArray, UInt8Array

GROUPS_FILE = "groups.csv"
THUMBNAIL_PX = 96

Identity = Literal["published", "relabelled", "other"]


@dataclass(frozen=True)
class BenchmarkData:
    """Labelled images, and how they are split.

    Attributes:
        folder: the images: classes in alphabetical order, files of a class by name (the order of torchvision's
            ImageFolder).
        names: the classes.
        labels: int64 (N,), index into `names`.
        slides: the slide of each image, from `groups.csv`; None without that file.
        identity: "published" (the benchmark as published), "relabelled" (its images with other labels) or "other".
    """

    folder: ImageFolder
    names: tuple[str, ...]
    labels: IntArray
    slides: tuple[str, ...] | None
    identity: Identity

    def splits(self) -> tuple[Split, ...]:
        """Return leave-one-slide-out splits if the slides are known, otherwise the ten stratified splits of the protocol."""
        return stratified_splits(self.labels) if self.slides is None else slide_splits(self.slides)


def read_data(root: Path) -> BenchmarkData:
    """Read the list of files of a labelled image folder, and check it. Images are not opened.

    Args:
        root: folder with one folder of images per genus, and optionally `groups.csv`.

    Raises:
        ReferenceSetError: the folder is not valid (see `slidepipe.classification.reference_set.scan_image_folder`), it
            has one genus only, or `groups.csv` is wrong.
    """
    scanned = scan_image_folder(root)
    files = tuple(sorted(scanned.files, key=lambda file: file.split("/", 1)))
    genera = tuple(file.partition("/")[0] for file in files)
    folder = replace(scanned, files=files, genera=genera)
    names = tuple(sorted(set(genera)))
    if len(names) < 2:
        raise ReferenceSetError(
            f"{root}: there is one genus only ('{names[0]}'). Add a folder with images for each further genus"
        )
    labels = np.array([names.index(genus) for genus in genera], np.int64)
    return BenchmarkData(folder, names, labels, read_groups(root, files), _identify(folder))


def read_groups(root: Path, files: tuple[str, ...]) -> tuple[str, ...] | None:
    """Read the slide of each image from `groups.csv`, which has the columns `file` and `slide`.

    Args:
        root: folder of the images.
        files: the images, as "genus/name.jpg".

    Returns:
        The slide of each image, in the order of `files`; None if there is no `groups.csv`.

    Raises:
        ReferenceSetError: a column is missing, an image has no line or two slides, a line names no image, or all images
            are of one slide.
    """
    path = root / GROUPS_FILE
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReferenceSetError(f"{path}: cannot be read ({error}). Save it as CSV in UTF-8") from error
    if not rows or not {"file", "slide"} <= rows[0].keys():
        raise ReferenceSetError(
            f"{path}: a column is missing. Give it the columns 'file' (genus/name.jpg) and 'slide', and one row per image"
        )
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(file.rpartition("/")[2], []).append(file)
    slides: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        given, slide = (row["file"] or "").strip().replace("\\", "/"), (row["slide"] or "").strip()
        # A file name without its folder is accepted if only one genus has a file of that name.
        found = [given] if given in set(files) else by_name.get(given, [])
        if len(found) != 1 or not slide:
            wrong = "names no slide" if found else "names no image of the folder"
            wrong = f"names {len(found)} images: write genus/name" if len(found) > 1 else wrong
            raise ReferenceSetError(f"{path}, line {number}: '{given}' {wrong}. Correct or remove the line")
        if slides.setdefault(found[0], slide) != slide:
            raise ReferenceSetError(f"{path}: '{found[0]}' is on two slides. Remove one of its lines")
    missing = [file for file in files if file not in slides]
    if missing:
        raise ReferenceSetError(
            f"{path}: {len(missing)} images have no line; the first is '{missing[0]}'. Add a line with its slide"
        )
    if len(set(slides.values())) < 2:
        raise ReferenceSetError(f"{path}: all images are of one slide, so no slide can be left out. Remove the file")
    return tuple(slides[file] for file in files)


def read_thumbnails(folder: ImageFolder) -> UInt8Array:
    """Read all images as thumbnails that keep the aspect ratio.

    An image that cannot be read is so reported before any embedding starts.

    Args:
        folder: the images.

    Returns:
        uint8 (N, 96, 96, 3), sRGB.

    Raises:
        ReferenceSetError: an image cannot be read; the message names it.
    """
    small = np.empty((len(folder.files), THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    for row, file in enumerate(folder.files):
        small[row] = to_squares([read_image(folder.root / file)], THUMBNAIL_PX, "pad")[0]
    return small


def _identify(folder: ImageFolder) -> Identity:
    published = published_images()
    if len(folder.files) != len(published):
        return "other"
    found = [(file, _sha256(folder.root / file)) for file in folder.files]
    if dict(found) == published:
        return "published"
    relabelled = Counter(digest for _, digest in found) == Counter(published.values())
    return "relabelled" if relabelled else "other"


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReferenceSetError(
            f"{path}: cannot be read ({error.strerror}). Change its permissions, or remove it"
        ) from error
