"""Content-based search: the stored objects that look most like a picture or another object, over one well or several.

Likeness is the cosine of the stored embeddings (``euclidean`` is there for comparison). The embeddings are laid out once as a
plain memory-mapped matrix beside the store, so that a search is one matrix product over it, block by block.
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
from slidepipe.store.slide_store import SlideStore

Metric = Literal["cosine", "euclidean"]

#: Rows of a block: some tens of megabytes, so that scores are made while the rows are in the processor's reach.
_BLOCK_ROWS = 32768
#: Candidates, of those wanted, that are measured again in double precision.
_SPARE = 4

_INDEX = ".search"
_COLUMNS = [
    "object_id", "slide_id", "sample_id", "depth_m", "sample_type", "state", "genus", "candidate", "p_value",
    "x0", "y0", "x1", "y1",
]  # fmt: skip
#: What of a manifest's backbone must agree for embeddings to be comparable.
_IDENTITY = ("name", "version", "stage", "settings", "files", "views", "isolate", "beside", "weights_sha256")


@dataclass(frozen=True)
class Index:
    """The embeddings of one RESULTS folder, ready to be searched.

    Attributes:
        results: the folder.
        embeddings: float32 (N, D), memory-mapped; rows of the slides in the manifest's order. A lost crop's row is zero.
        lengths: float32 (N,), Euclidean length of each row; zero marks a lost crop.
        slide_ids: the slides.
        starts: int64 (S + 1,), the first row of each slide, and N.
    """

    results: Results
    embeddings: Float32Array
    lengths: Float32Array
    slide_ids: tuple[str, ...]
    starts: IntArray

    def object_id(self, row: int) -> str:
        """The object of a row."""
        slide = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.slide_ids[slide]}:{row - int(self.starts[slide]):05d}"


def open_index(results: Results) -> Index:
    """The index of a RESULTS folder: as it was laid out before, if the embeddings are still the same, or laid out now.

    It takes 4 D + 4 bytes an object in ``.search/`` of the folder and can be removed at any time. Where the folder cannot be
    written, it is held in memory.
    """
    slides = [slide for slide in results.manifest["slides"] if slide["status"] != "failed" and slide.get("objects")]
    slide_ids = tuple(str(slide["slide_id"]) for slide in slides)
    counts = [int(slide["objects"]) for slide in slides]
    starts: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    stages = [SlideStore.in_results(results.path, slide_id).attributes("embeddings") for slide_id in slide_ids]
    wanted = fingerprint("search", 1, slide_ids, counts, [stage.get("fingerprint") for stage in stages])
    folder = results.path / _INDEX
    if not _is_laid_out(folder, wanted):
        try:
            write_index(folder, _slide_embeddings(results, slide_ids), int(starts[-1]), wanted)
        except OSError:
            embeddings, lengths = _cleaned(np.concatenate(list(_slide_embeddings(results, slide_ids))))
            return Index(results, embeddings, lengths, slide_ids, starts)
    embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    return Index(results, embeddings, np.load(folder / "lengths.npy"), slide_ids, starts)


def _slide_embeddings(results: Results, slide_ids: Sequence[str]) -> Iterator[Float32Array]:
    for slide_id in slide_ids:
        yield np.asarray(results.embeddings(slide_id)[...], np.float32)


def _is_laid_out(folder: Path, wanted: str) -> bool:
    try:
        record = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("fingerprint") == wanted


def write_index(folder: Path, parts: Iterator[Float32Array], rows: int, fingerprint: str) -> None:
    """Lay out embeddings, float32 (n, D) a slide, as ``embeddings.npy`` and ``lengths.npy``; ``index.json`` goes last."""
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
        if matrix is None:  # nothing to map
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
    """The rows most like ``query``.

    Scores are made in float32 over blocks; the best few times ``top`` are measured again in float64, so that the order does not
    depend on rounding.

    Args:
        embeddings: float32 (N, D), may be memory-mapped.
        lengths: float32 (N,); rows of length zero are never returned.
        query: float64 (D,).
        top: at most so many.
        metric: ``cosine`` or ``euclidean``.

    Returns:
        Rows, int64 (K,), best first, and their cosine similarity or Euclidean distance, float64 (K,).
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
        # |x - q|^2 less the part that is the same for all rows, negated: larger is nearer.
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
    """The objects that look most like an image file or a stored object.

    Args:
        results_paths: RESULTS folders whose objects were embedded by the same backbone.
        query: an image file, or an ``object_id`` of one of the folders (which is then not among the answers).
        top: how many.
        metric: see :func:`nearest`.
        device: where an image is embedded.

    Returns:
        A row an object, best first: ``rank``, ``similarity`` (cosine) or ``distance`` (euclidean), ``results``, and the columns
        of the object table that say what and where it is.

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
    """Refuse folders whose embeddings cannot be compared.

    Raises:
        ResultsError: names the folder that differs, and in what.
    """
    first = opened[0].manifest["backbone"]
    for results in opened[1:]:
        other = results.manifest["backbone"]
        for name in _IDENTITY:
            if first.get(name) != other.get(name):
                raise ResultsError(
                    f"{results.path}: embedded with another backbone than {opened[0].path} ({name}: {other.get(name)!r}, not "
                    f"{first.get(name)!r}). Search them apart, or run one again with the other's settings"
                )


def query_embedding(opened: Sequence[Results], query: str, device: str) -> tuple[FloatArray, tuple[int, str] | None]:
    """The embedding to search for, float64 (D,); for a stored object also its folder's number and id."""
    if Path(query).is_file():
        return embed_image(opened[0], Path(query), device).astype(np.float64), None
    for number, results in enumerate(opened):
        if query.rpartition(":")[0] in {str(slide["slide_id"]) for slide in results.manifest["slides"]}:
            embedding = results.embedding(query)
            if not np.isfinite(embedding).all():
                raise ResultsError(f"{query}: has no embedding, its pixels could not be read from the slide")
            return embedding.astype(np.float64), (number, query)
    raise SettingsError(
        f"{query}: neither an image file nor an object. Objects are named SLIDE_ID:NUMBER, as in objects.parquet"
    )


