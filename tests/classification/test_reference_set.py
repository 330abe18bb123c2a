"""Reference sets: labelled image folders, their fingerprint and cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidepipe.classification.reference_set import (
    ReferenceSet,
    fingerprint_folder,
    load_cached,
    read_image,
    save_cached,
    scan_image_folder,
)
from slidepipe.errors import ReferenceSetError


def image(path: Path, shade: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (shade, shade, shade)).save(path)


def test_scan_image_folder_order(tmp_path: Path) -> None:
    """Files are listed in alphabetical order; hidden and other files are left out."""
    for name in (
        "beta/2.jpg",
        "beta/1.png",
        "alpha/x.JPG",
        "alpha/y.jpg",
        "alpha/.DS_Store.jpg",
        "_debris/a.jpg",
        "_debris/b.jpg",
    ):
        image(tmp_path / name)
    (tmp_path / "alpha" / "notes.txt").write_text("x")
    folder = scan_image_folder(tmp_path)
    assert folder.files == ("_debris/a.jpg", "_debris/b.jpg", "alpha/x.JPG", "alpha/y.jpg", "beta/1.png", "beta/2.jpg")
    assert folder.names == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images in it"),
        (["loose.jpg"], "its images are not in a folder per genus. Put the images of each"),
        (["alpha/1.jpg", "alpha/2.jpg", "beta/1.jpg"], r"beta: 1 image; a genus needs at least 2"),
        (
            ["Alpha/1.jpg", "Alpha/2.jpg", "alpha/1.jpg", "alpha/2.jpg"],
            "'Alpha' and 'alpha' differ in upper and lower case",
        ),
        (["alpha/1.jpg", "alpha/2.jpg", "beta/notes.txt"], r"beta: no images found for this genus"),
        (["_debris/1.jpg", "_debris/2.jpg"], "only reject classes"),
    ],
)
def test_unusable_image_folder_is_rejected(tmp_path: Path, names: list[str], message: str) -> None:
    """The message names the folder and the fault, in one line."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith(".txt"):
            (tmp_path / name).write_text("x")
        else:
            image(tmp_path / name)
    with pytest.raises(ReferenceSetError, match=message) as caught:
        scan_image_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    """A folder that does not exist is an error."""
    with pytest.raises(ReferenceSetError, match="nowhere: no such folder"):
        scan_image_folder(tmp_path / "nowhere")


def test_read_image_modes(tmp_path: Path) -> None:
    """Grey and transparent images become RGB; damaged files are named."""
    Image.new("L", (4, 3), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()
    assert (read_image(tmp_path / "clear.png") == 255).all()
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    for name in ("bad.jpg", "cut.png"):
        with pytest.raises(ReferenceSetError, match=rf"{name}: not a readable image"):
            read_image(tmp_path / name)


def test_fingerprint_depends_on_images_and_embedding(tmp_path: Path) -> None:
    """Another image or another way of embedding gives another fingerprint."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        image(tmp_path / name)
    first = fingerprint_folder(scan_image_folder(tmp_path), {"orientations": 8})
    assert fingerprint_folder(scan_image_folder(tmp_path), {"orientations": 8}) == first
    assert fingerprint_folder(scan_image_folder(tmp_path), {"orientations": 1}) != first
    image(tmp_path / "a/1.png", 101)
    assert fingerprint_folder(scan_image_folder(tmp_path), {"orientations": 8}) != first


def test_cache_round_trip_and_damage(tmp_path: Path) -> None:
    """A saved set is loaded; a damaged file counts as not there."""
    assert load_cached("f" * 64) is None
    sharp, crop_like = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    kept = ReferenceSet(sharp, crop_like, np.array(["a", "b"]), np.array(["a/1", "b/1"]), "f" * 64, None)
    save_cached(kept)
    again = load_cached("f" * 64)
    assert again is not None
    np.testing.assert_array_equal(again.embeddings, sharp)
    np.testing.assert_array_equal(again.crop_like, crop_like)
    assert again.genera.tolist() == ["a", "b"]
    assert again.weights_sha256 is None
    (stored,) = (tmp_path / "cache").rglob("*.npz")
    stored.write_bytes(stored.read_bytes()[:100])
    assert load_cached("f" * 64) is None


def test_cached_file_keeps_array_names(tmp_path: Path) -> None:
    """The names of the stored arrays do not change, so that files cached by earlier releases remain readable."""
    rows = np.zeros((2, 3), np.float32)
    save_cached(ReferenceSet(rows, rows, np.array(["a", "b"]), np.array(["a/1", "b/1"]), "f" * 64, "0" * 64))
    (stored,) = (tmp_path / "cache").rglob("*.npz")
    with np.load(stored) as arrays:
        assert set(arrays.files) == {"embeddings", "as_crops", "genera", "files", "weights_sha256"}
