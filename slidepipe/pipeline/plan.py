"""Planning: what each slide needs, checked before any work starts, and the fingerprint that each of its stages must carry."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from slidepipe import plugins
from slidepipe.classification.reference_set import ImageFolder, scan_image_folder
from slidepipe.config import Config
from slidepipe.counting.counts import RESERVED_COLUMNS
from slidepipe.crops.cut import CropSpec
from slidepipe.embedding.embed import BESIDE_LENGTH, local_cards
from slidepipe.errors import ReferenceSetError, ResolutionError, SettingsError, SlideError, WellError
from slidepipe.paths import absolute
from slidepipe.pipeline.tasks import EmbedSpec, PluginSpec, SlideJob
from slidepipe.samples.discover import describe, discover
from slidepipe.samples.sample import Sample, Spike, WellSlide
from slidepipe.samples.samples_csv import SAMPLES_FILE
from slidepipe.slides.geometry import Box, SlideMeta
from slidepipe.slides.reader import identify_slide, read_meta
from slidepipe.store.files import file_sha256, fingerprint
from slidepipe.store.slide_store import STAGE_NAMES, SlideStore

#: Raised by one when a stage's code changes what it writes, so that what an older version stored is made again.
STAGE_VERSIONS = {"boxes": 1, "crops": 2, "embeddings": 6, "tables": 8}


#: A fossil lies any way round and either side up; a backbone whose embeddings do not care says ``views = 1``.
DEFAULT_VIEWS = 8


@dataclass
class SlideState:
    """A slide on its way through the run. ``job`` is None where the slide cannot be opened; ``failure`` ends its way.

    ``absent``: its file is not there; what is stored of it may do. ``identity`` stands for its bytes.
    """

    slide: WellSlide
    meta: SlideMeta | None = None
    job: SlideJob | None = None
    identity: str = ""
    absent: bool = False
    stage: str = "open"
    failure: str | None = None
    unresolved: ResolutionError | None = None
    """Set where all that is wrong is the scan's resolution, which the user can give."""
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


def find_slides(well: Path, mpp: float | None, manifest: Mapping[str, Any]) -> tuple[list[WellSlide], bool]:
    """The slides of the well; where none of them is there any more, those that the manifest knows, and True.

    Raises:
        WellError: as :func:`~slidepipe.samples.discover.discover`, or two slides whose stores would lie in each other.
    """
    known = manifest.get("slides", []) if manifest.get("well") == str(absolute(well)) else []
    stored = [_known_slide(entry) for entry in known]
    try:
        slides = discover(well, mpp)
    except WellError:
        if not stored or any(slide.path.exists() for slide in stored):
            raise
        return _described_anew(well, mpp, stored), True
    if stored and not any(slide.path.exists() for slide in (*slides, *stored)):  # of MIRAX slides, folders may be left
        return _described_anew(well, mpp, stored), True
    ids = {slide.slide_id for slide in slides}
    for slide in slides:
        above, _, name = slide.slide_id.rpartition("/")
        if name in STAGE_NAMES and above in ids:
            raise WellError(
                f"{slide.path}: '{name}' in the folder '{above}' beside a slide '{above}': rename this slide"
            )
    return slides, False


def _described_anew(well: Path, mpp: float | None, stored: Sequence[WellSlide]) -> list[WellSlide]:
    """Slides that are not there, as the options and a ``samples.csv`` in the well's folder describe them now."""
    if (well / SAMPLES_FILE).is_file():
        return describe(well, [slide.path for slide in stored], mpp)
    return [slide if mpp is None else replace(slide, mpp=mpp) for slide in stored]


def _known_slide(entry: Mapping[str, Any]) -> WellSlide:
    depth_m = None if entry["depth_m"] is None else Decimal(str(entry["depth_m"]))
    return WellSlide(
        entry["slide_id"],
        Path(entry["path"]),
        Sample(entry["well"], depth_m, entry["sample_type"]),
        entry.get("given_mpp"),
        Spike(**entry["spike"]) if entry.get("spike") else None,
    )


