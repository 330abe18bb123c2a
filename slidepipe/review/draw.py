"""Draw objects at random for review, and record the draw, so that counts can be corrected from the labels.

`review.csv` holds the draw and its design: the stratum of each object, the number of objects in the stratum (`stratum_size`) and
the number drawn from it (`stratum_drawn`). The reviewer's labels are read by `slidepipe.review.labels`.
"""

import hashlib
import heapq
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from slidepipe.classification.object_table import ACCEPTED, UNUSABLE
from slidepipe.crops.cut import decode_crop
from slidepipe.errors import ResultsError, SettingsError
from slidepipe.results import Results
from slidepipe.review.audit import FAR, NEAR
from slidepipe.review.labels import LABELS_FILE, REVIEW_FILE, read_cells, read_labels
from slidepipe.store.files import write_file, write_text

By = Literal["genus", "sample", "slide"]
BY: tuple[By, ...] = get_args(By)

REVIEW_FOLDER = "review"

REVIEW_COLUMNS = (
    "object_id",
    "slide_id",
    "sample_id",
    "x0",
    "y0",
    "x1",
    "y1",
    "candidate",
    "crop",
    "stratum",
    "stratum_kind",
    "stratum_sample",
    "stratum_size",
    "stratum_drawn",
    "weight",
    "genus",
)

#: Columns of the object table that a draw needs.
DRAW_COLUMNS = (
    *("object_id", "slide_id", "sample_id", "x0", "y0", "x1", "y1"),
    *("state", "genus", "candidate", "p_value", "distance"),
)

_CELL_PX, _LABEL_PX, _COLUMNS, _ROWS = 220, 22, 5, 6


def sample_review(results: Path, count: int, seed: int = 0, by: By = "genus") -> pd.DataFrame:
    """Draw objects of a RESULTS folder, and write `review.csv`, their crops and contact sheets (`review/`).

    A call with a larger `count` and the same seed and strata extends the draw: the objects drawn before stay, with the labels in
    `review.csv`.

    Args:
        results: the RESULTS folder.
        count: number of objects to draw.
        seed: seed of the draw.
        by: `genus` for strata that are the answers (each genus, unknown) over the whole well; `sample` or `slide` for the answers
            within each sample or slide.

    Returns:
        The rows of `review.csv`.

    Raises:
        ResultsError: the folder holds no finished results, or another draw.
        SettingsError: `count` is smaller than the number of strata.
    """
    opened = Results(results)
    drawn = draw_objects(usable_objects(opened.object_table.read(DRAW_COLUMNS)), count, seed, by)
    before = read_draw(results)
    rows = drawn if before is None else _extended(drawn, before, results)
    rows["crop"] = [f"{REVIEW_FOLDER}/{number:04d}.jpg" for number in range(1, len(rows) + 1)]
    rows = rows[list(REVIEW_COLUMNS)].reset_index(drop=True)
    folder = results / REVIEW_FOLDER
    folder.mkdir(exist_ok=True)
    jpegs = [opened.jpeg(object_id) for slide_id, object_id in zip(rows["slide_id"], rows["object_id"], strict=True)]
    for name, jpeg in zip(rows["crop"], jpegs, strict=True):
        write_file(results / name, lambda part, data=jpeg: part.write_bytes(data))  # type: ignore[misc]  # a loop's default
    _write_sheets(folder, jpegs)
    write_text(results / REVIEW_FILE, rows.to_csv(index=False, lineterminator="\n"))
    return rows


def usable_objects(objects: pd.DataFrame) -> pd.DataFrame:
    """Return the objects that can be drawn: all but the unusable ones, which a reviewer could not judge.

    Args:
        objects: rows of the object table, with the columns `DRAW_COLUMNS`.
    """
    return objects.loc[objects["state"] != UNUSABLE, list(DRAW_COLUMNS)].reset_index(drop=True)


