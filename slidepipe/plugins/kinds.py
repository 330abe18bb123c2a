"""The kinds of plugins. A new kind is one more entry of `KINDS`."""

import importlib
from dataclasses import dataclass
from typing import Any

Kind = str
"""Name of a plugin kind, a key of `KINDS`."""


@dataclass(frozen=True)
class PluginKind:
    """One kind of plugins.

    Attributes:
        name: the name of the kind, as messages and `slidepipe plugins list` show it.
        group: the entry-point group.
        methods: the methods that a class must implement. A class in a plugin file that has all of them is of this kind.
        attributes: the attributes that a plugin must have once it is built.
        base_class: the base class as `module:Class`, imported when the first plugin of the kind is; None if there is none.
    """

    name: Kind
    group: str
    methods: tuple[str, ...]
    attributes: tuple[str, ...] = ("name",)
    base_class: str | None = None

    def load_base_class(self) -> type[Any] | None:
        """Import and return the base class, or return None if the kind has none."""
        if self.base_class is None:
            return None
        module_name, _, class_name = self.base_class.partition(":")
        base: type[Any] = getattr(importlib.import_module(module_name), class_name)
        return base


KINDS: dict[Kind, PluginKind] = {
    kind.name: kind
    for kind in (
        PluginKind(
            name="backbone",
            group="slidepipe.backbones",
            methods=("load", "embed"),
            attributes=("name", "input_px", "license", "source"),  # `dim` may be known only after `load`
            base_class="slidepipe.interfaces:Backbone",
        ),
        PluginKind(
            name="head",
            group="slidepipe.heads",
            methods=("fit", "predict"),
            base_class="slidepipe.interfaces:Head",
        ),
        PluginKind(
            name="detector",
            group="slidepipe.detectors",
            methods=("detect",),
            attributes=("name", "mpp", "halo_um", "align_px"),
            base_class="slidepipe.interfaces:Detector",
        ),
        PluginKind(  # its base class, slidepipe.slides.reader.SlideReader, is checked where readers are listed
            name="reader",
            group="slidepipe.readers",
            methods=("can_read", "read", "close"),
            attributes=("name", "meta"),
        ),
    )
}


def kind_of(cls: type) -> Kind | None:
    """Return the kind whose methods a class implements, or None."""
    return next((kind.name for kind in KINDS.values() if not missing_methods(kind.name, cls)), None)


def missing_methods(kind: Kind, cls: type) -> list[str]:
    """Return the required methods that a class of a kind does not implement."""
    methods = {name: getattr(cls, name, None) for name in KINDS[kind].methods}
    return [
        name
        for name, method in methods.items()
        if not callable(method) or getattr(method, "__isabstractmethod__", False)
    ]


def required_methods() -> str:
    """Return the required methods of each kind in words, for messages."""
    return "; ".join(f"{kind.name}: {', '.join(kind.methods)}" for kind in KINDS.values())
