"""Search for the stored objects that are most similar to an image or to another object, in one or several RESULTS folders.

Similarity is the cosine of the embeddings; the Euclidean distance can be used instead. The embeddings of a folder are copied once
into one memory-mapped matrix in `.search/`, so that a search is one matrix product, done block by block.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidepipe.errors import ResultsError, SettingsError
from slidepipe.interfaces import BoolArray, Float32Array, FloatArray, IntArray
from slidepipe.results import Results
from slidepipe.store.files import fingerprint, write_file, write_json
from slidepipe.store.object_id import ObjectId, slide_of
from slidepipe.store.slide_store import SlideStore

Metric = Literal["cosine", "euclidean"]

#: Rows per block: a few tens of megabytes, so that the rows stay in the processor's cache while they are scored.
_BLOCK_ROWS = 32768
#: Candidates measured again in double precision, as a multiple of the number of objects to return.
_SPARE = 4

_INDEX = ".search"
_COLUMNS = [
    "object_id", "slide_id", "sample_id", "depth_m", "sample_type", "state", "genus", "candidate", "p_value",
    "x0", "y0", "x1", "y1",
]  # fmt: skip
#: Entries of a manifest's `backbone` that must agree for embeddings to be comparable. The names are those on users' disks.
_IDENTITY = ("name", "version", "stage", "settings", "files", "views", "isolate", "beside", "weights_sha256")


@dataclass(frozen=True)
class SearchIndex:
    """The embeddings of one RESULTS folder in one matrix.

    Attributes:
        results: the folder.
        embeddings: float32 (N, D), memory-mapped, slide by slide in the order of the manifest. The row of an object whose pixels
            could not be read is zero.
        lengths: float32 (N,), Euclidean length of each row; zero where the pixels could not be read.
        slide_ids: the S slides.
        starts: int64 (S + 1,), the first row of each slide, and N.
    """

    results: Results
    embeddings: Float32Array
    lengths: Float32Array
    slide_ids: tuple[str, ...]
    starts: IntArray

    def object_id(self, row: int) -> str:
        """Return the id of the object in a row."""
        slide = int(np.searchsorted(self.starts, row, side="right")) - 1
        return str(ObjectId(self.slide_ids[slide], row - int(self.starts[slide])))


def open_index(results: Results) -> SearchIndex:
    """Return the search index of a RESULTS folder. It is built if it does not exist or the embeddings have changed.

    The index takes 4 D + 4 bytes per object in `.search/` of the folder and may be deleted at any time. Where the folder cannot
    be written, the index is built in memory.

    Args:
        results: finished results.
    """
    slides = [slide for slide in results.manifest.slides if slide.status != "failed" and slide.objects]
    slide_ids = tuple(slide.slide_id for slide in slides)
    counts = [slide.objects or 0 for slide in slides]
    starts: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    stages = [SlideStore.in_results(results.path, slide_id).attributes("embeddings") for slide_id in slide_ids]
    wanted = fingerprint("search", 1, slide_ids, counts, [stage.get("fingerprint") for stage in stages])
    folder = results.path / _INDEX
    if not _is_up_to_date(folder, wanted):
        try:
            write_index(folder, _slide_embeddings(results, slide_ids), int(starts[-1]), wanted)
        except OSError:
            embeddings, lengths = _cleaned(np.concatenate(list(_slide_embeddings(results, slide_ids))))
            return SearchIndex(results, embeddings, lengths, slide_ids, starts)
    embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    return SearchIndex(results, embeddings, np.load(folder / "lengths.npy"), slide_ids, starts)


def _slide_embeddings(results: Results, slide_ids: Sequence[str]) -> Iterator[Float32Array]:
    for slide_id in slide_ids:
        yield np.asarray(results.embeddings(slide_id)[...], np.float32)


def _is_up_to_date(folder: Path, wanted: str) -> bool:
    try:
        record = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("fingerprint") == wanted


def write_index(folder: Path, parts: Iterator[Float32Array], rows: int, fingerprint: str) -> None:
    """Write `embeddings.npy` and `lengths.npy`, then `index.json`, which marks the index as complete.

    Args:
        folder: output folder, created if it does not exist.
        parts: float32 (n, D) for each slide; rows of NaN where pixels could not be read.
        rows: N, the number of rows of all parts.
        fingerprint: identifies the embeddings.
    """
    folder.mkdir(exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    part_path = folder / f".embeddings.{uuid.uuid4().hex[:8]}"
    lengths = np.zeros(rows, np.float32)
    matrix: np.memmap[Any, np.dtype[np.float32]] | None = None
    start = 0
    try:
        for embeddings in parts:
            clean, own = _cleaned(embeddings)
            if matrix is None:
                matrix = np.lib.format.open_memmap(part_path, "w+", np.float32, (rows, clean.shape[1]))
            matrix[start : start + len(clean)] = clean
            lengths[start : start + len(clean)] = own
            start += len(clean)
        if matrix is None:  # there are no slides, so the length of an embedding is unknown
            _save(part_path, np.zeros((0, 1), np.float32))
        else:
            matrix.flush()
        part_path.replace(folder / "embeddings.npy")
    finally:
        part_path.unlink(missing_ok=True)
    write_file(folder / "lengths.npy", lambda path: _save(path, lengths))
    write_json(folder / "index.json", {"fingerprint": fingerprint})


def nearest(
    embeddings: Float32Array, lengths: Float32Array, query: FloatArray, top: int, metric: Metric
) -> tuple[IntArray, FloatArray]:
    """Find the rows that are most similar to a query.

    All rows are scored in float32, block by block. The best ones, a few times `top`, are measured again in float64, so that the
    order does not depend on rounding.

    Args:
        embeddings: float32 (N, D), may be memory-mapped.
        lengths: float32 (N,), Euclidean length of each row. Rows of length zero are never returned.
        query: float64 (D,).
        top: largest number of rows to return.
        metric: `cosine` or `euclidean`.

    Returns:
        The rows, int64 (K,), best first, and their cosine similarity or Euclidean distance, float64 (K,).
    """
    narrow = query.astype(np.float32)
    rows = len(embeddings)
    scores = np.empty(rows, np.float32)
    for start in range(0, rows, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        np.dot(embeddings[block], narrow, out=scores[block])
    usable = lengths > 0
    if metric == "cosine":
        np.divide(scores, lengths, out=scores, where=usable)
    else:
        # -|x - q|^2 / 2 without |q|^2 / 2, which is the same for all rows. Larger is nearer.
        scores -= 0.5 * lengths * lengths
    scores[~usable] = -np.inf
    kept = min(_SPARE * top, rows)
    best = np.sort(np.argpartition(-scores, kept - 1)[:kept]) if 0 < kept < rows else np.arange(rows)
    best = best[usable[best]]
    exact = np.asarray(embeddings[best], np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(exact, axis=1) * max(float(np.linalg.norm(query)), np.finfo(np.float64).tiny)
        values = exact @ query / norms
        order = np.argsort(-values, kind="stable")[:top]
    else:
        values = np.linalg.norm(exact - query, axis=1)
        order = np.argsort(values, kind="stable")[:top]
    return best[order].astype(np.int64), values[order]


def search(
    results_paths: Sequence[Path], query: str, top: int = 20, metric: Metric = "cosine", device: str = "auto"
) -> pd.DataFrame:
    """Find the objects that are most similar to an image file or a stored object.

    Args:
        results_paths: RESULTS folders whose objects were embedded by the same backbone.
        query: an image file, or the id of an object of one of the folders. That object is not returned.
        top: the number of objects to return.
        metric: `cosine` (similarity) or `euclidean` (distance).
        device: device that embeds an image.

    Returns:
        One row per object, best first: `rank`, `similarity` (cosine) or `distance` (euclidean), `results` (the folder), and
        columns of the object table.

    Raises:
        ResultsError: a folder holds no finished results, backbones differ, or there is no such object.
        SettingsError: the query is neither a file nor an object.
    """
    opened = [Results(path) for path in results_paths]
    check_same_backbone(opened)
    vector, own = query_embedding(opened, query, device)
    column = "similarity" if metric == "cosine" else "distance"
    hits: list[tuple[float, int, str]] = []
    for number, results in enumerate(opened):
        index = open_index(results)
        if len(index.embeddings) == 0:
            continue
        rows, values = nearest(index.embeddings, index.lengths, vector, top + 1, metric)
        hits += [(float(value), number, index.object_id(int(row))) for row, value in zip(rows, values, strict=True)]
    hits = [hit for hit in hits if (hit[1], hit[2]) != own]
    hits.sort(key=lambda hit: -hit[0] if metric == "cosine" else hit[0])
    return _described(opened, hits[:top], column)


def check_same_backbone(opened: Sequence[Results]) -> None:
    """Check that the embeddings of several RESULTS folders can be compared.

    Raises:
        ResultsError: a folder was embedded by another backbone, or with other settings or weights, than the first one.
    """
    first = opened[0].manifest.backbone
    for results in opened[1:]:
        other = results.manifest.backbone
        for name in _IDENTITY:
            if first.get(name) != other.get(name):
                raise ResultsError(
                    f"{results.path}: embedded with another backbone than {opened[0].path} ({name}: {other.get(name)!r} instead "
                    f"of {first.get(name)!r}). Search each folder separately, or run one again with the settings of the other"
                )


def query_embedding(opened: Sequence[Results], query: str, device: str) -> tuple[FloatArray, tuple[int, str] | None]:
    """Return the embedding to search for.

    Args:
        opened: the RESULTS folders that are searched.
        query: an image file, or the id of an object of one of the folders.
        device: device that embeds an image.

    Returns:
        float64 (D,), and for a stored object the position of its folder in `opened` and its id.

    Raises:
        ResultsError: the object does not exist or has no embedding, or the backbone of the first folder has changed.
        SettingsError: the query is neither a file nor an object.
    """
    if Path(query).is_file():
        return embed_image(opened[0], Path(query), device).astype(np.float64), None
    for number, results in enumerate(opened):
        if slide_of(query) in results.manifest.slides_by_id:
            embedding = results.embedding(query)
            if not np.isfinite(embedding).all():
                raise ResultsError(
                    f"{query}: has no embedding, because its pixels could not be read from the slide. Search for another object"
                )
            return embedding.astype(np.float64), (number, query)
    raise SettingsError(
        f"{query}: neither an image file nor an object. Give the path of an image, or an object_id of objects.parquet, "
        "SLIDE_ID:NUMBER"
    )


def embed_image(results: Results, image: Path, device: str) -> Float32Array:
    """Embed an image as the run embedded its crops: with the same backbone, weights, settings and orientations.

    Args:
        results: the results whose backbone is used.
        image: an image file.
        device: device that embeds the image.

    Returns:
        float32 (D,).

    Raises:
        ResultsError: the installed backbone has another version or other weights than the one of the run.
    """
    from slidepipe import plugins
    from slidepipe.classification.reference_set import read_image
    from slidepipe.config import parse_config
    from slidepipe.pipeline.specs import embed_spec
    from slidepipe.pipeline.tasks import embed_images, get_backbone

    config = parse_config(results.manifest.settings, str(results.path / "manifest.json"))
    plugins.register_files(config.plugins)
    spec = embed_spec(config)
    now = spec.identity()
    backbone = get_backbone(spec.plugin, device)
    now["weights_sha256"] = backbone.weights_sha256
    stored = results.manifest.backbone
    for name in _IDENTITY:
        if now.get(name) != stored.get(name):
            raise ResultsError(
                f"{results.path}: the backbone {stored['name']} has changed since the run ({name}: {now.get(name)!r} instead of "
                f"{stored.get(name)!r}). Restore the earlier one, or run the same command again to embed the crops again"
            )
    return np.asarray(embed_images(replace(spec, device=device), [read_image(image)], [str(image)])[0], np.float32)


def _described(opened: Sequence[Results], hits: Sequence[tuple[float, int, str]], column: str) -> pd.DataFrame:
    """Return the table of the hits, each with its columns of the object table."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for number, results in enumerate(opened):
        wanted = [object_id for _, own, object_id in hits if own == number]
        if wanted:
            found = results.object_table.rows_of(wanted, _COLUMNS)
            rows |= {(number, object_id): row for object_id, row in found.items()}
    records = [
        {"rank": rank, column: round(value, 6), "results": str(opened[number].path), **rows[number, object_id]}
        for rank, (value, number, object_id) in enumerate(hits, start=1)
    ]
    return pd.DataFrame(records, columns=["rank", column, "results", *_COLUMNS])


def _cleaned(embeddings: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return the embeddings with zeros instead of rows of NaN, and the length of each row."""
    finite: BoolArray = np.asarray(np.isfinite(embeddings).all(axis=1))
    clean = np.where(finite[:, None], embeddings, np.float32(0))
    return clean, np.linalg.norm(clean, axis=1).astype(np.float32)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
