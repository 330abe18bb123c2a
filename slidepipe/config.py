"""Settings of a run: pydantic models that are read from YAML and overridden by the command line.

The models are the only source of the settings: `configs/default.yaml` is written from them by
`python -m slidepipe.config`, and a test compares the two. An unknown setting is an error.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slidepipe.errors import SettingsError

logger = logging.getLogger(__name__)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfig(_Settings):
    """The backbone, which embeds the crops."""

    name: str = Field(
        "descriptors", description="backbone, see `slidepipe plugins list`; also timm:NAME or hf-hub:OWNER/NAME"
    )
    weights: Path | None = Field(None, description="weights file, if the backbone takes one")
    orientations: Literal[1, 8] | None = Field(
        None,
        description="number of orientations averaged per embedding: 1 or 8; empty: the backbone's own, usually 8",
    )
    companion: str | None = Field(
        "descriptors",
        description="a second backbone whose embeddings of the same crops are concatenated with those of the first; "
        "null: none",
    )
    isolate: bool = Field(
        True,
        description="remove the surroundings of an object, black debris and cut neighbours before embedding it, in reference "
        "images as well",
    )
    batch: int = Field(32, ge=1, description="number of crops embedded per call; 256 suits a GPU")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the backbone itself")


class HeadConfig(_Settings):
    """The head, which assigns genera."""

    name: str = Field("knn", description="head, see `slidepipe plugins list`")
    alpha: float = Field(0.24, gt=0, lt=1, description="largest fraction of a genus's fossils that may be left unknown")
    slide_shift: bool = Field(
        True,
        description="remove from the embeddings what the slide (its scanner, stain and focus) changes in all its objects",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the head itself")


class DetectorConfig(_Settings):
    """The detector, which finds the objects."""

    name: str = Field("density", description="detector, see `slidepipe plugins list`; also yolo:FILE.onnx")
    block_px: int = Field(
        3072, ge=256, le=8192, description="side of a block, in detection pixels; results do not depend on it"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the detector itself")


class CropsConfig(_Settings):
    """How objects are cut from the slide."""

    margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="margin on each side of a box, as a fraction of its long side; use the margin of the reference images",
    )
    long_side_px: int = Field(
        256, ge=32, le=2048, description="long side of a stored crop, in pixels; smaller objects are not enlarged"
    )
    jpeg_quality: int = Field(92, ge=50, le=100, description="JPEG quality of the stored crops")
    keep: bool = Field(
        True,
        description="store the pixels of the crops in RESULTS; `crops: none` stores coordinates only, and a run with another "
        "backbone then reads the slides again",
    )


class CountingConfig(_Settings):
    """How the tables are computed from the objects."""

    minimum_specimens: int = Field(
        1, ge=1, description="number of specimens a sample needs to define the top or base of a genus"
    )
    rarefy_to: int | None = Field(
        None,
        ge=1,
        description="number of fossils that richness is rarefied to; empty: the smallest sum of at least 20 in the well",
    )
    spike_genus: str | None = Field(
        None,
        description="genus of the reference set that was added as a spike (Lycopodium); needs tablets, spores_per_tablet and "
        "grams in samples.csv; excluded from percentages",
    )
    max_black_share: float = Field(
        0.7, ge=0, le=1, description="largest black fraction of a usable object; 1 accepts every object"
    )
    max_edge_um: float = Field(
        6.0, gt=0, description="largest width of the sharpest edge of an object in focus, in micrometres"
    )
    max_size_um: float = Field(200.0, gt=0, description="largest long side of a usable object, in micrometres")


class RunConfig(_Settings):
    """Where and how the work is done. These settings do not change any result."""

    scheduler: str = Field(
        "local",
        description="local (processes, plus one per GPU), threads (for debugging), tcp://HOST:PORT, a scheduler FILE.json or "
        "slurm",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="number of worker processes or threads, or of slurm jobs; empty: one per core, or one job",
    )
    dashboard: bool | None = Field(
        None, description="show the Dask dashboard of a cluster started by the run; empty: if run in a terminal"
    )
    jobqueue: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of dask-jobqueue's SLURMCluster; see configs/slurm.yaml",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    on_error: Literal["continue", "stop"] = Field(
        "continue", description="continue with the other slides after a slide fails, or stop"
    )


class Config(_Settings):
    """All settings of a run."""

    reference: Path | None = Field(
        None,
        description="folder of labelled crops, one folder per genus; a folder name that starts with _ is a reject class",
    )
    reference_results: tuple[Path, ...] = Field(
        (),
        description="RESULTS folders whose reviewed objects are added to the reference set; an object is not used for "
        "its own slide",
    )
    mpp: float | None = Field(
        None, gt=0, description="micrometres per pixel; empty: the value in the scan or in samples.csv"
    )
    plugins: tuple[Path, ...] = Field((), description="plugin files (.py) to load in addition to installed plugins")
    paths: dict[str, str] = Field(
        default_factory=dict,
        description="folders on this machine mapped to the same folders on worker machines ({/mnt/scans: /data/scans})",
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


#: Settings that have a new name: old name to new name. The old names are accepted until the release after next; then
#: delete the entries here.
RENAMED_SETTINGS = {
    "backbone.views": "backbone.orientations",
    "backbone.beside": "backbone.companion",
}

#: Short names of frequently used settings, for command-line options and for keyword arguments of `slidepipe.run`.
SHORT_NAMES = {
    "backbone": "backbone.name",
    "companion": "backbone.companion",
    "weights": "backbone.weights",
    "orientations": "backbone.orientations",
    "views": "backbone.views",  # the old name of orientations
    "head": "head.name",
    "alpha": "head.alpha",
    "detector": "detector.name",
    "device": "run.device",
    "workers": "run.workers",
    "scheduler": "run.scheduler",
    "dashboard": "run.dashboard",
    "on_error": "run.on_error",
}

#: What a word in the place of a section means, as in `head: knn` and `crops: none`.
_SHORT_SECTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("backbone", "head", "detector"), lambda word: {"name": word}),
    "crops": lambda word: {"keep": False} if word == "none" else word,
}

#: Settings that name a file. In a YAML file, a relative path is relative to the folder of this file.
_PATHS: tuple[tuple[str, ...], ...] = (("reference",), ("backbone", "weights"))
_PATH_LISTS = ("plugins", "reference_results")


def load_config(source: Path | Mapping[str, Any] | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the settings from a file and override some of them.

    Args:
        source: a YAML file, or a mapping of what such a file would contain. None gives the defaults.
        overrides: dotted names of settings to values, for example `{"head.alpha": 0.2}`. A value of None is ignored.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown or has a wrong value.
    """
    where = str(source) if isinstance(source, Path) else "settings"
    values: dict[str, Any] = _read_yaml(source) if isinstance(source, Path) else copy.deepcopy(dict(source or {}))
    for section, expand in _SHORT_SECTIONS.items():
        if isinstance(values.get(section), str):
            values[section] = expand(values[section])
    renamed = _rename_settings(values, where)
    for name, value in (overrides or {}).items():
        if value is None:
            continue
        if name in RENAMED_SETTINGS:
            renamed.append(name)
        *folders, last = RENAMED_SETTINGS.get(name, name).split(".")
        place = values
        for folder in folders:
            if not isinstance(place.setdefault(folder, {}), dict):
                raise SettingsError(
                    f"{where}: '{folder}' is {place[folder]!r}. Write its settings below it, as configs/default.yaml does"
                )
            place = place[folder]
        place[last] = value
    for name in dict.fromkeys(renamed):
        logger.warning(
            "%s: setting '%s' has a new name. Write '%s'; the next release is the last one that accepts the old name",
            where,
            name,
            RENAMED_SETTINGS[name],
        )
    return parse_config(values, where)


