"""Planning: what each slide needs, checked before any work starts, and the fingerprint that each of its stages must carry."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slidepipe import plugins, store
from slidepipe.config import Config
from slidepipe.count import RESERVED_COLUMNS
from slidepipe.crops import CropSpec
from slidepipe.errors import ReferenceSetError, ResolutionError, SettingsError, SlideError
from slidepipe.reference import ImageFolder, scan_image_folder
from slidepipe.slide import SlideMeta, identify_slide, read_meta
from slidepipe.tasks import EmbedSpec, PluginSpec, SlideJob
from slidepipe.well import WellSlide

#: Raised by one when a stage's code changes what it writes, so that what an older version stored is made again.
STAGE_VERSIONS = {"boxes": 1, "crops": 1, "embeddings": 1, "tables": 2}


#: A fossil lies any way round and either side up; a backbone whose embeddings do not care says ``views = 1``.
DEFAULT_VIEWS = 8


@dataclass
class SlideState:
    """A slide on its way through the run. ``job`` is None where the slide cannot be opened; ``failure`` ends its way."""

    slide: WellSlide
    meta: SlideMeta | None = None
    job: SlideJob | None = None
    stage: str = "open"
    failure: str | None = None
    lost: list[tuple[str, str, str]] = field(default_factory=list)
    """What could not be read of a slide that was analysed: (stage, region, reason)."""


def reference_folder(config: Config) -> ImageFolder:
    """The labelled images of the reference set, checked.

    Raises:
        SettingsError: none is given.
        ReferenceSetError: it cannot be used.
    """
    if config.reference is None:
        raise SettingsError("no reference set: give --reference DIR, a folder that holds one folder of images a genus")
    folder = scan_image_folder(config.reference)
    reserved = sorted(set(folder.names) & RESERVED_COLUMNS)
    if reserved:
        raise ReferenceSetError(
            f"{config.reference / reserved[0]}: '{reserved[0]}' is a column of the count tables. Rename this genus"
        )
    return folder


def embed_spec(config: Config) -> EmbedSpec:
    """How crops are embedded; the backbone is built (not loaded), so that wrong settings show before any work starts."""
    backbone = config.backbone
    plugin = PluginSpec(backbone.name, _json(backbone.settings), backbone.weights, config.plugins)
    built = plugins.create("backbone", plugin.name, backbone.settings, plugin.weights)
    views = backbone.views if backbone.views is not None else int(getattr(built, "views", DEFAULT_VIEWS))
    return EmbedSpec(plugin, config.run.device, views, backbone.batch)


def head_spec(config: Config) -> PluginSpec:
    """How the head is built."""
    plugins.create("head", config.head.name, config.head.settings)
    return PluginSpec(config.head.name, _json(config.head.settings), None, config.plugins)


def detector_spec(config: Config) -> PluginSpec:
    """How the detector is built; it is built once here, so that wrong settings show before any work starts."""
    spec = PluginSpec(config.detector.name, _json(config.detector.settings), None, config.plugins)
    plugins.create("detector", spec.name, config.detector.settings)
    return spec


def plan_slide(slide: WellSlide, out: Path, config: Config, embed: EmbedSpec, detector: PluginSpec) -> SlideState:
    """Open a slide, and say what its stages depend on. A slide that cannot be opened is a state with a failure.

    Raises:
        ResolutionError: its resolution is missing or cannot be right: the user gives it now rather than after a night.
    """
    state = SlideState(slide)
    try:
        state.meta = read_meta(slide.path, slide.mpp)
        identity = identify_slide(slide.path)
    except ResolutionError:
        raise
    except SlideError as error:
        state.failure = str(error)
        return state
    crops = CropSpec(config.crops.margin, config.crops.long_side_px, config.crops.jpeg_quality)
    mpp = (state.meta.mpp_x, state.meta.mpp_y)
    boxes = store.fingerprint("boxes", STAGE_VERSIONS["boxes"], identity, mpp, plugin_identity("detector", detector))
    cut = store.fingerprint("crops", STAGE_VERSIONS["crops"], boxes, vars(crops))
    embedded = store.fingerprint(
        "embeddings",
        STAGE_VERSIONS["embeddings"],
        cut,
        plugin_identity("backbone", embed.plugin),
        embed.views,
        embed.batch,
    )
    state.job = SlideJob(
        slide_id=slide.slide_id,
        path=slide.path.resolve(),
        mpp=slide.mpp,
        folder=store.slide_folder(out.resolve(), slide.slide_id),
        detector=detector,
        crops=crops,
        embed=embed,
        fingerprints={"boxes": boxes, "crops": cut, "embeddings": embedded},
    )
    return state


def plugin_identity(kind: plugins.Kind, spec: PluginSpec) -> dict[str, Any]:
    """What decides a plugin's results: its code's version, its settings, and the bytes of its files."""
    info = plugins.find(kind, spec.name)
    cls = plugins.get_class(kind, spec.name)
    argument = Path(spec.name.partition(":")[2] or "/")
    named = [Path(value) for value in json.loads(spec.settings).values() if isinstance(value, str) and value]
    files = [path for path in (spec.weights, argument, *named) if path is not None and path.is_file()]
    return {
        "name": spec.name,
        # A plugin may count its own versions, so that a release that changes nothing in it redoes nothing. The module of a
        # plugin file is named after the file's bytes.
        "version": getattr(cls, "version", None) or info.version or info.value,
        "settings": json.loads(spec.settings),
        "files": [store.file_sha256(path) for path in files],
    }


def tables_fingerprint(states: list[SlideState], config: Config, head: PluginSpec, reference: str, labels: str) -> str:
    """What the tables depend on: every slide's embeddings, spike and failures, the head, the references, a reviewer's labels."""
    slides = [
        (
            state.slide.slide_id,
            str(state.slide.sample),
            str(state.slide.spike),
            state.failure,
            state.lost,
            state.job.fingerprints["embeddings"] if state.job else None,
        )
        for state in states
    ]
    return store.fingerprint(
        "tables",
        STAGE_VERSIONS["tables"],
        slides,
        plugin_identity("head", head),
        config.head.alpha,
        reference,
        config.counting.model_dump(),
        labels,
    )


def _json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
