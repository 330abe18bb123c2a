"""Reference sets: labelled images, one folder per genus, which are embedded once and cached by their fingerprint."""

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from slidepipe.cache import cache_folder
from slidepipe.errors import ReferenceSetError
from slidepipe.interfaces import BoolArray, Float32Array, IntArray, StrArray, UInt8Array

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})

#: The reject class of objects that a reviewer labelled "not a fossil", and how many of them are needed to make a class of them
#: where the reference folder has none: with fewer, holding out folds of the class would leave too little to learn from.
DEBRIS, LEAST_DEBRIS = "_debris", 10


@dataclass(frozen=True)
class ImageFolder:
    """A folder of labelled images, one folder per genus.

    Attributes:
        root: the folder.
        files: paths below `root`, `GENUS/NAME.jpg`, in alphabetical order.
        genera: the genus of each file, in the same order.
    """

    root: Path
    files: tuple[str, ...]
    genera: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The genera in alphabetical order, without reject classes (`_NAME`)."""
        return sorted({genus for genus in self.genera if not genus.startswith("_")})


@dataclass(frozen=True)
class ReferenceSet:
    """An embedded reference set.

    Attributes:
        embeddings: float32 (M, D), of the images as they are.
        crop_like: float32 (M, D), of the same images reduced and compressed as the crops of a slide are
            (`slidepipe.crops.cut.make_crop_like`).
        genera: str (M,), genus of each image.
        files: str (M,), path of each image below the reference folder.
        fingerprint: hash of the images and of how they are embedded.
        weights_sha256: hash of the weights that embedded it; None where the backbone does not give it.
    """

    embeddings: Float32Array
    crop_like: Float32Array
    genera: StrArray
    files: StrArray
    fingerprint: str
    weights_sha256: str | None

    def rows(self, kept: BoolArray | IntArray) -> "ReferenceSet":
        """Return the reference set of some rows only: a mask, bool (M,), or row numbers, int64."""
        return replace(
            self,
            embeddings=self.embeddings[kept],
            crop_like=self.crop_like[kept],
            genera=self.genera[kept],
            files=self.files[kept],
        )


@dataclass(frozen=True)
class JoinedReference:
    """A reference set with reviewed objects appended.

    Attributes:
        all: the whole set.
        slides: the identity of the slide on which each row's object lies; empty for images of the reference folder.
    """

    all: ReferenceSet
    slides: tuple[str, ...]

    def without_slide(self, slide: str) -> ReferenceSet:
        """Return the reference set for judging one slide: all rows except the objects of that slide.

        Args:
            slide: the slide's identity, a hash of its bytes, so that a moved or copied file is recognised.
        """
        if slide not in self.slides:
            return self.all
        whole = self.all
        kept: BoolArray = np.array([other != slide for other in self.slides])
        debris = whole.genera == DEBRIS
        added = np.array([other != "" for other in self.slides])
        if (debris & kept).sum() < LEAST_DEBRIS and not (debris & ~added).any():
            kept &= ~debris
        return whole.rows(kept)


@dataclass(frozen=True)
class EmbeddedPart:
    """Some embedded images of a reference folder: float32 (n, D) each, as in `ReferenceSet`."""

    embeddings: Float32Array
    crop_like: Float32Array
    weights_sha256: str | None


_UNREADABLE = "{}: not a readable image ({}). Replace or remove it"


def scan_image_folder(root: Path, least: int = 2) -> ImageFolder:
    """List a folder of labelled images.

    Args:
        root: the folder that holds one folder per genus.
        least: number of images that each genus must have. Default 2: a single image has nothing to be compared with.

    Raises:
        ReferenceSetError: the folder does not exist or has no images, a genus has fewer than `least`, or the names of two
            genera differ only in upper and lower case.
    """
    if not root.is_dir():
        raise ReferenceSetError(f"{root}: no such folder. Give a folder that holds one folder of images per genus")
    folders = [folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    files = sorted(
        path.relative_to(root).as_posix()
        for folder in folders
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        loose = any(path.suffix.lower() in IMAGE_SUFFIXES for path in root.iterdir())
        raise ReferenceSetError(
            f"{root}: {'its images are not in a folder per genus' if loose else 'no images in it'}. Put the images of each "
            f"genus in a folder of its own: {root.name}/GENUS/NAME.jpg"
        )
    genera = [file.partition("/")[0] for file in files]
    _check_genera(root, genera, sorted(folder.name for folder in folders), least)
    return ImageFolder(root, tuple(files), tuple(genera))


def _check_genera(root: Path, genera: Sequence[str], folders: Sequence[str], least: int) -> None:
    """Raise an error if the genera of a folder's images cannot make a reference set.

    Args:
        root: the folder, for messages.
        genera: genus of each image.
        folders: names of the folders, in alphabetical order.
        least: number of images that each genus must have.
    """
    with_images = set(genera)
    for name in folders:
        if name not in with_images:
            raise ReferenceSetError(f"{root / name}: no images found for this genus. Add images or remove the folder")
    by_lower: dict[str, str] = {}
    for genus in genera:
        other = by_lower.setdefault(genus.lower(), genus)
        if other != genus:
            raise ReferenceSetError(
                f"{root}: '{other}' and '{genus}' differ in upper and lower case only. Merge the two folders"
            )
    for genus, count in sorted(Counter(genera).items()):
        if count < least:
            raise ReferenceSetError(
                f"{root / genus}: {count} image; a genus needs at least {least}. Add images or remove the folder"
            )
    if all(genus.startswith("_") for genus in genera):
        raise ReferenceSetError(
            f"{root}: only reject classes found (folders that start with _). Add a folder for each genus to count"
        )


def check_images(folder: ImageFolder) -> None:
    """Verify the header of every image, so that a damaged file is reported before the work and not after it.

    Raises:
        ReferenceSetError: a file is not a readable image.
    """
    for file in folder.files:
        try:
            with Image.open(folder.root / file) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ReferenceSetError(_UNREADABLE.format(folder.root / file, error)) from error


def read_image(path: Path) -> UInt8Array:
    """Read an image file as uint8 (h, w, 3) sRGB. Transparent pixels become white.

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
    """Return a sha256 of the name and bytes of every image, and of how the images are embedded.

    Args:
        folder: the images.
        embedding: everything that the embeddings depend on besides the images; hashed as JSON.

    Raises:
        ReferenceSetError: a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(embedding, sort_keys=True, default=str).encode())
    for file in folder.files:
        try:
            content = hashlib.sha256((folder.root / file).read_bytes()).hexdigest()
        except OSError as error:
            raise ReferenceSetError(
                f"{folder.root / file}: cannot be read ({error.strerror}). Change its permissions, or remove it"
            ) from error
        digest.update(f"{file}\0{content}\n".encode())
    return digest.hexdigest()


def load_cached(fingerprint: str) -> ReferenceSet | None:
    """Return the reference set of this fingerprint from the cache; None if it is not there or its file is damaged."""
    path = _cache_path(fingerprint)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            # "as_crops" is an older name of `crop_like`. It stays, so that cached files of earlier releases remain readable.
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
    """Save an embedded reference set for the next run.

    If the cache cannot be written, nothing is saved and no error is raised: the next run embeds the images again.
    """
    path = _cache_path(reference.fingerprint)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(
                file,
                embeddings=reference.embeddings,
                as_crops=reference.crop_like,  # Named as in `load_cached`.
                genera=reference.genera,
                files=reference.files,
                weights_sha256=np.array(reference.weights_sha256 or ""),
            )
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def join_parts(folder: ImageFolder, parts: Sequence[EmbeddedPart], fingerprint: str) -> ReferenceSet:
    """Concatenate the embedded parts of a folder to a reference set.

    Args:
        folder: the images.
        parts: their embeddings, in the order of the files.
        fingerprint: from `fingerprint_folder`.
    """
    return ReferenceSet(
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.crop_like for part in parts]),
        np.array(folder.genera),
        np.array(folder.files),
        fingerprint,
        parts[0].weights_sha256,
    )


def _cache_path(fingerprint: str) -> Path:
    return cache_folder() / "reference" / f"{fingerprint}.npz"
