"""Register the plugins in a Python file that the user names with `--plugin FILE.py`."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from slidepipe.errors import PluginError
from slidepipe.plugins.kinds import kind_of, required_methods
from slidepipe.plugins.messages import describe_error
from slidepipe.plugins.registry import PluginInfo, registered_classes


def register_file(path: Path | str) -> list[PluginInfo]:
    """Import a Python file and register the plugins in it.

    The plugins are the classes in the list `PLUGINS` of the file. Without such a list, they are all public classes that
    the file defines and that implement the methods of a plugin. The name of the module follows from the name and the
    content of the file. Therefore a worker process that registers the same file can unpickle plugins of another process.
    Registering an unchanged file again changes nothing.

    Raises:
        PluginError: the file is missing, cannot be imported, or defines no plugin.
    """
    path = Path(path)
    try:
        code = path.read_bytes()
    except OSError as error:
        raise PluginError(f"{path}: the plugin file cannot be read ({error.strerror}). Check the path") from error
    stem = re.sub(r"\W", "_", path.stem)
    module_name = f"slidepipe_plugin_{stem}_{hashlib.sha256(code).hexdigest()[:12]}"
    if module_name not in registered_classes:
        module = _import_file(path, module_name)
        try:
            found = _plugins_in(path, module)
        except PluginError:
            del sys.modules[module_name]
            raise
        # A file that was edited replaces its earlier version; otherwise the two would claim the same names.
        for earlier in [name for name in registered_classes if _file_of(name) == path.resolve()]:
            del registered_classes[earlier]
        registered_classes[module_name] = found
    return [info for info, _ in registered_classes[module_name]]


def register_files(paths: Iterable[Path | str]) -> list[PluginInfo]:
    """Register several files. Every worker of a run does this before its first task."""
    return [info for path in paths for info in register_file(path)]


def registered_files() -> tuple[str, ...]:
    """Return the module names of the registered plugin files. They change when a file is added or edited."""
    return tuple(registered_classes)


def _file_of(module_name: str) -> Path | None:
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return None if file is None else Path(file)


def _import_file(path: Path, module_name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file. Give a plugin file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses, pydantic and pickle look up the module of a class by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise PluginError(f"{path}: the plugin file cannot be imported: {describe_error(error)}") from error
    return module


def _plugins_in(path: Path, module: ModuleType) -> tuple[tuple[PluginInfo, type], ...]:
    classes = getattr(module, "PLUGINS", None)
    if classes is None:
        classes = [
            value
            for name, value in vars(module).items()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and not name.startswith("_")
            and kind_of(value) is not None
        ]
    if not classes:
        raise PluginError(f"{path}: no plugin found. Write a class with the methods of a plugin ({required_methods()})")
    return tuple(_checked_class(path, module, cls) for cls in classes)


def _checked_class(path: Path, module: ModuleType, cls: object) -> tuple[PluginInfo, type]:
    kind = kind_of(cls) if isinstance(cls, type) else None
    if kind is None or not isinstance(cls, type):
        raise PluginError(
            f"{path}: {cls!r} in PLUGINS is not a class with the methods of a plugin ({required_methods()})"
        )
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name or ":" in name:
        raise PluginError(f'{path}: class {cls.__name__} needs a name without a colon. Add name = "my-{kind}"')
    return PluginInfo(kind, name, str(path), "", f"{module.__name__}:{cls.__qualname__}"), cls
