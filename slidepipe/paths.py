"""Paths as the workers see them: a folder may be mounted elsewhere on the machines that do the work."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any


def absolute(path: Path | str) -> Path:
    """The path from the root on, without ".."; links stay as they are, as a MIRAX slide's folder lies beside its link."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve would follow links


def relocate(value: Any, paths: Mapping[str, str]) -> Any:
    """``value`` with every path below a folder of ``paths`` told as that folder's other name.

    Looks into dataclasses, tuples and lists. Where one folder lies in another the inner one decides. A string is a path only if
    a dataclass says so through a method ``relocated(paths)``.
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
    """``path`` below the other name of the innermost folder of ``paths`` that it lies in."""
    for here in sorted(paths, key=len, reverse=True):
        if path.is_relative_to(here):
            return Path(paths[here]) / path.relative_to(here)
    return path
