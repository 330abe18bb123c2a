"""Settings of a run: pydantic models, read from YAML, overridden by the command line; an unknown key is an error.

The models are the one source: ``configs/default.yaml`` is written from them (``python -m slidepipe.config``); a test checks it.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slidepipe.errors import SettingsError


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfig(_Settings):
    """Which backbone embeds the crops."""

    name: str = Field(
        "descriptors", description="backbone, as `slidepipe plugins list` shows it, or timm:NAME, hf-hub:OWNER/NAME"
    )
    weights: Path | None = Field(None, description="weights file, where the backbone takes one")
    views: Literal[1, 8] | None = Field(
        None,
        description="average each embedding over 1 view or 8 flips and quarter turns, half of them 45 degrees on if isolated; "
        "empty: what serves the backbone (8)",
    )
    beside: str | None = Field(
        "descriptors",
        description="backbone whose embeddings of the same crops join those of the first, which gains by it; null for none",
    )
    isolate: bool = Field(
        True,
        description="show backbones each object alone, in reference images too: no surroundings, black dirt or cut neighbours",
    )
    batch: int = Field(32, ge=1, description="crops embedded at a time, and at once on a GPU: give it 256 there")
    settings: dict[str, Any] = Field(default_factory=dict, description="the backbone's own settings")


class HeadConfig(_Settings):
    """Which head assigns genera."""

    name: str = Field("knn", description="head, as `slidepipe plugins list` shows it")
    alpha: float = Field(
        0.24,
        gt=0,
        lt=1,
        description="share of a genus's fossils that may be left unknown; what is stranger than that is not counted",
    )
    slide_shift: bool = Field(
        True,
        description="take out of the embeddings what a slide (its scanner, stain, focus) does to all its objects alike",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the head's own settings")


class DetectorConfig(_Settings):
    """Which detector finds objects."""

    name: str = Field("density", description="detector, as `slidepipe plugins list` shows it, or yolo:FILE.onnx")
    block_px: int = Field(
        3072, ge=256, le=8192, description="side of a block, detection pixels; results do not depend on it"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the detector's own settings")


class CropsConfig(_Settings):
    """How objects are cut from the slide."""

    margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="margin on each side of a box, share of its long side; as the reference images have it",
    )
    long_side_px: int = Field(
        256, ge=32, le=2048, description="long side of a stored crop, pixels; smaller objects keep their own"
    )
    jpeg_quality: int = Field(92, ge=50, le=100, description="of the stored crops")
    keep: bool = Field(
        True,
        description="keep the crops in RESULTS; `crops: none` keeps their coordinates only, so that another backbone needs the "
        "slides again",
    )


class CountingConfig(_Settings):
    """How the tables are made from the objects."""

    minimum_specimens: int = Field(1, ge=1, description="specimens that a sample needs to count for a top or base")
    rarefy_to: int | None = Field(
        None,
        ge=1,
        description="fossils that richness is rarefied to; empty: the smallest sum of at least 20 in the well",
    )
    spike_genus: str | None = Field(
        None,
        description="genus of the reference set that was added as a spike (Lycopodium), with tablets, spores_per_tablet and "
        "grams in samples.csv; it is no part of percentages",
    )
    max_black_share: float = Field(
        0.7, ge=0, le=1, description="an object of which a larger share is black is unusable; 1 lets all through"
    )
    max_edge_um: float = Field(
        6.0, gt=0, description="an object whose sharpest edge is wider is out of focus, and unusable, micrometres"
    )
    max_size_um: float = Field(
        200.0, gt=0, description="an object whose longer side is longer is unusable, micrometres"
    )


class RunConfig(_Settings):
    """Where and how the work is done. None of it changes a result."""

    scheduler: str = Field(
        "local",
        description="local (processes; one more a GPU), threads (for debugging), tcp://HOST:PORT, a scheduler FILE.json, slurm",
    )
    workers: int | None = Field(
        None, ge=1, description="worker processes or threads, or jobs of slurm; empty: one a core, or one job"
    )
    dashboard: bool | None = Field(
        None, description="show Dask's dashboard of a cluster started here; empty: when run in a terminal"
    )
    jobqueue: dict[str, Any] = Field(
        default_factory=dict,
        description="a job of slurm, as dask-jobqueue's SLURMCluster takes it; see configs/slurm.yaml",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    on_error: Literal["continue", "stop"] = Field(
        "continue", description="at a slide that fails: go on with the others, or stop"
    )


class Config(_Settings):
    """All settings of a run."""

    reference: Path | None = Field(
        None, description="folder of labelled crops, one folder a genus; one starting with _ is a reject class"
    )
    reference_results: tuple[Path, ...] = Field(
        (),
        description="RESULTS folders whose reviewed objects join the reference set, except for the slides they lie on",
    )
    mpp: float | None = Field(
        None, gt=0, description="micrometres a pixel; empty: what the scan itself or samples.csv says"
    )
    plugins: tuple[Path, ...] = Field((), description="plugin files (.py) to load besides the installed ones")
    paths: dict[str, str] = Field(
        default_factory=dict,
        description="folders here: the same folders as workers on other machines see them ({/mnt/scans: /data/scans})",
    )
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    detector: DetectorConfig = DetectorConfig()
    crops: CropsConfig = CropsConfig()
    counting: CountingConfig = CountingConfig()
    run: RunConfig = RunConfig()

    @field_validator("paths")
    @classmethod
    def _absolute_folders(cls, value: dict[str, str]) -> dict[str, str]:
        relative = [folder for pair in value.items() for folder in pair if not Path(folder).is_absolute()]
        if relative:
            raise ValueError(f"'{relative[0]}' is not an absolute path")
        return value


#: What a word in place of a section's settings means: ``head: knn``, ``crops: none``.
_SHORT_SECTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("backbone", "head", "detector"), lambda word: {"name": word}),
    "crops": lambda word: {"keep": False} if word == "none" else word,
}

#: Settings that name files: in a YAML they count from the YAML's own folder.
_PATHS: tuple[tuple[str, ...], ...] = (("reference",), ("backbone", "weights"))


def load_config(source: Path | Mapping[str, Any] | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read settings (or take the defaults) and lay ``overrides`` over them.

    Args:
        source: a YAML file, or what would stand in one; None takes the defaults.
        overrides: dotted setting names to values, such as ``{"head.alpha": 0.2}``; values of None are passed over.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown or of the wrong kind.
    """
    where = str(source) if isinstance(source, Path) else "settings"
    values: dict[str, Any] = _read_yaml(source) if isinstance(source, Path) else copy.deepcopy(dict(source or {}))
    for section, short in _SHORT_SECTIONS.items():
        if isinstance(values.get(section), str):
            values[section] = short(values[section])
    for name, value in (overrides or {}).items():
        if value is None:
            continue
        *folders, last = name.split(".")
        place = values
        for folder in folders:
            if not isinstance(place.setdefault(folder, {}), dict):
                raise SettingsError(f"{where}: '{folder}' must hold settings, not {place[folder]!r}")
            place = place[folder]
        place[last] = value
    return parse_config(values, where)


