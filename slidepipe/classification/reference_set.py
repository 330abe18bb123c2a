"""Reference sets: labelled crops in an image folder, one folder a genus, embedded once and cached by fingerprint."""

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from slidepipe.errors import ReferenceSetError
from slidepipe.interfaces import BoolArray, CropHead, Float32Array, Head, IntArray, StrArray, UInt8Array

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images: ``files`` (paths below ``root``, "genus/name.jpg") and the genus of each, in the order of the files."""

    root: Path
    files: tuple[str, ...]
    genera: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The genera in alphabetical order, reject classes (``_name``) left out."""
        return sorted({genus for genus in self.genera if not genus.startswith("_")})


@dataclass(frozen=True)
class ReferenceSet:
    """An embedded reference set.

    Attributes:
        embeddings: float32 (M, D), of the images as they are.
        as_crops: float32 (M, D), of the same as soft as a slide's crops (:func:`~slidepipe.crops.cut.as_stored`).
        genera: str (M,).
        files: str (M,).
        fingerprint: of the images, and of how they are embedded.
        weights_sha256: of the weights that embedded it, where the backbone tells it.
    """

    embeddings: Float32Array
    as_crops: Float32Array
    genera: StrArray
    files: StrArray
    fingerprint: str
    weights_sha256: str | None

    def rows(self, kept: BoolArray | IntArray) -> "ReferenceSet":
        """Some rows of it."""
        return replace(
            self,
            embeddings=self.embeddings[kept],
            as_crops=self.as_crops[kept],
            genera=self.genera[kept],
            files=self.files[kept],
        )


@dataclass(frozen=True)
class EmbeddedPart:
    """Some images of a reference folder, embedded: two float32 (n, D) as in :class:`ReferenceSet`."""

    embeddings: Float32Array
    as_crops: Float32Array
    weights_sha256: str | None


def fit_head(head: Head, reference: ReferenceSet, alpha: float) -> Head:
    """Fit a head to a reference set; one that says ``fits_crops = True`` is given the references as crops, too."""
    if getattr(head, "fits_crops", False):
        fit = cast(CropHead, head).fit
        return fit(reference.embeddings, reference.genera, alpha, as_crops=reference.as_crops)
    return head.fit(reference.embeddings, reference.genera, alpha)


_UNREADABLE = "{}: not a readable image ({}). Replace or remove it"


def scan_image_folder(root: Path, least: int = 2) -> ImageFolder:
    """List a labelled image folder.

    Args:
        root: holds one folder a genus.
        least: images that each genus must have (2: a lone image has nothing to be compared with).

    Raises:
        ReferenceSetError: no folder, no images, a genus with fewer than ``least``, or two genera that differ in case only.
    """
    if not root.is_dir():
        raise ReferenceSetError(f"{root}: no such folder. Give a folder that holds one folder of images a genus")
    files = sorted(
        path.relative_to(root).as_posix()
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        loose = any(path.suffix.lower() in IMAGE_SUFFIXES for path in root.iterdir())
        raise ReferenceSetError(
            f"{root}: {'its images lie loose' if loose else 'no images in it'}. Put each genus's images in a folder of its own: "
            f"{root.name}/GENUS/NAME.jpg"
        )
    genera = [file.partition("/")[0] for file in files]
    empty = sorted(
        folder.name
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in set(genera)
    )
    if empty:
        raise ReferenceSetError(f"{root / empty[0]}: no images in this genus's folder. Fill it or remove it")
    by_lower: dict[str, str] = {}
    for genus in genera:
        other = by_lower.setdefault(genus.lower(), genus)
        if other != genus:
            raise ReferenceSetError(
                f"{root}: '{other}' and '{genus}' differ in upper and lower case only. Join the two folders"
            )
    for genus, count in sorted(Counter(genera).items()):
        if count < least:
            raise ReferenceSetError(
                f"{root / genus}: {count} image; a genus needs at least {least}. Add images or remove the folder"
            )
    if all(genus.startswith("_") for genus in genera):
        raise ReferenceSetError(
            f"{root}: only reject classes (folders starting with _). Add a folder for each genus to count"
        )
    return ImageFolder(root, tuple(files), tuple(genera))


def check_images(folder: ImageFolder) -> None:
    """Look at the head of every image, so that one that is none is told before the work and not after it.

    Raises:
        ReferenceSetError: the file is not a readable image.
    """
    for file in folder.files:
        try:
            with Image.open(folder.root / file) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ReferenceSetError(_UNREADABLE.format(folder.root / file, error)) from error


def read_image(path: Path) -> UInt8Array:
    """uint8 (h, w, 3) sRGB of an image file; transparency is laid on white.

    Raises:
        ReferenceSetError: the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ReferenceSetError(_UNREADABLE.format(path, error)) from error


def fingerprint_folder(folder: ImageFolder, embedding: Mapping[str, object]) -> str:
    """sha256 over every image's name and bytes and over ``embedding``, which says how they are embedded."""
    digest = hashlib.sha256(json.dumps(embedding, sort_keys=True, default=str).encode())
    for file in folder.files:
        try:
            content = hashlib.sha256((folder.root / file).read_bytes()).hexdigest()
        except OSError as error:
            raise ReferenceSetError(
                f"{folder.root / file}: cannot be read ({error.strerror}). Give yourself access, or remove it"
            ) from error
        digest.update(f"{file}\0{content}\n".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where embedded reference sets and downloads are kept: ``SLIDEPIPE_CACHE``, or the user's cache folder."""
    own = os.environ.get("SLIDEPIPE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slidepipe"


def load_cached(fingerprint: str) -> ReferenceSet | None:
    """The reference set of this fingerprint if it was embedded before (a damaged cache file counts as none)."""
    path = _cache_path(fingerprint)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return ReferenceSet(
                stored["embeddings"],
                stored["as_crops"],
                stored["genera"],
                stored["files"],
                fingerprint,
                str(stored["weights_sha256"]) or None,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_cached(reference: ReferenceSet) -> None:
    """Keep an embedded reference set for the next run. A cache that cannot be written is no error: the set is embedded again."""
    path = _cache_path(reference.fingerprint)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(
                file,
                embeddings=reference.embeddings,
                as_crops=reference.as_crops,
                genera=reference.genera,
                files=reference.files,
                weights_sha256=np.array(reference.weights_sha256 or ""),
            )
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def as_reference(folder: ImageFolder, parts: Sequence[EmbeddedPart], fingerprint: str) -> ReferenceSet:
    """Join the embedded parts of a folder, in the order of its files."""
    return ReferenceSet(
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.as_crops for part in parts]),
        np.array(folder.genera),
        np.array(folder.files),
        fingerprint,
        parts[0].weights_sha256,
    )


def _cache_path(fingerprint: str) -> Path:
    return cache_folder() / "reference" / f"{fingerprint}.npz"