def draw_objects(usable: pd.DataFrame, count: int, seed: int, by: By) -> pd.DataFrame:
    """Draw a stratified random sample without replacement.

    The objects of each stratum are ordered by a hash of the seed and their id, and the first ones are taken, so a larger draw
    contains the smaller one. The rows of the result are ordered by another hash, so any number of rows from the top is a random
    part of the draw.

    Args:
        usable: the usable objects, with the columns `DRAW_COLUMNS`.
        count: number of objects to draw; all objects are drawn if there are fewer.
        seed: seed of the draw.
        by: the strata, as in `sample_review`.

    Returns:
        The columns of `review.csv` without `crop`.

    Raises:
        SettingsError: `count` is smaller than the number of strata, there are no objects, or `by` is unknown.
    """
    if by not in BY:
        raise SettingsError(f"--by is '{by}'. Use one of {', '.join(BY)}")
    if usable.empty:
        raise SettingsError("these results contain no usable object, so there is nothing to review")
    strata = usable.assign(stratum_kind=_kinds(usable))
    strata["stratum_sample"] = strata["sample_id"] if by != "genus" else ""
    place = {"genus": None, "sample": "sample_id", "slide": "slide_id"}[by]
    strata["stratum"] = strata["stratum_kind"] if place is None else strata[place] + ": " + strata["stratum_kind"]
    names, sizes_there = np.unique(strata["stratum"].to_numpy(str), return_counts=True)
    sizes = {str(name): int(size) for name, size in zip(names, sizes_there, strict=True)}
    kinds = dict(zip(strata["stratum"], strata["stratum_kind"], strict=True))
    taken = allocate(sizes, kinds, count)
    strata["_key"] = [_hash(seed, "draw", name) for name in strata["object_id"]]
    ordered = strata.sort_values(["stratum", "_key", "object_id"])
    rank = ordered.groupby("stratum").cumcount()
    rows = ordered[rank < ordered["stratum"].map(taken)].copy()
    rows["stratum_size"] = rows["stratum"].map(sizes)
    rows["stratum_drawn"] = rows["stratum"].map(taken)
    rows["weight"] = (rows["stratum_size"] / rows["stratum_drawn"]).round(6)
    rows["_key"] = [_hash(seed, "order", name) for name in rows["object_id"]]
    rows = rows.sort_values(["_key", "object_id"])
    rows["genus"] = ""
    return rows[[column for column in REVIEW_COLUMNS if column != "crop"]].reset_index(drop=True)


