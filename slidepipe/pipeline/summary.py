"""The outcome of a run, and its record in the manifest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slidepipe import plugins
from slidepipe._version import __version__
from slidepipe.classification.reference_set import ImageFolder
from slidepipe.config import Config
from slidepipe.paths import absolute
from slidepipe.pipeline.jobs import SlideState
from slidepipe.pipeline.stages import STAGES
from slidepipe.slides.geometry import SlideMeta
from slidepipe.store.manifest import Manifest, ReferenceRecord, ScanRecord, SlideRecord


@dataclass(frozen=True)
class RunSummary:
    """The outcome of a run.

    Attributes:
        results: the RESULTS folder.
        slides: number of slides of the well.
        failed: ids of the slides that failed.
        partial: ids of the slides of which a part could not be read.
        objects: number of objects.
        accepted: number of objects of a known genus.
        redone: whether the tables were written by this run.
        reason: why the first of the failed slides failed; empty if none did.
    """

    results: Path
    slides: int
    failed: tuple[str, ...]
    partial: tuple[str, ...]
    objects: int
    accepted: int
    redone: bool
    reason: str = ""

    @property
    def exit_status(self) -> int:
        """The exit status of the command: 0, or 1 if some slides failed or are partial."""
        return 1 if self.failed or self.partial else 0


def summarise(out: Path, states: Sequence[SlideState], objects: int, accepted: int, redone: bool) -> RunSummary:
    """Return the summary of a run.

    Args:
        out: the RESULTS folder.
        states: all slides of the well.
        objects: number of objects.
        accepted: number of objects of a known genus.
        redone: whether the tables were written by this run.
    """
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


def write_manifest(
    summary: RunSummary,
    well: Path,
    config: Config,
    states: Sequence[SlideState],
    backbone: Mapping[str, Any],
    reference: ReferenceRecord,
    tables: str | None,
) -> None:
    """Write the manifest of a run.

    Args:
        summary: the outcome so far.
        well: what the run was given.
        config: the settings of the run.
        states: all slides of the well.
        backbone: the identity of the embedding, with the sha256 of the weights.
        reference: the record of the reference set, from `describe_reference`.
        tables: fingerprint of the tables, or None while they are being written: they may then be of different runs.
    """
    cls = plugins.get_class("backbone", config.backbone.name)
    Manifest(
        slidepipe=__version__,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        well=str(absolute(well)),
        settings=json.loads(config.model_dump_json()),
        backbone={**backbone, "license": getattr(cls, "license", ""), "source": getattr(cls, "source", "")},
        reference=reference,
        objects=summary.objects,
        accepted=summary.accepted,
        slides=[_slide_record(state) for state in states],
        tables=tables,
    ).write(summary.results)


def describe_reference(folder: ImageFolder, fingerprint: str) -> ReferenceRecord:
    """Return the manifest's record of a reference set.

    Args:
        folder: the labelled images.
        fingerprint: fingerprint of the set, with the reviewed objects that joined it.
    """
    return ReferenceRecord(
        folder=str(folder.root.resolve()), fingerprint=fingerprint, images=len(folder.files), genera=folder.names
    )


def _slide_record(state: SlideState) -> SlideRecord:
    slide = state.slide
    record = SlideRecord(
        slide_id=slide.slide_id,
        path=str(absolute(slide.path)),
        sample_id=slide.sample.sample_id,
        well=slide.sample.well,
        depth_m=None if slide.sample.depth_m is None else float(slide.sample.depth_m),
        sample_type=slide.sample.sample_type,
        spike=slide.spike,
        given_mpp=slide.mpp,
        status="failed" if state.failure else "partial" if state.lost else "ok",
        scan=None if state.meta is None else _scan_record(state.identity, state.meta),
    )
    if state.job is None or state.failure:
        return record
    attributes = {stage.stored: state.job.store.attributes(stage.stored) for stage in STAGES}
    return record.model_copy(
        update={
            "objects": attributes["boxes"].get("objects"),
            "area_mm2": attributes["boxes"].get("analysed_mm2"),
            "lost_mm2": attributes["boxes"].get("lost_mm2"),
            "seconds": {stage: stored.get("seconds") for stage, stored in attributes.items()},
            "fingerprints": state.job.fingerprints,
        }
    )


def _scan_record(identity: str, meta: SlideMeta) -> ScanRecord:
    bounds = meta.bounds
    return ScanRecord(
        identity=identity,
        vendor=meta.vendor,
        objective_power=meta.objective_power,
        width_px=meta.width_px,
        height_px=meta.height_px,
        mpp_x=meta.mpp_x,
        mpp_y=meta.mpp_y,
        bounds=(bounds.x0, bounds.y0, bounds.x1, bounds.y1),
    )
