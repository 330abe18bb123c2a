"""The plugin registry: backbones, heads and detectors, found by entry point or in a file the user names.

Listing reads the metadata of installed distributions and imports nothing. Importing this module is light too, so that
``slidepipe plugins list`` answers at once. The built-ins come through the same door as a stranger's plugin.

A name may carry an argument after a colon, ``timm:vit_tiny_patch16_224`` or ``yolo:FILE.onnx``: the entry point is the
part before it, and its class says ``takes_argument = True`` and is built as ``Class(settings, argument="...")``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from slidepipe.errors import PluginError, SettingsError, SlidepipeError

if TYPE_CHECKING:  # interfaces imports numpy
    from slidepipe.interfaces import Backbone, Detector, Head

Kind = Literal["backbone", "head", "detector", "reader"]

GROUPS: dict[Kind, str] = {
    "backbone": "slidepipe.backbones",
    "head": "slidepipe.heads",
    "detector": "slidepipe.detectors",
    "reader": "slidepipe.readers",
}
METHODS: dict[Kind, tuple[str, ...]] = {
    "backbone": ("load", "embed"),
    "head": ("fit", "predict"),
    "detector": ("detect",),
    "reader": ("can_read", "read", "close"),
}
ATTRIBUTES: dict[Kind, tuple[str, ...]] = {
    "backbone": ("name", "dim", "input_px", "license", "source"),
    "head": ("name",),
    "detector": ("name", "mpp", "halo_um", "align_px"),
    "reader": ("name", "meta"),
}
"""What a built plugin must have besides its methods."""

_VALUE = re.compile(r"^\s*(?P<module>[A-Za-z_][\w.]*)\s*:\s*(?P<attr>[A-Za-z_][\w.]*)\s*(\[.*\])?\s*$")


@dataclass(frozen=True)
class PluginInfo:
    """One plugin as its metadata describes it; nothing of it has been imported.

    Attributes:
        kind: "backbone", "head", "detector" or "reader".
        name: what the user calls it (the part before a colon).
        distribution: the package that ships it, or the path of a file given with ``--plugin``.
        version: of the distribution; empty for a file.
        value: "module:Class".
        error: why it cannot be used, as far as metadata tells, or None.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    value: str
    error: str | None = None

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class _LocalFile:
    path: Path
    plugins: tuple[tuple[PluginInfo, type], ...]


_local_files: dict[str, _LocalFile] = {}  # keyed by module name: the stem and a hash of the content


def list_plugins(kind: Kind | None = None) -> list[PluginInfo]:
    """List the plugins of one kind, or of all, sorted by kind and name, from metadata alone.

    A plugin that cannot be used carries the reason in ``error``; it hides no other.
    """
    found = [info for info in _discover() if kind is None or info.kind == kind]
    claims: dict[tuple[Kind, str], list[PluginInfo]] = {}
    for info in found:
        claims.setdefault((info.kind, info.name), []).append(info)
    order = list(GROUPS)
    listed: list[PluginInfo] = []
    for key in sorted(claims, key=lambda key: (order.index(key[0]), key[1])):
        group = sorted(claims[key], key=lambda info: info.origin)
        if len(group) > 1:
            group = [replace(info, error=_clash(group)) for info in group]
        listed.extend(group)
    return listed


def find(kind: Kind, name: str) -> PluginInfo:
    """Find the one plugin called ``name``; what follows a colon is its argument and not looked at.

    Raises:
        PluginError: no plugin of that name (the message lists the nearest and all), two that claim it, or
            broken metadata.
    """
    if kind not in GROUPS:
        raise PluginError(f"plugin kind {kind!r} is unknown: use one of {', '.join(GROUPS)}")
    base = name.partition(":")[0]
    everything = list_plugins()
    matches = [info for info in everything if info.kind == kind and info.name == base]
    if not matches:
        raise PluginError(_unknown(kind, base, everything))
    if len(matches) > 1:
        raise PluginError(_clash(matches))
    if matches[0].error is not None:
        raise PluginError(f"{kind} {base!r} from {matches[0].origin} cannot be used: {matches[0].error}")
    return matches[0]


