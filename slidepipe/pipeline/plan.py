"""Planning: which slides the run has, and what each of them needs. Problems show here, before any work starts."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from slidepipe.config import Config
from slidepipe.errors import ResolutionError, ResultsError, SlideError, WellError
from slidepipe.paths import absolute
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.pipeline.specs import RunSpecs
from slidepipe.pipeline.stages import STAGES, can_finish_without_slide, fingerprint_stages
from slidepipe.samples.discover import describe, discover
from slidepipe.samples.sample import Sample, WellSlide
from slidepipe.samples.samples_csv import SAMPLES_FILE
from slidepipe.slides.geometry import Box, SlideMeta
from slidepipe.slides.reader import identify_slide, read_meta
from slidepipe.store.manifest import Manifest, ScanRecord, SlideRecord
from slidepipe.store.slide_store import SlideStore


def find_slides(well: Path, mpp: float | None, manifest: Manifest | None) -> tuple[list[WellSlide], bool]:
    """Return the slides of a well.

    Args:
        well: a folder of slides, one slide, or a list file.
        mpp: micrometres per level-0 pixel, or None to read it from each slide.
        manifest: the manifest of the RESULTS folder; None if there is none.

    Returns:
        the slides, and whether all their files are missing. If they are, the slides are those of the manifest.

    Raises:
        WellError: as `slidepipe.samples.discover.discover`, or the store of one slide would lie in that of another.
    """
    is_same_well = manifest is not None and manifest.well == str(absolute(well))
    stored = [_known_slide(record) for record in manifest.slides] if manifest is not None and is_same_well else []
    try:
        slides = discover(well, mpp)
    except WellError:
        if not stored or any(slide.path.exists() for slide in stored):
            raise
        return _described_again(well, mpp, stored), True
    # The data folders of MIRAX slides may be left where the slides themselves are gone.
    if stored and not any(slide.path.exists() for slide in (*slides, *stored)):
        return _described_again(well, mpp, stored), True
    ids = {slide.slide_id for slide in slides}
    for slide in slides:
        above, _, name = slide.slide_id.rpartition("/")
        if above in ids and name in {stage.stored for stage in STAGES}:
            raise WellError(
                f"{slide.path}: a slide in the folder '{above}' cannot be named '{name}', because there is also a slide "
                f"'{above}', which stores a stage of that name. Rename this slide"
            )
    return slides, False


def _described_again(well: Path, mpp: float | None, stored: Sequence[WellSlide]) -> list[WellSlide]:
    """Return slides whose files are missing, as the settings and a `samples.csv` in the well's folder describe them now."""
    if (well / SAMPLES_FILE).is_file():
        return describe(well, [slide.path for slide in stored], mpp)
    return [slide if mpp is None else replace(slide, mpp=mpp) for slide in stored]


def _known_slide(record: SlideRecord) -> WellSlide:
    depth_m = None if record.depth_m is None else Decimal(str(record.depth_m))
    sample = Sample(record.well, depth_m, record.sample_type)
    return WellSlide(record.slide_id, Path(record.path), sample, record.given_mpp, record.spike)


def plan_slides(
    slides: Sequence[WellSlide], out: Path, config: Config, specs: RunSpecs, manifest: Manifest | None
) -> list[SlideState]:
    """Open every slide and determine what its stages depend on. A slide that cannot be opened becomes a failure.

    Args:
        slides: the slides of the well.
        out: the RESULTS folder.
        config: the settings of the run.
        specs: the specifications of the run.
        manifest: the manifest of the RESULTS folder, for slides whose files are missing.

    Raises:
        ResolutionError: no slide gives its resolution. The error comes now instead of after hours of work.
        SlideError: a slide cannot be opened and `run.on_error` is "stop".
    """
    known = {} if manifest is None else manifest.slides_by_id
    states = [_plan_slide(slide, out, config, specs, known.get(slide.slide_id)) for slide in slides]
    for state in states:
        stop_if_wanted(config, state)
    if states[0].unresolved is not None and all(state.unresolved for state in states):
        raise states[0].unresolved
    return states


def check_without_slides(well: Path, out: Path, states: Sequence[SlideState]) -> None:
    """Check that the stored results of slides whose files are missing are enough for the run.

    Raises:
        ResultsError: they are not. The existing tables are better than tables without these slides.
    """
    lacking = [state.slide.slide_id for state in states if not can_finish_without_slide(state)]
    if lacking:
        raise ResultsError(
            f"{well}: its slides are missing, and the stored results of {lacking[0]} in {out} are not enough for these "
            f"settings ({len(lacking)} slides). Bring the slides back, or use the settings that the results were made with"
        )


def stop_if_wanted(config: Config, state: SlideState) -> None:
    """End the run if a slide failed and the setting `run.on_error` is "stop".

    Raises:
        SlideError: it did.
    """
    if state.failure and config.run.on_error == "stop":
        raise SlideError(f"{state.slide.slide_id}: stopped at {state.stage}: {state.failure}")


def _plan_slide(slide: WellSlide, out: Path, config: Config, specs: RunSpecs, known: SlideRecord | None) -> SlideState:
    state = SlideState(slide)
    try:
        if known is not None and known.scan is not None and not slide.path.exists():
            state.absent, state.identity = True, known.scan.identity
            state.meta = _known_meta(slide.path, known.scan, slide.mpp)
        else:
            state.meta = read_meta(slide.path, slide.mpp)
            state.identity = identify_slide(slide.path)
    except SlideError as error:
        state.unresolved = error if isinstance(error, ResolutionError) else None
        state.failure = str(error).removeprefix(f"{slide.path}: ")
        return state
    state.job = SlideJob(
        slide_id=slide.slide_id,
        path=absolute(slide.path),
        identity=state.identity,
        mpp=slide.mpp,
        store=SlideStore.in_results(absolute(out), slide.slide_id),
        detector=specs.detector,
        crops=specs.crops,
        embed=specs.embed,
        keep_crops=config.crops.keep,
    )
    state.job.fingerprints.update(fingerprint_stages(state.job, state.meta))
    state.job.store.delete_other_parts(state.job.fingerprints)
    return state


def _known_meta(path: Path, scan: ScanRecord, mpp: float | None) -> SlideMeta:
    return SlideMeta(
        path=path,
        vendor=scan.vendor,
        width_px=scan.width_px,
        height_px=scan.height_px,
        mpp_x=mpp or scan.mpp_x,
        mpp_y=mpp or scan.mpp_y,
        objective_power=scan.objective_power,
        bounds=Box(*scan.bounds),
        background=(255, 255, 255),
        levels=(),
    )