def overrides_from_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings given by keyword as the overrides of `load_config`.

    Args:
        settings: names to values. A name is a key of `SHORT_NAMES`, or a dotted name with `__` for each dot.
    """
    return {SHORT_NAMES.get(name, name.replace("__", ".")): value for name, value in settings.items()}


def parse_config(values: Mapping[str, Any], where: str) -> Config:
    """Check settings and return them as a `Config`. Old names are accepted without a warning, as in an old manifest.

    Args:
        values: nested mapping of settings. It is not changed.
        where: file that the settings are from, for messages.

    Raises:
        SettingsError: a setting is unknown or has a wrong value.
    """
    checked = copy.deepcopy(dict(values))
    _rename_settings(checked, where)
    try:
        return Config.model_validate(checked)
    except ValidationError as error:
        raise SettingsError(f"{where}: {explain(error, Config)}") from error


def _rename_settings(values: dict[str, Any], where: str) -> list[str]:
    """Give settings their new names, in place. Return the old names that were found."""
    found = []
    for old, new in RENAMED_SETTINGS.items():
        section, _, old_key = old.partition(".")
        new_key = new.rpartition(".")[2]
        settings = values.get(section)
        if not isinstance(settings, dict) or old_key not in settings:
            continue
        if new_key in settings:
            raise SettingsError(f"{where}: both '{new}' and its old name '{old}' are given. Remove '{old}'")
        settings[new_key] = settings.pop(old_key)
        found.append(old)
    return found


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first problem of a validation error in one line: the setting, the problem, and the known settings.

    Args:
        error: what pydantic raised.
        model: the model that was validated.
    """
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
    """Return the text of `configs/default.yaml`: every setting with its default, unit and meaning."""
    lines = [
        "# Every setting of slidepipe with its default. This file is written from the models in slidepipe/config.py. Relative",
        "# paths are relative to the folder of this file. A run needs a reference set: give it here or with --reference.",
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
        problem = getattr(error, "problem", None) or error
        raise SettingsError(f"{path}: not valid YAML{place} ({problem}). Correct the file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: not a mapping. Write 'setting: value' lines, as configs/default.yaml does")
    for section, model in ((name, field.annotation) for name, field in Config.model_fields.items()):
        if isinstance(model, type) and issubclass(model, BaseModel) and values.get(section, 0) is None:
            values[section] = {}  # all settings of the section are commented out
    _resolve_paths(values, path.parent)
    return values


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the relative paths in the values of a YAML file relative to its folder, in place."""
    for *sections, setting in _PATHS:
        owner: Any = values
        for section in sections:
            owner = owner.get(section) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and isinstance(owner.get(setting), str):
            owner[setting] = str(folder / owner[setting])
    for name in _PATH_LISTS:
        if isinstance(values.get(name), list):
            values[name] = [str(folder / str(file)) for file in values[name]]


if __name__ == "__main__":
    Path(__file__).parent.parent.joinpath("configs", "default.yaml").write_text(default_yaml(), encoding="utf-8")
