"""Import the class of a plugin and build the plugin."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from slidepipe.errors import PluginError, SettingsError, SlidepipeError
from slidepipe.plugins.kinds import KINDS, Kind, missing_methods
from slidepipe.plugins.messages import describe_error
from slidepipe.plugins.old_form import adapt_class, adapt_plugin
from slidepipe.plugins.registry import PluginInfo, find, registered_classes

if TYPE_CHECKING:  # slidepipe.interfaces imports numpy, which listing plugins does not need
    from slidepipe.interfaces import Backbone, Detector, Head


def get_class(kind: Kind, name: str) -> type[Any]:
    """Import and return the class of a plugin.

    All optional members of its base class are defined on the class, also if the class does not derive from it.

    Raises:
        PluginError: as `find`; or the import fails, or the entry point is not a class with the methods of its kind.
    """
    info = find(kind, name)
    cls = _registered(info) or _imported(info)
    adapt_class(kind, cls, info.origin)
    return cls


def _registered(info: PluginInfo) -> type[Any] | None:
    """Return the class from a plugin file, or None for an installed plugin."""
    return next((cls for classes in registered_classes.values() for known, cls in classes if known == info), None)


def _imported(info: PluginInfo) -> type[Any]:
    broken = f"{info.kind} {info.name!r} from {info.origin} is broken"
    module_name, _, attribute = info.value.partition(":")
    found: Any = _call(info, "cannot be imported", importlib.import_module, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{broken}: {module_name} has no {attribute}. Correct its entry point")
        found = getattr(found, part)
    if not isinstance(found, type):
        raise PluginError(f"{broken}: {info.value} is not a class. Correct its entry point")
    if missing := missing_methods(info.kind, found):
        raise PluginError(f"{broken}: {info.value} has no method {', '.join(missing)}. Implement it")
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
@overload
def create(kind: Kind, name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None) -> Any: ...
def create(kind: Kind, name: str, settings: Mapping[str, Any] | None = None, weights: Path | None = None) -> Any:
    """Build a plugin by its name. A backbone is not loaded yet.

    Args:
        kind: a key of `slidepipe.plugins.KINDS`, such as `backbone`.
        name: the name of the plugin, with an argument after a colon if the plugin takes one.
        settings: values for the `Settings` of the plugin. Must be empty if the plugin has no settings.
        weights: a weights file, for the field `weights` of the `Settings`.

    Raises:
        PluginError: the plugin is missing or broken, is claimed by two packages, or lacks a required attribute.
        SettingsError: a setting is unknown or has a wrong value.
    """
    return build(kind, name, get_class(kind, name), settings, weights, info=find(kind, name))


def build(
    kind: Kind,
    name: str,
    cls: type[Any],
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    info: PluginInfo | None = None,
) -> Any:
    """Build a plugin from its class. `create` does the same by name.

    Args:
        kind: as for `create`.
        name: as for `create`.
        cls: the class of the plugin.
        settings: as for `create`.
        weights: as for `create`.
        info: the metadata of the plugin, for messages. None derives it from the class.

    Raises:
        PluginError: as `create`.
        SettingsError: as `create`.
    """
    base, colon, argument = name.partition(":")
    info = info or PluginInfo(kind, base, cls.__module__, "", f"{cls.__module__}:{cls.__qualname__}")
    adapt_class(kind, cls, info.origin)
    keywords: dict[str, Any] = {}
    if cls.takes_argument:
        if not argument:
            raise PluginError(f"{kind} {base!r} needs an argument after a colon. Write {base}:{cls.argument_name}")
        keywords["argument"] = argument
    elif colon:
        raise PluginError(f"{kind} {base!r} takes no argument after a colon. Write {base} instead of {name}")
    positional = _constructor_arguments(kind, name, info, cls.Settings, dict(settings or {}), weights)
    plugin = _call(info, "cannot be built", cls, *positional, **keywords)
    adapt_plugin(kind, plugin, info.origin)
    missing = [attribute for attribute in KINDS[kind].attributes if not hasattr(plugin, attribute)]
    if missing:
        raise PluginError(
            f"{kind} {name!r} from {info.origin} has no attribute {', '.join(missing)}. Add it to class {cls.__name__}"
        )
    return plugin


def _constructor_arguments(
    kind: Kind, name: str, info: PluginInfo, model: Any, values: dict[str, Any], weights: Path | None
) -> tuple[object, ...]:
    """Return the positional arguments of the constructor: the validated settings, or none."""
    if weights is not None and (model is None or "weights" not in getattr(model, "model_fields", {})):
        raise SettingsError(f"{kind} {name!r} takes no weights file. Remove --weights")
    if model is None:
        if values:
            raise SettingsError(f"{kind} {name!r} has no settings. Remove {', '.join(sorted(values))}")
        return ()
    if not hasattr(model, "model_validate") or not hasattr(model, "model_fields"):
        raise PluginError(
            f"{kind} {name!r} from {info.origin} is broken: its Settings is not a pydantic model. "
            "Derive it from pydantic.BaseModel"
        )
    if weights is not None:
        values = {**values, "weights": str(weights)}  # a str is accepted by fields of type Path and of type str
    return (_validated(kind, name, model, values),)


def _validated(kind: Kind, name: str, model: Any, values: dict[str, Any]) -> object:
    from pydantic import ValidationError  # imported here, because listing plugins must be quick

    fields = cast(dict[str, Any], model.model_fields)
    known = ", ".join(fields) or "none"
    # A third-party model may lack extra="forbid". A misspelt setting must be an error there, too.
    if model.model_config.get("extra") != "allow":
        accepted = {*fields, *(field.alias for field in fields.values() if field.alias)}
        unknown = sorted(str(key) for key in values if key not in accepted)
        if unknown:
            raise SettingsError(f"{kind} {name!r} has no setting {', '.join(unknown)}. Known settings: {known}")
    try:
        return cast(object, model.model_validate(values))
    except ValidationError as error:
        problems = "; ".join(
            f"setting {'.'.join(map(str, problem['loc'])) or '(combination)'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise SettingsError(f"{kind} {name!r}: {problems}. Known settings: {known}") from error


def _call(info: PluginInfo, problem: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call code of a plugin. Turn any error it raises into a `PluginError` that names the plugin."""
    try:
        return function(*args, **keywords)
    except SlidepipeError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{info.kind} {info.name!r} from {info.origin} {problem}: {describe_error(error)}") from error
