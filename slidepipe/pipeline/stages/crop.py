"""The stage "crop": each object cut from its slide and stored as a JPEG, with what is measured on it."""

import json
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from slidepipe.config import Config
from slidepipe.crops.cut import cut_crops, encode_crop
from slidepipe.crops.quality import RULES, VERSION, long_sides_um, measure_crop
from slidepipe.errors import RegionError
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.pipeline.stages.stage import Expect, Retry, Stage
from slidepipe.slides.geometry import SlideMeta
from slidepipe.store.arrays import read_array, write_jpegs

_NAME = "crop"

#: Objects per part of the crops. A part is one task and one file.
PART_ROWS = 256

#: What a part holds for each object besides the bytes of its JPEG, and the type of each value.
_COLUMNS = {"lengths": np.int64, **{rule.column: np.float64 for rule in RULES}}


def _depends_on(job: SlideJob, meta: SlideMeta, before: str) -> tuple[object, ...]:
    return before, vars(job.crops)


def _is_needed(state: SlideState) -> bool:
    """Crops without pixels are enough if the embeddings are done and the crops are not to be kept."""
    if state.job is None:
        return False
    enough = state.has_crop_pixels or (state.is_done("embeddings") and not state.job.keep_crops)
    return not (state.is_done("crops") and enough)


def _work(state: SlideState, config: Config, expect: Expect) -> Work:
    job = state.job_with_slide()
    objects = state.count_objects()
    expect(objects)
    parts = -(-objects // PART_ROWS)
    started = perf_counter()
    yield [Task(crop_part, (job, part), counts_for=_NAME) for part in range(parts)]
    (lost,) = yield [Task(find_lost_parts, (job, parts))]
    yield [Task(crop_part, (job, part, True), counts_for=_NAME) for part in lost]
    yield [Task(publish_crops, (job, parts, perf_counter() - started))]


def _retry_lost(state: SlideState, config: Config) -> Retry:
    lost = state.lost_in("crops")
    if state.job is None or not lost:
        return False
    rows = [int(row) for row in lost]
    (still_lost,) = yield [Task(count_lost_crops, (state.job, rows))]
    return bool(still_lost < len(rows))


def _clean_up(state: SlideState) -> Work:
    if state.job is not None and not state.job.keep_crops and state.has_crop_pixels:
        yield [Task(delete_crop_pixels, (state.job,))]


# -- tasks --------------------------------------------------------------------------------------------------------------


def crop_part(job: SlideJob, part: int, again: bool = False) -> int:
    """Cut, encode and store the crops of one part.

    Args:
        job: the work on the slide.
        part: number of the part.
        again: do it even if the part is stored already.

    Returns:
        the number of objects of the part.
    """
    wanted = job.fingerprints["crops"]
    boxes = job.store.read_array("boxes", "boxes")[part * PART_ROWS : (part + 1) * PART_ROWS]
    if not again and job.store.part_path("crops", wanted, part).exists():
        return len(boxes)
    jpegs = [b""] * len(boxes)
    reasons: dict[int, str] = {}
    measured = {rule.column: np.full(len(boxes), np.nan) for rule in RULES}
    slide = job.open_slide()
    long_um = long_sides_um(boxes, slide.meta.mpp_x, slide.meta.mpp_y) * (1 + 2 * job.crops.margin)
    for row, crop in cut_crops(slide, boxes, job.crops):
        if isinstance(crop, RegionError):
            reasons[row] = job.without_path(str(crop))
        else:
            jpegs[row] = encode_crop(crop, job.crops)
            for name, value in measure_crop(crop, long_um[row] / max(crop.shape[:2])).items():
                measured[name][row] = value
    job.store.save_part(
        "crops",
        wanted,
        part,
        **measured,
        jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
        lengths=np.array([len(jpeg) for jpeg in jpegs], np.int64),
        lost=np.array(json.dumps({part * PART_ROWS + row: reason for row, reason in sorted(reasons.items())})),
    )
    return len(boxes)


def find_lost_parts(job: SlideJob, parts: int) -> list[int]:
    """Return the numbers of the parts in which an object could not be read."""
    wanted = job.fingerprints["crops"]
    return [part for part in range(parts) if json.loads(str(job.store.load_part("crops", wanted, part)["lost"]))]


def count_lost_crops(job: SlideJob, rows: Sequence[int]) -> int:
    """Return how many of the objects in `rows`, which could not be read at an earlier run, still cannot be read."""
    boxes = job.store.read_array("boxes", "boxes")[list(rows)]
    return sum(isinstance(crop, RegionError) for _, crop in cut_crops(job.open_slide(), boxes, job.crops))


def publish_crops(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the parts of a slide and publish its crops.

    Args:
        job: the work on the slide.
        parts: the number of parts.
        seconds: how long the stage took.
    """
    wanted = job.fingerprints["crops"]
    columns: dict[str, list[Any]] = {name: [np.zeros(0, kind)] for name, kind in _COLUMNS.items()}
    lost: dict[str, str] = {}
    for part in range(parts):
        stored = job.store.load_part("crops", wanted, part)
        for name, values in columns.items():
            values.append(stored[name])
        lost |= json.loads(str(stored["lost"]))
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    ends = np.cumsum(joined.pop("lengths")).astype(np.int64)
    total = int(ends[-1]) if len(ends) else 0
    attributes = {"objects": len(ends), "lost": lost, "kept": True, "seconds": round(seconds, 3)}

    def write(group: Any) -> None:
        jpegs = (job.store.load_part("crops", wanted, part)["jpeg"] for part in range(parts))
        write_jpegs(group, jpegs, total, ends)
        for name, values in joined.items():
            group.create_array(name, data=values)

    job.store.unpublish(*job.stages_after("crops"))  # they belong to the earlier crops
    job.store.publish("crops", wanted, attributes, write)
    job.store.delete_parts("crops", wanted)


def delete_crop_pixels(job: SlideJob) -> None:
    """Publish the crops of a slide without their pixels. What was measured on them, and what could not be read, stays."""
    attributes = {**job.store.attributes("crops"), "kept": False}
    before = job.store.read("crops")
    measured = {name: read_array(before, name) for name in _COLUMNS if name != "lengths"}

    def write(group: Any) -> None:
        write_jpegs(group, iter(()), 0, np.zeros(int(attributes["objects"]), np.int64))
        for name, values in measured.items():
            group.create_array(name, data=values)

    job.store.publish("crops", job.fingerprints["crops"], attributes, write)


CROP = Stage(
    name=_NAME,
    stored="crops",
    version=VERSION,
    unit="object",
    depends_on=_depends_on,
    work=_work,
    is_needed=_is_needed,
    retry_lost=_retry_lost,
    clean_up=_clean_up,
)
