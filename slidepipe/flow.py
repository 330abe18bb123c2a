"""The main flow: discover, plan, detect, crop, embed, classify, count."""

import errno
import functools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

from slidepipe import plugins, store, tasks
from slidepipe.blocks import plan_blocks, plan_grid
from slidepipe.config import Config
from slidepipe.engine import Engine, Task, Work
from slidepipe.errors import ResultsError, SlideError, SlidepipeError
from slidepipe.manifest import RunSummary, check_same_well, describe_reference, read_manifest, write_manifest
from slidepipe.plan import (
    SlideState,
    detector_spec,
    embed_spec,
    head_spec,
    plan_slide,
    plugin_identity,
    reference_folder,
    tables_fingerprint,
)
from slidepipe.progress import Progress
from slidepipe.reference import ImageFolder, ReferenceSet, as_reference, fingerprint_folder, load_cached, save_cached
from slidepipe.report import write_report
from slidepipe.review import labels_sha256
from slidepipe.reviewed import Heads, find_reviewed, join_reviewed
from slidepipe.spike import check_spike
from slidepipe.tables import TABLES, find_lost, write_tables
from slidepipe.tasks import EmbedSpec
from slidepipe.well import discover

logger = logging.getLogger(__name__)

REPORT = "report.html"

#: Reference images of a task.
_REFERENCE_PART = 64


def run_well(well: Path, out: Path, config: Config, progress: Progress | None = None) -> RunSummary:
    """Count the fossils of a well.

    Args:
        well: a folder of slides, one slide, or a list file.
        out: the RESULTS folder; what it holds of the same well is used again.
        config: all settings.
        progress: hears how far the work is.

    Raises:
        SlidepipeError: bad input or settings; nothing that was finished is lost.
    """
    progress = progress or Progress(shown=False)
    plugins.register_files(config.plugins)
    slides = discover(well, config.mpp)
    folder, embed, head = reference_folder(config), embed_spec(config), head_spec(config)
    wells = sorted({slide.sample.well for slide in slides})
    if len(wells) > 1:
        logger.warning("%s: slides of %d wells (%s), each counted under its own", well, len(wells), ", ".join(wells))
    check_spike(slides, folder.names, config.counting.spike_genus)
    with store.locked(out), _disk_errors_told(out), ExitStack() as stack:
        check_same_well(out, slides)
        labels = labels_sha256(out)
        store.sweep(out)
        detector = detector_spec(config)
        states = [plan_slide(slide, out, config, embed, detector) for slide in slides]
        for state in states:
            _stop_if_wanted(config, state)

        @functools.cache
        def start_engine() -> Engine:  # a run with nothing left to do starts no cluster
            return stack.enter_context(Engine(config.run.scheduler, config.run.workers))

        identity = {**plugin_identity("backbone", embed.plugin), "views": embed.views}
        fingerprint = fingerprint_folder(folder, {**identity, "batch": embed.batch})
        reviewed = find_reviewed(config.reference_results, sorted(set(folder.genera)), identity, out)
        reference = load_cached(fingerprint)
        pending = [state for state in states if state.job is not None and not _is_finished(state)]
        if reference is None:
            reference = _embed_reference(folder, embed, fingerprint, start_engine())
        joined = join_reviewed(reference, reviewed)

        @functools.cache
        def fit_heads() -> Heads:
            return Heads(
                lambda: plugins.create("head", head.name, json.loads(head.settings)), config.head.alpha, joined
            )

        if pending:
            fit_heads()  # a head that refuses its settings or the reference set does so before the night's work, not after
            _process(start_engine(), pending, config, progress)
        for state in states:
            if state.job is not None and not state.failure:
                state.lost = find_lost(state.job.folder, state.slide.slide_id)

        wanted = tables_fingerprint(states, config, head, joined.all.fingerprint, labels)
        previous = read_manifest(out)
        if previous.get("tables") == wanted and all((out / name).exists() for name in (*TABLES, REPORT)):
            return _summary(out, states, previous["objects"], previous["accepted"], redone=False)
        record = (
            well,
            config,
            states,
            {**identity, "weights_sha256": reference.weights_sha256},
            describe_reference(folder, joined.all.fingerprint),
        )
        # Written last, the report says that all the rest is there.
        (out / REPORT).unlink(missing_ok=True)
        write_manifest(_summary(out, states, 0, 0, redone=True), *record, tables=None)
        counts = write_tables(out, states, fit_heads(), folder.names, config.counting)
        summary = _summary(
            out,
            states,
            sum(count.states.total() for count in counts),
            sum(count.genera.total() for count in counts),
            redone=True,
        )
        write_manifest(summary, *record, tables=wanted)
        write_report(out)
        return summary


