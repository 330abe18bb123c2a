"""The main flow: discover, plan, detect, crop, embed, classify, count."""

import errno
import functools
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import slidepipe
from slidepipe import plugins
from slidepipe.classification.reference_set import (
    ImageFolder,
    ReferenceSet,
    as_reference,
    check_images,
    fingerprint_folder,
    load_cached,
    save_cached,
)
from slidepipe.config import Config
from slidepipe.counting.spike import check_spike
from slidepipe.crops.cut import CropSpec
from slidepipe.errors import ResultsError, SettingsError, SlideError, SlidepipeError
from slidepipe.interfaces import Head
from slidepipe.paths import absolute
from slidepipe.pipeline import tasks
from slidepipe.pipeline.engine import Engine, Task, Work
from slidepipe.pipeline.plan import (
    SlideState,
    cards,
    crop_spec,
    detector_spec,
    embed_spec,
    embedding_identity,
    find_slides,
    head_spec,
    plan_slide,
    reference_folder,
    reference_identity,
    tables_fingerprint,
)
from slidepipe.pipeline.progress import Progress, RunPlan
from slidepipe.pipeline.stages import count_blocks, count_objects, is_enough, is_finished, slide_steps
from slidepipe.pipeline.tables import TABLES, find_lost, write_tables
from slidepipe.pipeline.tasks import EmbedSpec, PluginSpec
from slidepipe.report import write_report
from slidepipe.review.draw import labels_sha256
from slidepipe.review.references import Heads, find_reviewed, join_reviewed
from slidepipe.samples.sample import WellSlide
from slidepipe.store.files import delete_temporary_files
from slidepipe.store.lock import locked
from slidepipe.store.manifest import RunSummary, check_same_well, describe_reference, read_manifest, write_manifest

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
    progress = progress or Progress()
    plugins.register_files(config.plugins)
    previous = read_manifest(out)
    slides, absent = find_slides(well, config.mpp, previous)
    if absent:
        logger.warning("%s: its slides are not there; going on from what %s holds of them", well, out)
    folder, embed, head = reference_folder(config), embed_spec(config), head_spec(config)
    crops = crop_spec(config)
    wells = sorted({slide.sample.well for slide in slides})
    if len(wells) > 1:
        logger.warning("%s: slides of %d wells (%s), each counted under its own", well, len(wells), ", ".join(wells))
    check_spike(slides, folder.names, config.counting.spike_genus)
    with locked(out), _disk_errors_told(out), ExitStack() as stack:
        check_same_well(out, slides)
        _tell_of_removed(well, previous, slides)
        labels = labels_sha256(out)
        delete_temporary_files(out)
        detector = detector_spec(config)
        known = {entry["slide_id"]: entry for entry in previous.get("slides", ())}
        states = [plan_slide(slide, out, config, embed, detector, known.get(slide.slide_id)) for slide in slides]
        for state in states:
            _stop_if_wanted(config, state)
        if states[0].unresolved is not None and all(state.unresolved for state in states):
            raise states[0].unresolved  # given now rather than after a night; one slide among others merely fails

        lacking = [state.slide.slide_id for state in states if absent and not is_enough(state)]
        if lacking:  # the tables that are there are better than any without these slides
            raise ResultsError(
                f"{well}: its slides are not there, and what {out} holds of {lacking[0]} is not enough for these settings "
                f"({len(lacking)} slides). Bring them back, or give the settings they were stored with"
            )

        @functools.cache
        def start_engine() -> Engine:  # a run with nothing left to do starts no cluster
            return stack.enter_context(
                _start_engine(config, [out, folder.root, *(state.slide.path for state in states)])
            )

        identity = embedding_identity(embed)
        fingerprint = fingerprint_folder(folder, reference_identity(embed, crops))
        reviewed = find_reviewed(config.reference_results, sorted(set(folder.genera)), identity, out)
        reference = load_cached(fingerprint)
        pending = [state for state in states if state.job is not None and not is_finished(state)]
        if pending:
            _check_before_work(folder, embed, head, config, start_engine() if reference is None else None)
            _process(start_engine(), pending, states, config, progress)
        for state in states:
            if state.job is not None and not state.failure:
                state.lost = find_lost(state.job.store, state.slide.slide_id)
        # After the work, so that a well without objects embeds none, and what was reviewed in these results is embedded anew.
        joined = None
        if any(count_objects(state) for state in states):
            joined = join_reviewed(
                reference or _embed_reference(folder, embed, crops, fingerprint, start_engine()), reviewed
            )

        @functools.cache
        def find_heads() -> Heads:
            if joined is None:
                raise SlidepipeError("there are no objects to classify")
            return Heads(functools.partial(_create_head, head), config.head.alpha, joined)

        used = joined.all.fingerprint if joined else fingerprint
        wanted = tables_fingerprint(states, config, head, used, labels)
        if previous.get("tables") == wanted and all((out / name).exists() for name in (*TABLES, REPORT)):
            return _summary(out, states, previous["objects"], previous["accepted"], redone=False)
        record = (
            well,
            config,
            states,
            {**identity, "weights_sha256": joined.all.weights_sha256 if joined else None},
            describe_reference(folder, used),
        )
        # Written last, the report says that all the rest is there.
        (out / REPORT).unlink(missing_ok=True)
        write_manifest(_summary(out, states, 0, 0, redone=True), *record, tables=None)
        counts = write_tables(out, states, find_heads, folder.names, config.counting, config.head.slide_shift)
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