def embed_image(results: Results, image: Path, device: str) -> Float32Array:
    """Embed an image as the run embedded its crops: same backbone, weights, settings and views. float32 (D,).

    Raises:
        ResultsError: the backbone of the manifest is not the one that would be used now (its version or weights changed).
    """
    from slidepipe import plugins
    from slidepipe.classification.reference_set import read_image
    from slidepipe.config import parse_config
    from slidepipe.pipeline.specs import embed_spec
    from slidepipe.pipeline.tasks import embed_images, get_backbone

    config = parse_config(results.manifest["settings"], str(results.path / "manifest.json"))
    plugins.register_files(config.plugins)
    spec = embed_spec(config)
    now = spec.identity()
    backbone = get_backbone(spec.plugin, device)
    now["weights_sha256"] = backbone.weights_sha256
    stored = results.manifest["backbone"]
    for name in _IDENTITY:
        if now.get(name) != stored.get(name):
            raise ResultsError(
                f"{results.path}: its backbone {stored['name']} has changed since ({name}: {now.get(name)!r}, then "
                f"{stored.get(name)!r}). Bring that back, or give the same run command again to embed anew"
            )
    return np.asarray(embed_images(replace(spec, device=device), [read_image(image)], [str(image)])[0], np.float32)


def _described(opened: Sequence[Results], hits: Sequence[tuple[float, int, str]], column: str) -> pd.DataFrame:
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
    """Embeddings with the rows of lost crops (NaN) as zeros, and the length of each row."""
    finite: BoolArray = np.asarray(np.isfinite(embeddings).all(axis=1))
    clean = np.where(finite[:, None], embeddings, np.float32(0))
    return clean, np.linalg.norm(clean, axis=1).astype(np.float32)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
