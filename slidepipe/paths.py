"""Paths on worker machines, where a folder may be mounted at another place."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any


def absolute(path: Path | str) -> Path:
    """Return the absolute path without "..".

    Links are not resolved, because the data folder of a linked MIRAX slide is next to the link.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve would follow links


def relocate(value: Any, paths: Mapping[str, str]) -> Any:
    """Return `value` with the folders of `paths` replaced in every path.

    Dataclasses, tuples and lists are searched. If one folder lies in another, the inner one is replaced. Strings are not changed,
    except by a dataclass with a method `relocated(paths)`.

    Args:
        value: any value.
        paths: the folder on the worker machine, by the folder here.
    """
    if not paths:
        return value
    if isinstance(value, PurePath):
        return relocate_path(value, paths)
    if hasattr(value, "relocated"):
        return value.relocated(paths)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: moved
            for field in dataclasses.fields(value)
            if field.init and (moved := relocate(old := getattr(value, field.name), paths)) is not old
        }
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, (tuple, list)):
        moved_items = [relocate(item, paths) for item in value]
        return value if all(a is b for a, b in zip(moved_items, value, strict=True)) else type(value)(moved_items)
    return value


def relocate_path(path: PurePath, paths: Mapping[str, str]) -> PurePath:
    """Return `path` with the innermost folder of `paths` that contains it replaced."""
    for here in sorted(paths, key=len, reverse=True):
        if path.is_relative_to(here):
            return Path(paths[here]) / path.relative_to(here)
    return path