def _start_engine(config: Config, seen: Sequence[Path]) -> Engine:
    """The cluster of the run. On other machines, what they must see is looked for first.

    Raises:
        SettingsError: the cluster cannot be used.
    """
    run = config.run
    dashboard = sys.stderr.isatty() if run.dashboard is None else run.dashboard
    engine = Engine(
        run.scheduler, run.workers, config.paths, cards=cards(config), dashboard=dashboard, jobqueue=run.jobqueue
    )
    if run.scheduler in ("local", "threads") and not config.paths:
        return engine
    needed = [absolute(path) for path in seen if path.exists()]
    try:
        around = engine.everywhere(tasks.look_around, needed)
    except ImportError as error:
        engine.close()
        raise SettingsError(
            f"scheduler {run.scheduler}: a worker has no slidepipe like this one ({error}). Start the workers in its environment"
        ) from error
    for address, (version, missing) in sorted(around.items()):
        if version != slidepipe.__version__:
            problem = f"has slidepipe {version}, this run {slidepipe.__version__}. Install the same on both"
        elif missing:
            problem = f"does not see {missing[0]}. Say in 'paths' where its machine has that folder"
        else:
            continue
        engine.close()
        raise SettingsError(f"worker {address}: {problem}")
    return engine


def _check_before_work(
    folder: ImageFolder, embed: EmbedSpec, head: PluginSpec, config: Config, engine: Engine | None
) -> None:
    """Let whatever the references, the backbone and the head refuse be refused now, and not after the night's work.

    Args:
        engine: embeds one image, where the reference set is still to be embedded.
    """
    if engine is not None:
        check_images(folder)
        root = absolute(folder.root)
        engine.map([Task(tasks.embed_reference_part, (embed, crop_spec(config), root, folder.files[:1]), gpu=True)])
    # What a head can refuse are its settings, alpha, and how many references the genera have: any embeddings will do.
    drawn = np.random.default_rng(0).normal(size=(len(folder.files), 8)).astype(np.float32)
    _create_head(head).fit(drawn, np.array(folder.genera), config.head.alpha)


def _create_head(head: PluginSpec) -> Head:
    return plugins.create("head", head.name, json.loads(head.settings))


def _embed_reference(
    folder: ImageFolder, embed: EmbedSpec, crops: CropSpec, fingerprint: str, engine: Engine
) -> ReferenceSet:
    starts = range(0, len(folder.files), _REFERENCE_PART)
    root = absolute(folder.root)
    parts = engine.map(
        Task(tasks.embed_reference_part, (embed, crops, root, folder.files[start : start + _REFERENCE_PART]), gpu=True)
        for start in starts
    )
    reference = as_reference(folder, parts, fingerprint)
    save_cached(reference)
    return reference


def _process(
    engine: Engine, pending: Sequence[SlideState], states: Sequence[SlideState], config: Config, progress: Progress
) -> None:
    ahead = {state.slide.slide_id: count_blocks(state, config) for state in pending}
    plan = RunPlan(
        slides=len(states),
        finished=len(states) - len(pending),
        failed={state.slide.slide_id: state.failure for state in states if state.failure},
        blocks=sum(ahead.values()),
        megapixels=sum(
            state.meta.bounds.width * state.meta.bounds.height * 1e-6
            for state in pending
            if state.meta is not None and ahead[state.slide.slide_id]
        ),
        threads=engine.threads,
        dashboard=engine.dashboard,
    )
    with progress.of(plan):
        worth_retrying = _process_once(engine, pending, config, progress)
        if worth_retrying:
            # A drive or a network that was away for a while may be back by now.
            for state in worth_retrying:
                state.failure = None
            progress.retrying(len(worth_retrying))
            _process_once(engine, worth_retrying, config, progress)


def _process_once(
    engine: Engine, pending: Sequence[SlideState], config: Config, progress: Progress
) -> list[SlideState]:
    """Work on slides side by side; returns those that failed in a way that may pass."""
    by_id = {state.slide.slide_id: state for state in pending}
    started: dict[str, float] = {}

    def works() -> Iterator[tuple[str, Work]]:
        for slide_id, state in by_id.items():
            started[slide_id] = perf_counter()
            yield slide_id, slide_steps(state, config, progress)

    may_pass = []
    for slide_id, error in engine.drive(works(), progress.task_done):
        state = by_id[slide_id]
        if error is not None:
            if _is_out_of_space(error):
                raise error
            reason = str(error) if isinstance(error, SlidepipeError) else f"{type(error).__name__}: {error}"
            state.failure = " ".join(reason.split()).removeprefix(f"{state.slide.path}: ")
            logger.debug("%s failed in %s", slide_id, state.stage, exc_info=error)
            _stop_if_wanted(config, state)
            if isinstance(error, (SlideError, OSError)) and not state.absent:
                may_pass.append(state)
        progress.slide_done(slide_id, state.failure, _facts(state, perf_counter() - started[slide_id]))
    return may_pass


def _facts(state: SlideState, seconds: float) -> dict[str, Any]:
    if state.job is None or state.failure:
        return {"seconds": round(seconds, 1)}
    boxes, crops = (state.job.store.attributes(stage) for stage in ("boxes", "crops"))
    return {
        "objects": boxes["objects"],
        "area_mm2": round(boxes["analysed_mm2"], 3),
        "lost_mm2": round(boxes["lost_mm2"], 3),
        "lost_crops": len(crops["lost"]),
        "seconds": round(seconds, 1),
    }


def _tell_of_removed(well: Path, previous: Mapping[str, Any], slides: Sequence[WellSlide]) -> None:
    now = {slide.slide_id for slide in slides}
    gone = [entry["slide_id"] for entry in previous.get("slides", ()) if entry["slide_id"] not in now]
    if gone:
        logger.warning(
            "%s: %s was in these results and is not in the well any more: it leaves the tables (what is stored of it stays)",
            well, ", ".join(gone),
        )  # fmt: skip


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
