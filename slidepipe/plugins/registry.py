"""List and find plugins by the metadata of installed packages. No plugin is imported."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata

from slidepipe.errors import PluginError
from slidepipe.plugins.kinds import KINDS, Kind

_VALUE = re.compile(r"^\s*(?P<module>[A-Za-z_][\w.]*)\s*:\s*(?P<attr>[A-Za-z_][\w.]*)\s*(\[.*\])?\s*$")


@dataclass(frozen=True)
class PluginInfo:
    """The metadata of one plugin.

    Attributes:
        kind: a key of `slidepipe.plugins.KINDS`.
        name: the name that users type, without the part after a colon.
        distribution: the package that ships the plugin, or the path of a file given with `--plugin`.
        version: version of the package; empty for a file.
        value: `module:Class`.
        error: why the plugin cannot be used, as far as its metadata shows, or None.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    value: str
    error: str | None = None

    @property
    def origin(self) -> str:
        """The package and its version, or the path of the file, for messages."""
        return f"{self.distribution} {self.version}".strip()


#: The classes of the plugin files that are registered in this process, by the name of the module made from the file.
registered_classes: dict[str, tuple[tuple[PluginInfo, type], ...]] = {}


def list_plugins(kind: Kind | None = None) -> list[PluginInfo]:
    """List the plugins of one kind, or of all kinds, sorted by kind and name.

    A plugin that cannot be used is listed, too. Its `error` holds the reason.
    """
    found = [info for info in _discover() if kind is None or info.kind == kind]
    claims: dict[tuple[Kind, str], list[PluginInfo]] = {}
    for info in found:
        claims.setdefault((info.kind, info.name), []).append(info)
    order = list(KINDS)
    listed: list[PluginInfo] = []
    for key in sorted(claims, key=lambda key: (order.index(key[0]), key[1])):
        group = sorted(claims[key], key=lambda info: info.origin)
        if len(group) > 1:
            group = [replace(info, error=_clash(group)) for info in group]
        listed.extend(group)
    return listed


def find(kind: Kind, name: str) -> PluginInfo:
    """Return the metadata of the plugin called `name`. The part of the name after a colon is ignored.

    Raises:
        PluginError: there is no plugin of this name, two packages claim the name, or the metadata is broken.
    """
    if kind not in KINDS:
        raise PluginError(f"unknown plugin kind {kind!r}. Use one of {', '.join(KINDS)}")
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


def _discover() -> Iterator[PluginInfo]:
    yield from _installed()
    for classes in registered_classes.values():
        yield from (info for info, _ in classes)


def _installed() -> list[PluginInfo]:
    # metadata.entry_points() is not used: one malformed entry_points.txt of any package makes it raise.
    names: dict[str, str] = {}
    plugins: list[PluginInfo] = []
    for distribution in metadata.distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if not any(f"[{kind.group}]" in text for kind in KINDS.values()):
            continue
        name = _distribution_name(distribution)
        if name is None:
            error = "the metadata of its package has no name. Reinstall the package"
            plugins.extend(replace(info, error=error) for info in _parse("a package without a name", "", text))
        else:
            names.setdefault(re.sub(r"[-_.]+", "-", name).lower(), name)
    for name in names.values():
        # Look the package up by its name, because another one of the same name may come earlier on the path.
        distribution = metadata.distribution(name)
        plugins.extend(_parse(name, distribution.version, distribution.read_text("entry_points.txt") or ""))
    return plugins


def _distribution_name(distribution: metadata.Distribution) -> str | None:
    try:  # Without a METADATA file, Python 3.11 returns empty metadata; later versions return None or raise an error.
        return distribution.metadata["Name"] or None
    except (TypeError, KeyError, OSError):
        return None


def _parse(distribution: str, version: str, text: str) -> list[PluginInfo]:
    """Read the plugins from the text of an entry_points.txt."""
    kinds = {kind.group: kind.name for kind in KINDS.values()}
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
    # find_spec of a top-level module imports nothing.
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        return f"its module {top} is not installed"
    return None


def _clash(group: list[PluginInfo]) -> str:
    origins = " and ".join(info.origin for info in group)
    return f"{group[0].kind} {group[0].name!r} is claimed by {origins}. Uninstall one of them or rename its plugin"


def _unknown(kind: Kind, name: str, everything: list[PluginInfo]) -> str:
    available = [info.name for info in everything if info.kind == kind]
    near = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
    other_kinds = [info.kind for info in everything if info.kind != kind and info.name == name]
    hint = f" Did you mean {' or '.join(near)}?" if near else f" It is a {other_kinds[0]}." if other_kinds else ""
    return (
        f"unknown {kind} {name!r}.{hint} Available: {', '.join(dict.fromkeys(available)) or 'none'}. "
        "If its package changed, install it again"
    )
