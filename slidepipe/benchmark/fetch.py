"""Fetch the published benchmark images once, from a pinned commit, and keep them in the cache.

The file `images.sha256` next to this module lists the 697 images of the commit. Each image is fetched separately and is
kept only if its SHA-256 is right, so an interrupted fetch continues with the missing images.
"""

import hashlib
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from importlib import resources
from pathlib import Path

from slidepipe.cache import cache_folder
from slidepipe.errors import ReferenceSetError

REPOSITORY = "equinor/scampi-benchmark"
COMMIT = "416e5c1fa20518ff18f232d7f71fcb601f70b32c"
FOLDER = "imagefolder_20"
URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/{FOLDER}"
#: Environment variable that replaces `URL`, for example with a mirror inside a company network.
URL_VARIABLE = "SLIDEPIPE_BENCHMARK_URL"

_CONNECTIONS = 8
_TIMEOUT_S = 30
_LARGEST_BYTES = 4 * 2**20  # no image of the benchmark has more than 100 KB


def published_images() -> dict[str, str]:
    """Return the SHA-256 of each published image, by "genus/name.jpg"."""
    text = resources.files("slidepipe.benchmark").joinpath("images.sha256").read_text(encoding="utf-8")
    return {path: digest for digest, _, path in (line.partition(" ") for line in text.splitlines())}


def fetch_images(
    images: Mapping[str, str] | None = None,
    url: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Return the folder of the benchmark images, complete and verified. Missing images are fetched.

    Args:
        images: SHA-256 of each image, by path [default: `published_images()`].
        url: URL of the folder [default: the environment variable `URL_VARIABLE`, or `URL`].
        on_progress: is called after each image with the number of images fetched and the number to fetch.

    Returns:
        The folder, below the cache folder of slidepipe.

    Raises:
        ReferenceSetError: an image cannot be fetched; the message describes the manual way. Fetched images are kept.
    """
    images = published_images() if images is None else images
    url = (url or os.environ.get(URL_VARIABLE) or URL).rstrip("/")
    folder = cache_folder() / "benchmark" / COMMIT[:12] / FOLDER
    missing = [path for path, digest in images.items() if not _is_right(folder / path, digest)]
    if not missing:
        return folder
    done = 0
    stop = threading.Event()

    def get(path: str) -> None:
        if not stop.is_set():
            try:
                _get(f"{url}/{urllib.parse.quote(path)}", folder / path, images[path])
            except BaseException:
                stop.set()  # the first failure ends the other downloads: without network each would wait for its timeout
                raise

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        futures = [pool.submit(get, path) for path in missing]
        try:
            for future in futures:
                future.result()
                done += 1
                on_progress(done, len(missing))
        except BaseException as error:
            stop.set()
            if not isinstance(error, (OSError, HTTPException, ValueError)):
                raise
            cause = error
        else:
            return folder
    there = sum(_is_right(folder / path, digest) for path, digest in images.items())
    raise ReferenceSetError(
        f"{url}: cannot be fetched ({_reason(cause)}); {there} of {len(images)} images are in {folder}. Repeat "
        f"the command to fetch the others. Or, on a machine with network: git clone https://github.com/{REPOSITORY}, then "
        f"give --data scampi-benchmark/{FOLDER}"
    ) from cause


def _get(url: str, path: Path, digest: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http or https URL")
    request = urllib.request.Request(url, headers={"User-Agent": "slidepipe"})  # noqa: S310  # checked above
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        content: bytes = answer.read(_LARGEST_BYTES + 1)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path.parent.name}/{path.name} has other bytes than the published image")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_right(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__
