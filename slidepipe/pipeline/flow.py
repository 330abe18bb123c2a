"""The main flow of a run: discover, plan, detect, crop, embed, classify, count, report.

`run_well` calls each step in order. The steps detect, crop and embed are the stages of `slidepipe.pipeline.stages`.
"""

import functools
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from slidepipe import plugins
from slidepipe.config import Config
from slidepipe.counting.spike import check_spike
from slidepipe.pipeline.disk import explain_disk_errors
from slidepipe.pipeline.engine import Engine
from slidepipe.pipeline.fingerprints import fingerprint_tables
from slidepipe.pipeline.plan import check_without_slides, find_slides, plan_slides
from slidepipe.pipeline.process import process_slides
from slidepipe.pipeline.progress import Progress
from slidepipe.pipeline.reference import RunReference, reference_folder
from slidepipe.pipeline.specs import specs_from_config
from slidepipe.pipeline.stages import is_finished
from slidepipe.pipeline.summary import RunSummary, describe_reference, summarise, write_manifest
from slidepipe.pipeline.tables import TABLES, find_lost, write_tables
from slidepipe.pipeline.workers import start_engine
from slidepipe.report import write_report
from slidepipe.review.draw import labels_sha256
from slidepipe.samples.sample import WellSlide
from slidepipe.store.files import delete_temporary_files
from slidepipe.store.lock import locked
from slidepipe.store.manifest import Manifest, check_same_well, read_manifest

logger = logging.getLogger(__name__)

REPORT = "report.html"


def run_well(well: Path, out: Path, config: Config, progress: Progress | None = None) -> RunSummary:
    """Count the fossils of a well.

    Args:
        well: a folder of slides, one slide, or a list file.
        out: the RESULTS folder. What an earlier run stored there for the same well is used again.
        config: the settings of the run.
        progress: reports how far the work is.

    Raises:
        SlidepipeError: bad input or settings. Finished work is kept.
    """
    progress = progress or Progress()
    plugins.register_files(config.plugins)
    previous = read_manifest(out)

    # Discover the slides and the reference images.
    slides, absent = find_slides(well, config.mpp, previous)
    folder = reference_folder(config)
    specs = specs_from_config(config)
    check_spike(slides, folder.names, config.counting.spike_genus)
    with locked(out), explain_disk_errors(out), ExitStack() as stack:
        check_same_well(out, slides)
        warn_about_slides(well, out, slides, absent, previous)
        labels = labels_sha256(out)
        delete_temporary_files(out)

        # Plan the work on each slide.
        states = plan_slides(slides, out, config, specs, previous)
        if absent:
            check_without_slides(well, out, states)

        @functools.cache
        def workers() -> Engine:  # started at first use: a run with nothing left to do starts none
            needed = [out, folder.root, *(slide.path for slide in slides)]
            return stack.enter_context(start_engine(config, needed))

        reference = RunReference(folder, specs, config, workers, out)

        # Detect, crop and embed.
        pending = [state for state in states if state.job is not None and not is_finished(state)]
        if pending:
            reference.check()
            process_slides(workers(), pending, states, config, progress)
        for state in states:
            if state.job is not None and not state.failure:
                state.lost = find_lost(state.job.store, state.slide.slide_id)

        # Classify and count, unless the tables are those of the same objects, references and settings.
        if any(state.count_objects() for state in states):
            reference.embed()
        inputs = [state.table_inputs() for state in states]
        tables = fingerprint_tables(inputs, config, specs.head.digest, reference.fingerprint, labels)
        if (
            previous is not None
            and previous.tables == tables
            and all((out / name).exists() for name in (*TABLES, REPORT))
        ):
            return summarise(out, states, previous.objects, previous.accepted, redone=False)
        (out / REPORT).unlink(missing_ok=True)  # it is written last, so its presence shows that the tables are complete
        backbone = {**reference.backbone, "weights_sha256": reference.weights_sha256}
        record = (well, config, states, backbone, describe_reference(folder, reference.fingerprint))
        write_manifest(summarise(out, states, 0, 0, redone=True), *record, tables=None)
        counts = write_tables(
            out, states, lambda: reference.heads, folder.names, config.counting, config.head.slide_shift
        )
        objects = sum(count.states.total() for count in counts)
        summary = summarise(out, states, objects, sum(count.genera.total() for count in counts), redone=True)
        write_manifest(summary, *record, tables=tables)

        # Report.
        write_report(out)
        return summary


def warn_about_slides(
    well: Path, out: Path, slides: Sequence[WellSlide], absent: bool, manifest: Manifest | None
) -> None:
    """Log a warning if the slides of the well are missing, are of several wells, or are fewer than at the run before.

    Args:
        well: what the run was given.
        out: the RESULTS folder.
        slides: the slides of the well.
        absent: whether the files of all slides are missing.
        manifest: the manifest of the run before; None if there is none.
    """
    if absent:
        logger.warning("no slides found in %s; continuing with the data stored in %s", well, out)
    wells = sorted({slide.sample.well for slide in slides})
    if len(wells) > 1:
        logger.warning(
            "%s: it holds slides of %d wells (%s); each well is counted separately", well, len(wells), ", ".join(wells)
        )
    warn_about_removed_slides(well, manifest, slides)


def warn_about_removed_slides(well: Path, manifest: Manifest | None, slides: Sequence[WellSlide]) -> None:
    """Log a warning if slides of the run before are not in the well any more.

    Args:
        well: what the run was given.
        manifest: the manifest of the run before; None if there is none.
        slides: the slides of the well now.
    """
    now = {slide.slide_id for slide in slides}
    removed = [slide_id for slide_id in (manifest.slides_by_id if manifest else ()) if slide_id not in now]
    if removed:
        logger.warning(
            "%s: %s was in these results and is no longer in the well; it is removed from the tables, its stored data stays",
            well,
            ", ".join(removed),
        )
