"""The images of the benchmark: reading a folder, and fetching the published ones."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidepipe.benchmark.data import read_data, read_thumbnails
from slidepipe.benchmark.embedding import published_squares
from slidepipe.benchmark.fetch import FOLDER, fetch_images, published_images
from slidepipe.errors import ReferenceSetError


def image(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 14), (level, level, level)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for genus in ("abc", "abc-2", "xyz"):
        for number in range(6):
            image(tmp_path / "data" / genus / f"{number}.png", number * 30)
    return tmp_path / "data"


def test_read_data_order(folder):
    data = read_data(folder)
    assert data.names == ("abc", "abc-2", "xyz")  # a plain sort of the paths would give abc-2/ before abc/
    assert data.folder.files[:2] == ("abc/0.png", "abc/1.png")
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert data.identity == "other"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: image(root / "lone" / "0.png"), "lone: 1 image"),
        (lambda root: [image(root / "ABC" / f"{n}.png") for n in range(2)], "differ in upper and lower case only"),
        (lambda root: (root / "empty").mkdir(), "empty: no images"),
        (lambda root: [shutil.rmtree(path) for path in root.iterdir()], "no images in it"),
        (lambda root: [shutil.rmtree(root / name) for name in ("abc", "xyz")], "one genus only"),
    ],
)
def test_read_data_errors(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ReferenceSetError, match=message) as caught:
        read_data(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_thumbnails_unreadable_image(folder):
    (folder / "xyz" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ReferenceSetError, match=r"xyz/3\.png: not a readable image"):
        read_thumbnails(read_data(folder).folder)


def groups(folder: Path, lines: list[str]) -> None:
    (folder / "groups.csv").write_text("\n".join(["file,slide", *lines]) + "\n")


def test_read_groups(folder):
    groups(folder, [f"{file},s{index % 3}" for index, file in enumerate(read_data(folder).folder.files)])
    data = read_data(folder)
    assert data.slides is not None
    assert data.slides[:4] == ("s0", "s1", "s2", "s0")
    assert [split.name for split in data.splits()] == ["s0", "s1", "s2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 images have no line; the first is 'xyz/5.png'"),
        (lambda lines: [*lines, "xyz/9.png,s1"], "line 20: 'xyz/9.png' names no image"),
        (lambda lines: [*lines, "xyz/5.png,other"], "is on two slides"),
        (lambda lines: [line.split(",")[0] + ",one" for line in lines], "all images are of one slide"),
        (lambda lines: [*lines[:-1], "5.png,s1"], "names 3 images"),
        (lambda lines: [*lines[:-1], "xyz/5.png,"], "names no slide"),
    ],
)
def test_read_groups_errors(folder, change, message):
    lines = [f"{file},s{index % 2}" for index, file in enumerate(read_data(folder).folder.files)]
    groups(folder, change(lines))
    with pytest.raises(ReferenceSetError, match=message):
        read_data(folder)


def test_read_groups_missing_columns(folder):
    (folder / "groups.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReferenceSetError, match="Give it the columns 'file'"):
        read_data(folder)


def test_published_images_are_identified(test_data):
    data = read_data(test_data / "scampi-benchmark" / "imagefolder_20")
    assert data.identity == "published"
    assert len(data.labels) == 697


def test_published_squares():
    crop = np.random.default_rng(0).integers(0, 256, (120, 300, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(crop).resize((256, 256), Image.Resampling.BICUBIC))
    assert np.array_equal(published_squares([crop], 256, own_crop=True)[0], whole)
    assert np.array_equal(published_squares([crop], 224, own_crop=False)[0], whole[16:240, 16:240])


# -- fetching ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def contents() -> dict[str, bytes]:
    return {
        f"genus {genus}/image {number}.jpg": f"{genus}{number}".encode() * 50 for genus in "ab" for number in range(5)
    }


@pytest.fixture
def server(contents):
    import threading
    import urllib.parse
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    served, requested = dict(contents), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.unquote(self.path).removeprefix("/folder/")
            requested.append(path)
            content = served.get(path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/folder", served, requested
        http.shutdown()
        thread.join()


def digests(contents):
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def test_fetch_images_resumes(server, contents):
    """A fetch that failed continues with the missing images, and a complete folder is not fetched again."""
    url, served, requested = server
    last = list(contents)[-1]
    served.pop(last)
    with pytest.raises(ReferenceSetError, match=r"404.*of 10 images are in.*--data"):
        fetch_images(digests(contents), url)
    served[last] = contents[last]
    before = len(requested)
    folder = fetch_images(digests(contents), url)
    assert folder.name == FOLDER
    assert {path: (folder / path).read_bytes() for path in contents} == contents
    assert len(requested) - before < 10  # the images that had arrived were not requested again
    before = len(requested)
    assert fetch_images(digests(contents), url) == folder
    assert len(requested) == before


def test_fetch_images_checks_sha256(server, contents):
    """An image with other bytes is rejected, and a damaged file is fetched again."""
    url, served, requested = server
    first = next(iter(contents))
    served[first] = b"something else"
    with pytest.raises(ReferenceSetError, match="other bytes than the published image"):
        fetch_images(digests(contents), url)
    served[first] = contents[first]
    folder = fetch_images(digests(contents), url)
    (folder / first).write_bytes(b"damaged")
    requested.clear()
    fetch_images(digests(contents), url)
    assert requested == [first]
    assert (folder / first).read_bytes() == contents[first]


def test_fetch_images_offline(monkeypatch):
    monkeypatch.setenv("SLIDEPIPE_BENCHMARK_URL", "http://127.0.0.1:9/nothing")
    with pytest.raises(ReferenceSetError, match=r"git clone .* --data") as caught:
        fetch_images()
    assert "\n" not in str(caught.value)
    assert "0 of 697" in str(caught.value)


def test_published_images_list():
    images = published_images()
    assert len(images) == 697
    assert len({path.partition("/")[0] for path in images}) == 20
