"""Keep plugins of the old form working for one release: no base class, old names of members.

This module is the only place that knows the old names. Delete it, and its calls in `creation.py`, with the release after
next.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slidepipe.plugins.kinds import KINDS, Kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OldMember:
    """An old member, the text of what to write instead, and a function that returns the name and value of the new one."""

    name: str
    instead: str
    translate: Callable[[Any], tuple[str, Any]]


def _fit_with_crop_like(wanted: bool) -> tuple[str, Any]:
    def fit(head: Any, embeddings: Any, genera: Any, alpha: float, crop_like: Any) -> Any:
        if not wanted:
            return head.fit(embeddings, genera, alpha)
        return head.fit(embeddings, genera, alpha, as_crops=crop_like)

    return "fit_with_crop_like", fit


_OLD_MEMBERS: dict[Kind, tuple[_OldMember, ...]] = {
    "backbone": (
        _OldMember(
            "views", "orientation_invariant = True instead of views = 1", lambda v: ("orientation_invariant", v == 1)
        ),
    ),
    "head": (
        _OldMember(
            "fits_crops",
            "a method fit_with_crop_like instead of fits_crops and the argument as_crops of fit",
            _fit_with_crop_like,
        ),
    ),
}

_warned: set[str] = set()


def adapt_class(kind: Kind, cls: type[Any], origin: str) -> None:
    """Define the optional members that a class of the old form lacks, with their defaults, and warn.

    A class that derives from the base class of its kind and has no old names stays as it is.

    Args:
        kind: the kind of the plugin.
        cls: its class, which is changed in place.
        origin: the package or file of the plugin, for the warning.
    """
    for old in _OLD_MEMBERS.get(kind, ()):
        new_name, _ = old.translate(None)
        value = getattr(cls, old.name, None)
        if value is not None and not _is_newer(cls, new_name, old.name) and not isinstance(value, property):
            setattr(cls, *old.translate(value))
            _warn(kind, cls, origin, f"{old.name!r} has a new name. Write {old.instead}")
    base = KINDS[kind].load_base_class()
    if base is None or issubclass(cls, base):
        return
    missing = {name: default for name, default in _defaults(base).items() if not hasattr(cls, name)}
    if missing:
        for name, default in missing.items():
            setattr(cls, name, default)
        declaration = f"class {cls.__name__}({base.__name__})"
        _warn(kind, cls, origin, f"it has no base class. Write {declaration}, imported from {base.__module__}")


def adapt_plugin(kind: Kind, plugin: Any, origin: str) -> None:
    """Translate the old names that a constructor has set on the plugin itself, and warn."""
    for old in _OLD_MEMBERS.get(kind, ()):
        if old.name in getattr(plugin, "__dict__", {}):
            name, value = old.translate(vars(plugin)[old.name])
            setattr(plugin, name, value.__get__(plugin) if callable(value) else value)
            _warn(kind, type(plugin), origin, f"{old.name!r} has a new name. Write {old.instead}")


def _is_newer(cls: type[Any], new_name: str, old_name: str) -> bool:
    """Return whether the class, or a nearer base class than that of the old name, defines the new name."""
    for base in cls.__mro__:
        if new_name in vars(base):
            return True
        if old_name in vars(base):
            return False
    return False


def _defaults(base: type[Any]) -> dict[str, Any]:
    """Return the members of a base class that have a default: its attributes with a value and its concrete methods."""
    return {
        name: value
        for cls in reversed(base.__mro__[:-1])
        for name, value in vars(cls).items()
        if not name.startswith("_") and not (inspect.isfunction(value) and hasattr(value, "__isabstractmethod__"))
    }


def _warn(kind: Kind, cls: type[Any], origin: str, problem: str) -> None:
    message = (
        f"{kind} {getattr(cls, 'name', cls.__name__)!r} from {origin} has an old form: {problem}. "
        "The next release is the last one that accepts the old form"
    )
    if message not in _warned:  # once per process: a run builds a plugin several times
        _warned.add(message)
        logger.warning("%s", message)
