"""Fetching the public benchmark images once: pinned commit, a sha256 for every file, resumable, cached.

``images.sha256`` beside this module lists the 697 images of the commit. Each is fetched by itself and kept only if its bytes
are right, so a fetch that was cut short goes on where it stopped.
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
#: Overrides :data:`URL`, for a mirror inside a company's network.
URL_VARIABLE = "SLIDEPIPE_BENCHMARK_URL"

_CONNECTIONS = 8
_TIMEOUT_S = 30
_LARGEST_BYTES = 4 * 2**20  # no image of the benchmark has more than 100 KB


def published_images() -> dict[str, str]:
    """The benchmark's images: "genus/name.jpg" to the sha256 of its bytes."""
    text = resources.files("slidepipe.benchmark").joinpath("images.sha256").read_text(encoding="utf-8")
    return {path: digest for digest, _, path in (line.partition(" ") for line in text.splitlines())}


def fetch_images(
    images: Mapping[str, str] | None = None,
    url: str | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """The folder of the benchmark images below slidepipe's cache, complete and verified; what is missing is fetched.

    Args:
        images: path to sha256; :func:`published_images` if not given.
        url: the folder's address; :data:`URL` (or what :data:`URL_VARIABLE` says) if not given.
        told: hears how many of the missing images are there, and how many are missing.

    Raises:
        ReferenceSetError: it cannot be fetched; the message gives the manual step. What is fetched is kept.
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
                stop.set()  # the first failure ends the others: offline, each would wait for itself
                raise

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        futures = [pool.submit(get, path) for path in missing]
        try:
            for future in futures:
                future.result()
                done += 1
                told(done, len(missing))
        except BaseException as error:
            stop.set()
            if not isinstance(error, (OSError, HTTPException, ValueError)):
                raise
            cause = error
        else:
            return folder
    there = sum(_is_right(folder / path, digest) for path, digest in images.items())
    raise ReferenceSetError(
        f"{url}: cannot be fetched ({_reason(cause)}); {there} of {len(images)} images are in {folder}. Give the same "
        f"command again to go on, or on a machine with network: git clone https://github.com/{REPOSITORY}, then give "
        f"--data scampi-benchmark/{FOLDER}"
    ) from cause


def _get(url: str, path: Path, digest: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http address")
    request = urllib.request.Request(url, headers={"User-Agent": "slidepipe"})  # noqa: S310  # checked above
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        content: bytes = answer.read(_LARGEST_BYTES + 1)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path.parent.name}/{path.name} came with other bytes than the published ones")
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
