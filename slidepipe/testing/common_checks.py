"""The checks that all kinds of plugins share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from slidepipe.testing.checks import CheckFunctions, require, require_members

HEAVY_PACKAGES = ("torch", "timm", "tensorflow", "jax", "onnxruntime")
"""Packages that the module of a plugin must not import: importing them takes seconds, and listing and planning would wait."""


def common_checks(plugin: type[Any] | Callable[[], Any], make: Callable[[], Any]) -> CheckFunctions:
    """Return the checks of any plugin.

    Args:
        plugin: the class, or a function that makes a plugin.
        make: returns a new plugin that is not loaded.
    """

    def no_heavy_import() -> None:
        require_light_import(plugin if isinstance(plugin, type) else type(make()))

    return {
        "discovery imports no torch": no_heavy_import,
        "settings round trip": lambda: _settings_round_trip(make()),
        "optional members": lambda: _optional_members(make()),
    }


def require_light_import(cls: type[Any]) -> None:
    """Import the module of a class in a new process, read the class attributes, and look for heavy packages.

    Raises:
        CheckFailure: one of `HEAVY_PACKAGES` was imported, or the module cannot be imported on its own.
    """
    module = sys.modules[cls.__module__]
    by_file = cls.__module__ == "__main__" or cls.__module__.startswith("slidepipe_plugin_")
    task = {
        "path": sys.path,
        "module": cls.__module__,
        "file": getattr(module, "__file__", None) if by_file else None,
        "qualname": cls.__qualname__,
        "heavy": HEAVY_PACKAGES,
    }
    ran = subprocess.run(  # noqa: S603  # runs this interpreter with the code below
        [sys.executable, "-c", _IMPORT_AND_READ, json.dumps(task)], capture_output=True, text=True, check=False
    )
    require(ran.returncode == 0, f"{cls.__module__} cannot be imported in a new process: {ran.stderr.strip()[-300:]}")
    heavy = json.loads(ran.stdout.splitlines()[-1])
    require(
        not heavy,
        f"importing {cls.__module__} imports {', '.join(heavy)}. Move the import into the method that uses it",
    )


_IMPORT_AND_READ = """
import importlib, importlib.util, json, sys
task = json.loads(sys.argv[1])
sys.path[:] = task["path"]
if task["file"]:
    spec = importlib.util.spec_from_file_location("plugin_module", task["file"])
    value = importlib.util.module_from_spec(spec)
    sys.modules["plugin_module"] = value
    spec.loader.exec_module(value)
else:
    value = importlib.import_module(task["module"])
if "<locals>" not in task["qualname"]:
    for part in task["qualname"].split("."):
        value = getattr(value, part)
    for name in dir(value):
        getattr(value, name, None)
print(json.dumps([name for name in task["heavy"] if name in sys.modules]))
"""


def _settings_round_trip(plugin: Any) -> None:
    """Check that settings do not change when they are written to JSON, as in a manifest, and read again."""
    model = type(plugin).Settings
    if model is None:
        return  # without settings, there is nothing to check
    settings = getattr(plugin, "settings", None)
    if not isinstance(settings, model):
        settings = model()
    back = model.model_validate(json.loads(settings.model_dump_json()))
    require(back == settings, f"settings change when written to JSON and read again: {settings!r} became {back!r}")


def _optional_members(plugin: Any) -> None:
    """Check the optional members of `slidepipe.interfaces.Plugin`."""
    require_members(
        type(plugin),
        {
            "version": (lambda value: value is None or (isinstance(value, str) and value != ""), "None or a text"),
            "takes_argument": (lambda value: isinstance(value, bool), "True or False"),
            "argument_name": (lambda value: isinstance(value, str) and value != "", "a text that is not empty"),
        },
    )
