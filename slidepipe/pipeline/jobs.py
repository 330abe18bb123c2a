"""The work on one slide: what workers need to do it, and how far it is."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slidepipe import plugins
from slidepipe.crops.cut import CropSpec
from slidepipe.errors import ResolutionError, SlideError
from slidepipe.pipeline.specs import EmbedSpec, PluginSpec
from slidepipe.samples.sample import WellSlide
from slidepipe.slides.geometry import SlideMeta
from slidepipe.slides.handles import cached_slide
from slidepipe.slides.reader import SlideReader
from slidepipe.store.slide_store import SlideStore, StageName


@functools.lru_cache(maxsize=8)
def _register_files(files: tuple[Path, ...]) -> None:
    plugins.register_files(files)


@dataclass(frozen=True)
class SlideJob:
    """What a worker needs to work on one slide. It holds paths, names and numbers, never pixels.

    Attributes:
        slide_id: the slide's id.
        path: the slide's file, absolute.
        identity: stands for the bytes of the slide's files.
        mpp: micrometres per level-0 pixel as the user gives it, or None to read it from the slide.
        store: where the slide's results are stored.
        detector: how to build the detector.
        crops: how to cut and store crops.
        embed: how to embed crops.
        keep_crops: whether crops stay stored after they are embedded.
        fingerprints: the fingerprint that each stage must have to be used again, by the stage's name in the store, in order.
    """

    slide_id: str
    path: Path
    identity: str
    mpp: float | None
    store: SlideStore
    detector: PluginSpec
    crops: CropSpec
    embed: EmbedSpec
    keep_crops: bool = True
    fingerprints: dict[StageName, str] = field(default_factory=dict)

    def open_slide(self) -> SlideReader:
        """Return the slide, opened once per thread."""
        _register_files(self.detector.files)  # one of them may hold the reader of the slide's format
        return cached_slide(self.path, self.mpp, self.identity)

    def stages_after(self, stage: StageName) -> tuple[StageName, ...]:
        """Return the stages that depend on `stage`: all later ones."""
        names = tuple(self.fingerprints)
        return names[names.index(stage) + 1 :]

    def without_path(self, reason: str) -> str:
        """Return an error message without the slide's path, which differs between machines."""
        return reason.removeprefix(f"{self.path}: ")


@dataclass
class SlideState:
    """How far the work on a slide is.

    Attributes:
        slide: the slide and its sample.
        meta: the slide's metadata; None if it could not be opened.
        job: the work on the slide; None if it could not be opened.
        identity: stands for the bytes of the slide's files.
        absent: whether the slide's file is missing. The stored results may be enough.
        stage: the stage under way.
        failure: why the work on the slide failed, or None.
        unresolved: set if only the resolution of the scan is missing, which the user can give.
        lost: what could not be read of an analysed slide: (stage, region or object, reason).
    """

    slide: WellSlide
    meta: SlideMeta | None = None
    job: SlideJob | None = None
    identity: str = ""
    absent: bool = False
    stage: str = "open"
    failure: str | None = None
    unresolved: ResolutionError | None = None
    lost: list[tuple[str, str, str]] = field(default_factory=list)

    def is_done(self, stage: StageName) -> bool:
        """Return whether a stage is stored with the fingerprint that the settings require."""
        return self.job is not None and self.job.store.is_done(stage, self.job.fingerprints[stage])

    def lost_in(self, stage: StageName) -> Any:
        """Return the record of a finished stage of what it could not read; None if there is nothing."""
        if self.job is None or not self.is_done(stage):
            return None
        return self.job.store.attributes(stage).get("lost") or None

    @property
    def has_crop_pixels(self) -> bool:
        """Whether the stored crops still hold their pixels."""
        return self.job is not None and bool(self.job.store.attributes("crops").get("kept"))

    def count_objects(self) -> int:
        """Return the number of objects of a slide whose stages are stored; 0 if the slide failed."""
        if self.job is None or self.failure:
            return 0
        return int(self.job.store.attributes("boxes").get("objects", 0))

    def job_with_slide(self) -> SlideJob:
        """Return the job of a slide whose file is needed now.

        Raises:
            SlideError: the file is missing, and what is stored of the slide is not enough for these settings.
        """
        if self.job is None or self.absent:
            raise SlideError(
                f"{self.slide.path}: the slide's file is missing, and its stored results are not enough for these settings. "
                "Bring the file back, or use the settings that the results were made with"
            )
        return self.job

    def table_inputs(self) -> tuple[object, ...]:
        """Return what the slide's rows in the tables depend on, to be hashed by `fingerprint_tables`."""
        return (
            self.slide.slide_id,
            self.slide.sample.sample_id,
            self.slide.sample.well,
            str(self.slide.spike),
            self.failure,
            self.lost,
            self.job.fingerprints["embeddings"] if self.job else None,
        )