#: Short names, of the command line's options and of ``slidepipe.run``, for settings that people change often.
SHORT_NAMES = {
    "backbone": "backbone.name",
    "weights": "backbone.weights",
    "views": "backbone.views",
    "head": "head.name",
    "alpha": "head.alpha",
    "detector": "detector.name",
    "device": "run.device",
    "workers": "run.workers",
    "scheduler": "run.scheduler",
    "dashboard": "run.dashboard",
    "on_error": "run.on_error",
}


def overrides_from_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by keyword (short names, or ``__`` for a dot) as the dotted overrides of :func:`load_config`."""
    return {SHORT_NAMES.get(name, name.replace("__", ".")): value for name, value in settings.items()}


def parse_config(values: Mapping[str, Any], where: str) -> Config:
    """Check ``values``; :class:`SettingsError` in one line names ``where`` and the first setting that is wrong."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{where}: {explain(error, Config)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error in one line: which setting, what is wrong, which settings there are."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for part in first["loc"][:-1]:
            owner = owner.model_fields[str(part)].annotation
        known = ", ".join(sorted(owner.model_fields))
        return f"unknown setting '{place}'. Known here: {known}"
    return f"setting '{place}' is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def default_yaml() -> str:
    """``configs/default.yaml``: every setting with its default, unit and meaning."""
    lines = [
        "# Every setting of slidepipe with its default. Written from the models in slidepipe/config.py; paths count from this",
        "# file's folder. A run needs a reference set: give it here or with --reference.",
    ]
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += ["", f"# {field.annotation.__doc__}", f"{name}:"]
            lines += [
                line
                for inner, inner_field in field.annotation.model_fields.items()
                for line in _yaml_setting(
                    inner, inner_field.description, inner_field.get_default(call_default_factory=True), "  "
                )
            ]
        else:
            lines += ["", *_yaml_setting(name, field.description, field.get_default(call_default_factory=True), "")]
    return "\n".join(lines) + "\n"


def _yaml_setting(name: str, description: str | None, default: object, indent: str) -> list[str]:
    if isinstance(default, tuple):
        default = list(default)
    value = "" if default is None else " " + yaml.safe_dump(default, default_flow_style=True).splitlines()[0]
    return [f"{indent}# {description}", f"{indent}{name}:{value}"]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}). Check the path given with --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}: not YAML{place} ({getattr(error, 'problem', None) or error})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: must hold 'setting: value' lines, as configs/default.yaml does")
    for section, model in ((name, field.annotation) for name, field in Config.model_fields.items()):
        if isinstance(model, type) and issubclass(model, BaseModel) and values.get(section, 0) is None:
            values[section] = {}  # a section whose settings are all commented out
    for *folders, setting in _PATHS:
        owner: Any = values
        for folder in folders:
            owner = owner.get(folder) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and isinstance(owner.get(setting), str):
            owner[setting] = str(path.parent / owner[setting])
    for name in ("plugins", "reference_results"):
        if isinstance(values.get(name), list):
            values[name] = [str(path.parent / str(file)) for file in values[name]]
    return values


if __name__ == "__main__":
    Path(__file__).parent.parent.joinpath("configs", "default.yaml").write_text(default_yaml(), encoding="utf-8")