def _embed_reference(folder: ImageFolder, embed: EmbedSpec, fingerprint: str, engine: Engine) -> ReferenceSet:
    starts = range(0, len(folder.files), _REFERENCE_PART)
    root = folder.root.resolve()
    parts = engine.map(
        Task(tasks.embed_reference_part, (embed, root, folder.files[start : start + _REFERENCE_PART]))
        for start in starts
    )
    reference = as_reference(folder, [embeddings for embeddings, _ in parts], fingerprint, parts[0][1])
    save_cached(reference)
    return reference


def _process(engine: Engine, pending: Sequence[SlideState], config: Config, progress: Progress) -> None:
    by_id = {state.slide.slide_id: state for state in pending}
    with progress.of(len(pending)):
        works = ((slide_id, _slide_steps(state, config, progress)) for slide_id, state in by_id.items())
        for slide_id, error in engine.drive(works, progress.task_done):
            state = by_id[slide_id]
            if error is not None:
                if _is_out_of_space(error):
                    raise error
                reason = str(error) if isinstance(error, SlidepipeError) else f"{type(error).__name__}: {error}"
                state.failure = " ".join(reason.split())
                logger.debug("%s failed in %s", slide_id, state.stage, exc_info=error)
                _stop_if_wanted(config, state)
            progress.slide_done(slide_id, state.failure)


def _slide_steps(state: SlideState, config: Config, progress: Progress) -> Work:
    """The stages of one slide: yields their tasks, is sent the results. A stage that is published is passed over."""
    job, meta = state.job, state.meta
    if job is None or meta is None:
        return
    state.stage = "detect"
    if not store.is_done(job.folder, "boxes", job.fingerprints["boxes"]):
        started = perf_counter()
        detector = tasks.get_detector(job.detector)
        grid = plan_grid(meta, detector.mpp)
        blocks = plan_blocks(grid, detector, config.detector.block_px)
        progress.planned("detect", len(blocks))
        results = yield [Task(tasks.detect, (job, grid, block)) for block in blocks]
        if len(results) != len(blocks):
            raise SlideError(f"{job.path}: {len(blocks)} blocks planned, {len(results)} done")
        # Not published: what could not be read tonight may be read tomorrow.
        if not any(result.analysed_mm2 for result in results) and (
            lost := [r for result in results for r in result.lost_regions]
        ):
            raise SlideError(f"{job.path}: none of it can be read ({lost[0][1]})")
        yield [Task(tasks.publish_boxes, (job, results, perf_counter() - started))]
    boxes = store.stage_attributes(job.folder, "boxes")
    parts = tasks.count_parts(int(boxes["objects"]))
    state.stage = "crop"
    if not store.is_done(job.folder, "crops", job.fingerprints["crops"]):
        started = perf_counter()
        progress.planned("crop", boxes["objects"])
        yield [Task(tasks.crop_part, (job, part)) for part in range(parts)]
        yield [Task(tasks.publish_crops, (job, parts, perf_counter() - started))]
    state.stage = "embed"
    if not store.is_done(job.folder, "embeddings", job.fingerprints["embeddings"]):
        started = perf_counter()
        progress.planned("embed", boxes["objects"])
        yield [Task(tasks.embed_part, (job, part)) for part in range(parts)]
        yield [Task(tasks.publish_embeddings, (job, parts, perf_counter() - started))]


def _is_finished(state: SlideState) -> bool:
    job = state.job
    return job is not None and all(store.is_done(job.folder, stage, job.fingerprints[stage]) for stage in store.STAGES)


def _stop_if_wanted(config: Config, state: SlideState) -> None:
    if state.failure and config.run.on_error == "stop":
        raise SlideError(f"{state.slide.slide_id}: stopped at {state.stage}: {state.failure}")


def _summary(out: Path, states: Sequence[SlideState], objects: int, accepted: int, redone: bool) -> RunSummary:
    return RunSummary(
        results=out,
        slides=len(states),
        failed=tuple(state.slide.slide_id for state in states if state.failure),
        partial=tuple(state.slide.slide_id for state in states if state.lost and not state.failure),
        objects=objects,
        accepted=accepted,
        redone=redone,
        reason=next((state.failure for state in states if state.failure), ""),
    )


@contextmanager
def _disk_errors_told(out: Path) -> Iterator[None]:
    """Turn a full or read-only disk, wherever it shows, into one clear error."""
    try:
        yield
    except OSError as error:
        if _is_out_of_space(error):
            raise ResultsError(
                f"{out}: no space left on its disk. Free some and give the same command again: what is finished is kept"
            ) from error
        if error.filename is not None and Path(str(error.filename)).resolve().is_relative_to(out.resolve()):
            raise ResultsError(
                f"{error.filename}: cannot be written ({error.strerror}). Mend the folder, or give another --out"
            ) from error
        raise


def _is_out_of_space(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