def get_class(kind: Kind, name: str) -> type[Any]:
    """Import the class of a plugin.

    Raises:
        PluginError: as :func:`find`, or the import fails (the message names distribution, version and the error), or
            what is found is not a class with the methods of its kind.
    """
    info = find(kind, name)
    for local in _local_files.values():
        for local_info, cls in local.plugins:
            if local_info == info:
                return cls
    module_name, _, attribute = info.value.partition(":")
    found: Any = _guard(info, "cannot be imported", importlib.import_module, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{kind} {info.name!r} from {info.origin} is broken: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not isinstance(found, type):
        raise PluginError(f"{kind} {info.name!r} from {info.origin} is broken: {info.value} is not a class")
    missing = [method for method in METHODS[kind] if not callable(getattr(found, method, None))]
    if missing:
        raise PluginError(
            f"{kind} {info.name!r} from {info.origin} is broken: {info.value} has no method {', '.join(missing)}"
        )
    return found


@overload
def create(
    kind: Literal["backbone"], name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None
) -> Backbone: ...
@overload
def create(
    kind: Literal["head"], name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None
) -> Head: ...
@overload
def create(
    kind: Literal["detector"], name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None
) -> Detector: ...
def create(kind: Kind, name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None) -> Any:
    """Build a plugin (a backbone is not loaded yet).

    Args:
        kind: "backbone", "head" or "detector".
        name: its name, with an argument after a colon where the plugin takes one.
        settings: for the plugin's ``Settings``; must be empty where it has none.
        weights: a weight file, for the field ``weights`` of its ``Settings``.

    Raises:
        PluginError: the plugin is missing, broken, claimed twice, or breaks its contract.
        SettingsError: a setting is unknown or of the wrong kind; the message names the plugin and its settings.
    """
    cls = get_class(kind, name)
    return build(kind, name, cls, settings, weights, info=find(kind, name))


def build(
    kind: Kind,
    name: str,
    cls: type[Any],
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    info: PluginInfo | None = None,
) -> Any:
    """Build a plugin from its class, as :func:`create` does once it has found the class."""
    base, colon, argument = name.partition(":")
    info = info or PluginInfo(kind, base, cls.__module__, "", f"{cls.__module__}:{cls.__qualname__}")
    keywords: dict[str, Any] = {}
    if getattr(cls, "takes_argument", False):
        if not argument:
            what = getattr(cls, "argument_name", "NAME")
            raise PluginError(f"{kind} {base!r} needs to know which: write {base}:{what}")
        keywords["argument"] = argument
    elif colon:
        raise PluginError(f"{kind} {base!r} takes nothing after a colon: write {base} instead of {name}")
    values = dict(settings or {})
    model = getattr(cls, "Settings", None)
    if model is None:
        if weights is not None:
            raise SettingsError(f"{kind} {name!r} takes no weight file: leave --weights away")
        if values:
            raise SettingsError(f"{kind} {name!r} takes no settings: remove {', '.join(sorted(values))}")
        positional: tuple[Any, ...] = ()
    else:
        positional = (_settings(kind, name, info, model, values, weights),)
    plugin = _guard(info, "cannot be built", cls, *positional, **keywords)
    lacking = [attribute for attribute in ATTRIBUTES[kind] if not hasattr(plugin, attribute)]
    # A network that is only known by name may learn its width while it loads.
    lacking = [attribute for attribute in lacking if attribute != "dim"]
    if lacking:
        raise PluginError(f"{kind} {name!r} from {info.origin} breaks its contract: it has no {', '.join(lacking)}")
    return plugin


def register_file(path: Path | str) -> list[PluginInfo]:
    """Import a Python file that the user named (``--plugin FILE.py``) and register the plugins in it.

    The plugins are the classes in the module's list ``PLUGINS``, or, without one, every public class written in the
    file that has the methods of a backbone, head or detector. The module's name follows from the file's name and
    content, so a worker process that registers the same file can unpickle what another made. The same file again
    changes nothing.

    Raises:
        PluginError: the file is missing, cannot be imported, or holds no plugin.
    """
    path = Path(path)
    try:
        code = path.read_bytes()
    except OSError as error:
        raise PluginError(f"{path}: the plugin file cannot be read ({error.strerror}); check the path") from error
    stem = re.sub(r"\W", "_", path.stem)
    module_name = f"slidepipe_plugin_{stem}_{hashlib.sha256(code).hexdigest()[:12]}"
    if module_name not in _local_files:
        module = _import_file(path, module_name)
        try:
            found = _LocalFile(path.resolve(), tuple(_plugins_in(path, module)))
        except PluginError:
            del sys.modules[module_name]
            raise
        for earlier in [name for name, local in _local_files.items() if local.path == found.path]:
            del _local_files[earlier]  # the file was edited meanwhile: it is no rival of itself
        _local_files[module_name] = found
    return [info for info, _ in _local_files[module_name].plugins]


def register_files(paths: Iterable[Path | str]) -> list[PluginInfo]:
    """Register several files, as every worker of a run does before its first task."""
    return [info for path in paths for info in register_file(path)]


def registered_files() -> tuple[str, ...]:
    """Return the module names of the registered plugin files. They change when a file is added or edited."""
    return tuple(_local_files)


def _import_file(path: Path, module_name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: a plugin file must be Python source that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses, pydantic and pickle look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise PluginError(f"{path}: the plugin file cannot be imported: {_say(error)}") from error
    return module


def _plugins_in(path: Path, module: ModuleType) -> list[tuple[PluginInfo, type]]:
    listed = getattr(module, "PLUGINS", None)
    if listed is None:
        classes = [
            thing
            for name, thing in vars(module).items()
            if isinstance(thing, type)
            and thing.__module__ == module.__name__
            and not name.startswith("_")
            and _kind_of(thing) is not None
        ]
    else:
        classes = list(listed)
    found: list[tuple[PluginInfo, type]] = []
    for cls in classes:
        kind = _kind_of(cls) if isinstance(cls, type) else None
        if kind is None:
            raise PluginError(f"{path}: {cls!r} in PLUGINS is not a class with the methods of a plugin ({_wanted()})")
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name or ":" in name:
            raise PluginError(f'{path}: class {cls.__name__} needs a name without a colon: add name = "my-{kind}"')
        found.append((PluginInfo(kind, name, str(path), "", f"{module.__name__}:{cls.__qualname__}"), cls))
    if not found:
        raise PluginError(f"{path}: no plugin found: write a class with the methods of one ({_wanted()})")
    return found


def _kind_of(cls: type) -> Kind | None:
    for kind, methods in METHODS.items():
        if all(callable(getattr(cls, method, None)) for method in methods):
            return kind
    return None


def _wanted() -> str:
    return "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in METHODS.items())


def _discover() -> list[PluginInfo]:
    return [*_installed(), *(info for local in _local_files.values() for info, _ in local.plugins)]


def _installed() -> list[PluginInfo]:
    # Not metadata.entry_points(): one malformed entry_points.txt makes it raise for everybody.
    names: dict[str, str] = {}
    plugins: list[PluginInfo] = []
    for distribution in metadata.distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if not any(f"[{group}]" in text for group in GROUPS.values()):
            continue
        name = _distribution_name(distribution)
        if name is None:
            error = "the metadata of its distribution has no name: reinstall it"
            plugins.extend(replace(info, error=error) for info in _parse("a nameless distribution", "", text))
        else:
            names.setdefault(re.sub(r"[-_.]+", "-", name).lower(), name)
    for name in names.values():
        # By name again: a distribution may be shadowed by another of its name earlier on the path.
        distribution = metadata.distribution(name)
        plugins.extend(_parse(name, distribution.version, distribution.read_text("entry_points.txt") or ""))
    return plugins


def _distribution_name(distribution: metadata.Distribution) -> str | None:
    try:  # without a METADATA file Python 3.11 gives empty metadata, later ones None or an error
        return distribution.metadata["Name"] or None
    except (TypeError, KeyError, OSError):
        return None


def _parse(distribution: str, version: str, text: str) -> list[PluginInfo]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    kind: Kind | None = None
    plugins: list[PluginInfo] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            kind = kinds.get(line[1:-1].strip())
        elif kind is not None:
            name, equals, value = (part.strip() for part in line.partition("="))
            error = None if equals else f"its entry point {line!r} is not of the form name = module:Class"
            plugins.append(PluginInfo(kind, name, distribution, version, value, error or _value_error(value)))
    return plugins


def _value_error(value: str) -> str | None:
    match = _VALUE.match(value)
    if match is None:
        return f"its entry point {value!r} is not of the form module:Class"
    top = match["module"].partition(".")[0]
    if (
        top not in sys.modules and importlib.util.find_spec(top) is None
    ):  # asking for a top-level module imports nothing
        return f"its module {top} is not installed"
    return None


def _clash(group: list[PluginInfo]) -> str:
    origins = " and ".join(info.origin for info in group)
    return f"{group[0].kind} {group[0].name!r} is claimed by {origins}: uninstall one of them or rename its plugin"


def _unknown(kind: Kind, name: str, everything: list[PluginInfo]) -> str:
    available = [info.name for info in everything if info.kind == kind]
    near = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
    elsewhere = [info.kind for info in everything if info.kind != kind and info.name == name]
    hint = f"; did you mean {' or '.join(near)}?" if near else f" (it is a {elsewhere[0]})" if elsewhere else ""
    return f"{kind} {name!r} is unknown{hint}; available: {', '.join(dict.fromkeys(available)) or 'none'}"


def _guard(info: PluginInfo, what: str, call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call into a plugin's own code: whatever it raises becomes an error that says whose it is."""
    try:
        return call(*args, **keywords)
    except SlidepipeError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{info.kind} {info.name!r} from {info.origin} {what}: {_say(error)}") from error


def _say(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _settings(
    kind: Kind, name: str, info: PluginInfo, model: Any, values: dict[str, Any], weights: Path | None
) -> object:
    if not hasattr(model, "model_validate") or not hasattr(model, "model_fields"):
        raise PluginError(f"{kind} {name!r} from {info.origin} breaks its contract: its Settings is no pydantic model")
    fields = cast(dict[str, Any], model.model_fields)
    allowed = ", ".join(fields) or "none"
    if weights is not None:
        if "weights" not in fields:
            raise SettingsError(f"{kind} {name!r} takes no weight file: leave --weights away")
        values = {**values, "weights": str(weights)}  # a str suits fields typed Path and str alike
    # A stranger's model may lack extra="forbid"; a misspelt setting must not pass in silence there either.
    if model.model_config.get("extra") != "allow":
        known = {*fields, *(field.alias for field in fields.values() if field.alias)}
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise SettingsError(f"{kind} {name!r} has no setting {', '.join(unknown)}; its settings: {allowed}")
    from pydantic import ValidationError  # here, because listing must stay light

    try:
        return cast(object, model.model_validate(values))
    except ValidationError as error:
        problems = "; ".join(
            f"setting {'.'.join(map(str, problem['loc'])) or '(together)'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise SettingsError(f"{kind} {name!r}: {problems}; its settings: {allowed}") from error
