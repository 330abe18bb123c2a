"""The outcome of a run, and its record in the manifest."""

import dataclasses
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
from slidepipe.store.files import write_json
from slidepipe.store.manifest import MANIFEST


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
    reference: Mapping[str, Any],
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
    manifest = {
        "slidepipe": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "well": str(absolute(well)),
        "settings": json.loads(config.model_dump_json()),
        "backbone": {**backbone, "license": getattr(cls, "license", ""), "source": getattr(cls, "source", "")},
        "reference": dict(reference),
        "objects": summary.objects,
        "accepted": summary.accepted,
        "slides": [_slide_entry(state) for state in states],
        "tables": tables,
    }
    write_json(summary.results / MANIFEST, manifest)


def describe_reference(folder: ImageFolder, fingerprint: str) -> dict[str, Any]:
    """Return the manifest's record of a reference set.

    Args:
        folder: the labelled images.
        fingerprint: fingerprint of the set, with the reviewed objects that joined it.
    """
    return {
        "folder": str(folder.root.resolve()),
        "fingerprint": fingerprint,
        "images": len(folder.files),
        "genera": folder.names,
    }


def _slide_entry(state: SlideState) -> dict[str, Any]:
    slide, meta = state.slide, state.meta
    entry: dict[str, Any] = {
        "slide_id": slide.slide_id,
        "path": str(absolute(slide.path)),
        "sample_id": slide.sample.sample_id,
        "well": slide.sample.well,
        "depth_m": None if slide.sample.depth_m is None else float(slide.sample.depth_m),
        "sample_type": slide.sample.sample_type,
        "spike": None if slide.spike is None else dataclasses.asdict(slide.spike),
        "given_mpp": slide.mpp,
        "status": "failed" if state.failure else "partial" if state.lost else "ok",
    }
    if meta is not None:
        bounds = meta.bounds
        entry |= {
            "identity": state.identity,
            "vendor": meta.vendor,
            "objective_power": meta.objective_power,
            "width_px": meta.width_px,
            "height_px": meta.height_px,
            "mpp_x": meta.mpp_x,
            "mpp_y": meta.mpp_y,
            "bounds": [bounds.x0, bounds.y0, bounds.x1, bounds.y1],
        }
    if state.job is not None and not state.failure:
        stages = {stage.stored: state.job.store.attributes(stage.stored) for stage in STAGES}
        entry |= {
            "objects": stages["boxes"].get("objects"),
            "area_mm2": stages["boxes"].get("analysed_mm2"),
            "lost_mm2": stages["boxes"].get("lost_mm2"),
            "seconds": {stage: record.get("seconds") for stage, record in stages.items()},
            "fingerprints": state.job.fingerprints,
        }
    return entry