def allocate(sizes: Mapping[str, int], kinds: Mapping[str, str], count: int) -> dict[str, int]:
    """Return how many objects to draw from each stratum.

    Half are objects accepted as a genus and half are unknown objects. Each stratum gives at least one object; the others are
    shared out in proportion to the sizes of the strata (method of Sainte-Laguë, with which no stratum's number falls when `count`
    grows). Of the unknown objects, half are near ones and half far ones.

    Args:
        sizes: number of objects of each stratum.
        kinds: for each stratum a genus, `slidepipe.review.audit.NEAR` or `slidepipe.review.audit.FAR`.
        count: total number of objects to draw.

    Raises:
        SettingsError: `count` is smaller than the number of strata.
    """
    unknown = [name for name in sizes if kinds[name] in (NEAR, FAR)]
    accepted = [name for name in sizes if kinds[name] not in (NEAR, FAR)]
    if count < len(sizes):
        raise SettingsError(
            f"--n {count} is too small: each of the {len(sizes)} strata needs an object. "
            f"Use --n {len(sizes)} or more, or a coarser --by"
        )
    total_accepted, total_unknown = (sum(sizes[name] for name in names) for names in (accepted, unknown))
    count = min(count, total_accepted + total_unknown)
    for_accepted = max(count // 2, len(accepted), count - total_unknown)
    for_accepted = min(for_accepted, total_accepted, count - len(unknown))
    of_kind = {kind: sum(sizes[name] for name in unknown if kinds[name] == kind) for kind in (NEAR, FAR)}
    return {
        **_apportion(accepted, {name: float(sizes[name]) for name in accepted}, sizes, for_accepted),
        **_apportion(
            unknown, {name: sizes[name] / of_kind[kinds[name]] for name in unknown}, sizes, count - for_accepted
        ),
    }


def read_draw(results: Path) -> pd.DataFrame | None:
    """Return the rows of `review.csv`, or None if nothing was drawn. Coordinates and sizes are integers, other cells text.

    Raises:
        ResultsError: the file cannot be read, or columns are missing.
    """
    path = results / REVIEW_FILE
    if not path.exists():
        return None
    rows = pd.DataFrame(read_cells(path, REVIEW_COLUMNS), columns=list(REVIEW_COLUMNS), dtype=object)
    numbers = ("x0", "y0", "x1", "y1", "stratum_size", "stratum_drawn")
    try:
        for column in numbers:
            rows[column] = pd.to_numeric(rows[column]).astype("int64")
    except (ValueError, TypeError) as error:
        raise ResultsError(
            f"{path}: a number is missing or damaged ({error}). Restore the file, or draw again"
        ) from error
    return rows


def labels_sha256(results: Path) -> str:
    """Return the SHA-256 of `review.csv` and `labels.csv`, which the tables depend on.

    Raises:
        ResultsError: one of them is damaged. Both are read for that reason, before the work of a run starts.
    """
    read_draw(results)
    read_labels(results)
    digest = hashlib.sha256()
    for name in (REVIEW_FILE, LABELS_FILE):
        path = results / name
        digest.update(path.read_bytes() if path.exists() else b"")
        digest.update(b"\0")
    return digest.hexdigest()


def _kinds(usable: pd.DataFrame) -> pd.Series:
    """Return the kind of stratum of each object: its genus, or `NEAR` or `FAR` for unknown objects.

    Near are the third of the unknown objects that look most like a genus. Most missed fossils are among them.
    """
    kinds = usable["genus"].astype(object).where(usable["state"] == ACCEPTED, FAR)
    unknown = usable.index[usable["state"] != ACCEPTED]
    candidate = usable.loc[unknown, "candidate"].fillna("_").astype(str)
    ranked = pd.DataFrame(
        {
            "reject": candidate.str.startswith("_"),
            "strange": -usable.loc[unknown, "p_value"].fillna(0.0),
            "distance": usable.loc[unknown, "distance"].fillna(np.inf),
            "object_id": usable.loc[unknown, "object_id"],
        }
    ).sort_values(["reject", "strange", "distance", "object_id"])
    kinds.loc[ranked.index[: -(-len(ranked) // 3)]] = NEAR
    return kinds


def _apportion(
    names: Sequence[str], weights: Mapping[str, float], sizes: Mapping[str, int], count: int
) -> dict[str, int]:
    """Share `count` objects out among strata in proportion to their weights: at least one each, at most their size."""
    given = dict.fromkeys(names, 1)
    # The divisors of Sainte-Laguë are 1.5, 2.5, ...: the stratum with the largest quotient gets the next object.
    queue = [(-weights[name] / 1.5, name) for name in names if sizes[name] > 1]
    heapq.heapify(queue)
    for _ in range(count - len(names)):
        _, name = heapq.heappop(queue)
        given[name] += 1
        if given[name] < sizes[name]:
            heapq.heappush(queue, (-weights[name] / (given[name] + 0.5), name))
    return given


def _extended(drawn: pd.DataFrame, before: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Return `drawn` with the rows of the earlier draw `before` first, in their order and with their labels.

    Raises:
        ResultsError: the earlier draw is not part of this one.
    """
    now = drawn.set_index("object_id")
    same = before["object_id"].isin(now.index).all() and all(
        (before[column].to_numpy() == now.loc[before["object_id"], column].to_numpy()).all()
        for column in ("stratum", "stratum_size", "x0", "y0", "x1", "y1")
    )
    if not same:
        raise ResultsError(
            f"{results / REVIEW_FILE}: holds another draw (made with another seed, --by or larger --n, or from other results). "
            f"Label that draw, or move the file away to draw again: {LABELS_FILE} stays valid for objects that are drawn again"
        )
    position = {name: place for place, name in enumerate(before["object_id"])}
    place = drawn["object_id"].map(position).fillna(len(position))
    rows = drawn.assign(_place=place).sort_values("_place", kind="stable").drop(columns="_place")
    rows["genus"] = rows["object_id"].map(dict(zip(before["object_id"], before["genus"], strict=True))).fillna("")
    return rows


def _hash(seed: int, purpose: str, object_id: str) -> int:
    """Return a random number that depends only on the seed, the purpose and the object."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _write_sheets(folder: Path, jpegs: Sequence[bytes]) -> None:
    """Write contact sheets, with the numbers of the crops.

    They do not show the proposed genus, so that it does not influence the reviewer.
    """
    for old in folder.glob("sheet_*.jpg"):
        old.unlink()
    page = _COLUMNS * _ROWS
    for start in range(0, len(jpegs), page):
        members = jpegs[start : start + page]
        rows = -(-len(members) // _COLUMNS)
        sheet = Image.new("RGB", (_COLUMNS * _CELL_PX, rows * (_CELL_PX + _LABEL_PX)), "white")
        pen = ImageDraw.Draw(sheet)
        for place, jpeg in enumerate(members):
            row, column = divmod(place, _COLUMNS)
            x, y = column * _CELL_PX, row * (_CELL_PX + _LABEL_PX)
            if jpeg:
                picture = Image.fromarray(decode_crop(jpeg))
                picture.thumbnail((_CELL_PX - 8, _CELL_PX - 8))
                sheet.paste(picture, (x + (_CELL_PX - picture.width) // 2, y + (_CELL_PX - picture.height) // 2))
            pen.text((x + 6, y + _CELL_PX + 4), f"{start + place + 1:04d}", fill="black")
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        write_file(folder / f"sheet_{start // page + 1:02d}.jpg", lambda part, data=data: part.write_bytes(data))  # type: ignore[misc]  # a loop's default