def embed_spec(config: Config) -> EmbedSpec:
    """How crops are embedded; the backbone is built (not loaded), so that wrong settings show before any work starts."""
    backbone = config.backbone
    built = plugins.create("backbone", backbone.name, backbone.settings, backbone.weights)
    views = backbone.views if backbone.views is not None else int(getattr(built, "views", DEFAULT_VIEWS))
    plugin = _spec("backbone", backbone.name, backbone.settings, config, backbone.weights)
    # A process that holds a card sees no other.
    device = "cuda" if cards(config) else config.run.device
    beside: EmbedSpec | None = None
    if backbone.beside is not None and backbone.beside != backbone.name:
        second = plugins.create("backbone", backbone.beside)
        beside = EmbedSpec(
            _spec("backbone", backbone.beside, {}, config),
            "cpu",
            int(getattr(second, "views", DEFAULT_VIEWS)),
            backbone.batch,
            backbone.isolate,
        )
    return EmbedSpec(plugin, device, views, backbone.batch, backbone.isolate, beside)


def crop_spec(config: Config) -> CropSpec:
    """How crops are cut and stored."""
    return CropSpec(config.crops.margin, config.crops.long_side_px, config.crops.jpeg_quality)


def cards(config: Config) -> tuple[int, ...]:
    """The GPUs of this machine that get a process each."""
    return local_cards(config.run.device) if config.run.scheduler == "local" else ()


def head_spec(config: Config) -> PluginSpec:
    """How the head is built."""
    plugins.create("head", config.head.name, config.head.settings)
    return _spec("head", config.head.name, config.head.settings, config)


def detector_spec(config: Config) -> PluginSpec:
    """How the detector is built; it is built once here, so that wrong settings show before any work starts."""
    plugins.create("detector", config.detector.name, config.detector.settings)
    return _spec("detector", config.detector.name, config.detector.settings, config)


def _spec(
    kind: plugins.Kind, name: str, settings: Mapping[str, Any], config: Config, weights: Path | None = None
) -> PluginSpec:
    # Workers may have started in another folder: every file is told by its absolute path.
    base, colon, argument = name.partition(":")
    spec = PluginSpec(
        base + colon + str(_absolute(argument)),
        json.dumps({key: _absolute(value) for key, value in settings.items()}, sort_keys=True),
        None if weights is None else absolute(weights),
        tuple(absolute(file) for file in config.plugins),
    )
    return replace(spec, digest=fingerprint(plugin_identity(kind, spec)))


def _absolute(value: Any) -> Any:
    is_file = isinstance(value, str) and value and Path(value).is_file()
    return str(absolute(value)) if is_file else value


def plan_slide(
    slide: WellSlide,
    out: Path,
    config: Config,
    embed: EmbedSpec,
    detector: PluginSpec,
    known: Mapping[str, Any] | None = None,
) -> SlideState:
    """Open a slide, and say what its stages depend on. A slide that cannot be opened is a state with a failure.

    Args:
        known: what the manifest says of it, where its file may be gone.

    """
    state = SlideState(slide)
    try:
        if known and known.get("identity") and not slide.path.exists():
            state.absent, state.identity, state.meta = True, known["identity"], _known_meta(known, slide.mpp)
        else:
            state.meta = read_meta(slide.path, slide.mpp)
            state.identity = identify_slide(slide.path)
    except SlideError as error:
        state.unresolved = error if isinstance(error, ResolutionError) else None
        state.failure = str(error).removeprefix(f"{slide.path}: ")
        return state
    crops = crop_spec(config)
    mpp = (state.meta.mpp_x, state.meta.mpp_y)
    boxes = fingerprint("boxes", STAGE_VERSIONS["boxes"], state.identity, mpp, detector.digest)
    cut = fingerprint("crops", STAGE_VERSIONS["crops"], boxes, vars(crops))
    embedded = fingerprint(
        "embeddings",
        STAGE_VERSIONS["embeddings"],
        cut,
        _embed_digest(embed),
    )
    state.job = SlideJob(
        slide_id=slide.slide_id,
        path=absolute(slide.path),
        identity=state.identity,
        mpp=slide.mpp,
        store=SlideStore.in_results(absolute(out), slide.slide_id),
        detector=detector,
        crops=crops,
        embed=embed,
        keep_crops=config.crops.keep,
        fingerprints={"boxes": boxes, "crops": cut, "embeddings": embedded},
    )
    state.job.store.delete_other_parts(state.job.fingerprints)
    return state


def _known_meta(known: Mapping[str, Any], mpp: float | None) -> SlideMeta:
    return SlideMeta(
        path=Path(known["path"]),
        vendor=known["vendor"],
        width_px=known["width_px"],
        height_px=known["height_px"],
        mpp_x=mpp or known["mpp_x"],
        mpp_y=mpp or known["mpp_y"],
        objective_power=known["objective_power"],
        bounds=Box(*known["bounds"]),
        background=(255, 255, 255),
        levels=(),
    )


def plugin_identity(kind: plugins.Kind, spec: PluginSpec) -> dict[str, Any]:
    """What decides a plugin's results: its code's version, its settings, and the bytes of its files, wherever these lie."""
    info = plugins.find(kind, spec.name)
    cls = plugins.get_class(kind, spec.name)
    base, _, argument = spec.name.partition(":")
    settings = json.loads(spec.settings)
    files = {"weights": spec.weights, "argument": Path(argument or "/")}
    files |= {f"setting {key}": Path(value) for key, value in settings.items() if isinstance(value, str) and value}
    digests = {key: file_sha256(path) for key, path in files.items() if path is not None and path.is_file()}
    shown: dict[str, Any] = {}
    if kind == "backbone":  # what crops are made into before the backbone sees them is ours, but as it says
        built = plugins.create("backbone", spec.name, settings, spec.weights)
        shown = {"shown": [getattr(built, "fit", "squeeze"), built.input_px]}
    return {
        **shown,
        "name": base if "argument" in digests else spec.name,
        # A plugin may count its own versions, so that a release that changes nothing in it redoes nothing. The module of a
        # plugin file is named after the file's bytes.
        "version": getattr(cls, "version", None) or info.version or info.value,
        "settings": {key: value for key, value in settings.items() if f"setting {key}" not in digests},
        "files": digests,
    }


def embedding_identity(embed: EmbedSpec) -> dict[str, Any]:
    """What must agree for embeddings to be comparable."""
    beside = embed.beside
    return {
        **plugin_identity("backbone", embed.plugin),
        "stage": STAGE_VERSIONS["embeddings"],
        "views": embed.views,
        "isolate": embed.isolate,
        "beside": None if beside is None else {**embedding_identity(beside), "length": BESIDE_LENGTH},
    }


def _embed_digest(embed: EmbedSpec) -> str:
    beside = (_embed_digest(embed.beside), BESIDE_LENGTH) if embed.beside else None
    return fingerprint(embed.plugin.digest, embed.views, embed.batch, embed.isolate, beside)


def reference_identity(embed: EmbedSpec, crops: CropSpec) -> dict[str, Any]:
    """What the embeddings of reference images depend on besides the images."""
    return {
        **embedding_identity(embed),
        "batch": embed.batch,
        "as_crops": [crops.long_side_px, crops.jpeg_quality],
    }


def tables_fingerprint(
    states: Sequence[SlideState], config: Config, head: PluginSpec, reference: str, labels: str
) -> str:
    """What the tables depend on: every slide's embeddings, spike and failures, the head, the references, a reviewer's labels."""
    slides = [
        (
            state.slide.slide_id,
            state.slide.sample.sample_id,
            state.slide.sample.well,
            str(state.slide.spike),
            state.failure,
            state.lost,
            state.job.fingerprints["embeddings"] if state.job else None,
        )
        for state in states
    ]
    return fingerprint(
        "tables",
        STAGE_VERSIONS["tables"],
        slides,
        head.digest,
        config.head.alpha,
        config.head.slide_shift,
        reference,
        config.counting.model_dump(),
        labels,
    )
