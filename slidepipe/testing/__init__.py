"""Conformance checks for plugin authors: does a backbone, head or detector keep its contract?

In a test of one's own::

    @pytest.mark.parametrize("check", pytest_params(check_backbone(MyBackbone)))
    def test_my_backbone(check):
        check()

``slidepipe plugins check NAME`` runs the same (:func:`run_checks`). The checks need no data and no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slidepipe import plugins
from slidepipe.errors import PluginError, SlidepipeError
from slidepipe.plugins import Kind
from slidepipe.testing import conformance, conformance_detector
from slidepipe.testing.conformance import CheckFailure, require

if TYPE_CHECKING:
    from slidepipe.interfaces import Backbone, Detector, Head

__all__ = [
    "Check",
    "CheckFailure",
    "CheckResult",
    "check_backbone",
    "check_detector",
    "check_head",
    "pytest_params",
    "run_checks",
]

HEAVY = ("torch", "timm", "tensorflow", "jax", "onnxruntime")
"""What importing a plugin must not import: listing and building a plan would take seconds."""


@dataclass(frozen=True)
class Check:
    """One named check: calling it returns nothing, or raises.

    Attributes:
        name: "batch invariance" and the like.
        run: raises :class:`CheckFailure`, or whatever the plugin raises.
        expected_failure: why the plugin is known to fail it, or None.
    """

    name: str
    run: Callable[[], None] = field(repr=False)
    expected_failure: str | None = None

    def __call__(self) -> None:
        """Run the check."""
        self.run()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class CheckResult:
    """How a check went.

    Attributes:
        name: of the check.
        status: what came out.
        reason: what is wrong, or why it was expected; empty where it passed.
    """

    name: str
    status: Literal["passed", "failed", "failed as expected", "passed unexpectedly"]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return self.status in ("passed", "failed as expected")


def check_backbone(
    plugin: type[Any] | Callable[[], Backbone],
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Yield the checks of a backbone.

    Args:
        plugin: the class, or a function that makes a new one that is not loaded.
        settings: for the class's ``Settings``.
        weights: a weight file, for the class's setting of that name.
        device: where to run; "cpu" must work for every backbone.
        expected_failures: name of a check to the reason why it is known to fail.

    Raises:
        ValueError: ``expected_failures`` names a check that there is not.
    """
    make = _maker("backbone", plugin, settings, weights)
    checks = conformance.backbone_checks(make, device)
    return _named({**_common(plugin, make), **checks}, expected_failures)


def check_head(
    plugin: type[Any] | Callable[[], Head],
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Yield the checks of a head, on four made-up genera; arguments as for :func:`check_backbone`."""
    make = _maker("head", plugin, settings, None)
    return _named({**_common(plugin, make), **conformance.head_checks(make)}, expected_failures)


def check_detector(
    plugin: type[Any] | Callable[[], Detector],
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Yield the checks of a detector, on a made-up field of round objects; arguments as for :func:`check_backbone`."""
    make = _maker("detector", plugin, settings, None)
    return _named({**_common(plugin, make), **conformance_detector.detector_checks(make)}, expected_failures)


def pytest_params(checks: Iterable[Check]) -> list[Any]:
    """Checks as pytest parameters: each its own test; an expected failure is a strict xfail with its reason."""
    import pytest

    return [
        pytest.param(
            check,
            id=check.name.replace(" ", "-"),
            marks=[pytest.mark.xfail(reason=check.expected_failure, strict=True)] if check.expected_failure else [],
        )
        for check in checks
    ]


def run_checks(
    kind: Kind,
    name: str,
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> Iterator[CheckResult]:
    """Run the checks of the plugin called ``name``, yielding each result as it comes.

    Raises:
        PluginError: there is no such plugin, or it is a reader, for which there are no checks.
        SettingsError: it cannot be built with these settings.
    """
    if kind == "reader":
        raise PluginError(
            f"reader {name!r}: there are no checks for readers. Open one of its slides with 'slidepipe info'"
        )
    plugins.create(kind, name, settings, weights)  # what is wrong already here is an error of its own, not a check's

    def make() -> Any:
        return plugins.create(kind, name, settings, weights)

    check: Callable[..., Iterator[Check]]
    if kind == "backbone":
        yield from map(_result, check_backbone(make, device=device))
    else:
        check = check_head if kind == "head" else check_detector
        yield from map(_result, check(make))


def _result(check: Check) -> CheckResult:
    try:
        check()
    except (CheckFailure, SlidepipeError) as error:
        reason = str(error)
    except Exception as error:
        reason = f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
    else:
        if check.expected_failure is None:
            return CheckResult(check.name, "passed")
        return CheckResult(check.name, "passed unexpectedly", check.expected_failure)
    if check.expected_failure is not None:
        return CheckResult(check.name, "failed as expected", check.expected_failure)
    return CheckResult(check.name, "failed", reason)


def _maker(
    kind: Kind, plugin: type[Any] | Callable[[], Any], settings: Mapping[str, Any] | None, weights: Path | None
) -> Callable[[], Any]:
    if not isinstance(plugin, type):
        if settings is not None or weights is not None:
            raise ValueError("settings and weights are for a class: a function makes a plugin that has its own")
        return plugin
    name = str(getattr(plugin, "name", plugin.__name__))
    return lambda: plugins.build(kind, name, plugin, settings, weights)


def _named(checks: Mapping[str, Callable[[], None]], expected: Mapping[str, str] | None) -> Iterator[Check]:
    expected = expected or {}
    unknown = sorted(set(expected) - set(checks))
    if unknown:
        raise ValueError(f"expected_failures: no check {', '.join(unknown)}; there are: {', '.join(checks)}")
    return (replace(Check(name, run), expected_failure=expected.get(name)) for name, run in checks.items())


def _common(plugin: type[Any] | Callable[[], Any], make: Callable[[], Any]) -> dict[str, Callable[[], None]]:
    def imports() -> None:
        imports_nothing_heavy(plugin if isinstance(plugin, type) else type(make()))

    return {
        "discovery imports no torch": imports,
        "settings round trip": lambda: _settings_round_trip(make()),
    }


def imports_nothing_heavy(cls: type[Any]) -> None:
    """Import the class's module in a fresh process, read its class attributes, and see what came along.

    Raises:
        CheckFailure: one of :data:`HEAVY` came, or the module cannot be imported on its own.
    """
    module = sys.modules[cls.__module__]
    by_file = cls.__module__ == "__main__" or cls.__module__.startswith("slidepipe_plugin_")
    task = {
        "path": sys.path,
        "module": cls.__module__,
        "file": getattr(module, "__file__", None) if by_file else None,
        "qualname": cls.__qualname__,
        "heavy": HEAVY,
    }
    ran = subprocess.run(  # noqa: S603 (our own interpreter and code)
        [sys.executable, "-c", _LOOK, json.dumps(task)], capture_output=True, text=True, check=False
    )
    require(ran.returncode == 0, f"{cls.__module__} cannot be imported in a fresh process: {ran.stderr.strip()[-300:]}")
    heavy = json.loads(ran.stdout.splitlines()[-1])
    require(not heavy, f"importing {cls.__module__} imports {', '.join(heavy)}: move the import into load()")


_LOOK = """
import importlib, importlib.util, json, sys
task = json.loads(sys.argv[1])
sys.path[:] = task["path"]
if task["file"]:
    spec = importlib.util.spec_from_file_location("looked_at", task["file"])
    thing = importlib.util.module_from_spec(spec)
    sys.modules["looked_at"] = thing
    spec.loader.exec_module(thing)
else:
    thing = importlib.import_module(task["module"])
if "<locals>" not in task["qualname"]:
    for part in task["qualname"].split("."):
        thing = getattr(thing, part)
    for name in dir(thing):
        getattr(thing, name, None)
print(json.dumps([name for name in task["heavy"] if name in sys.modules]))
"""


def _settings_round_trip(plugin: Any) -> None:
    """Settings must survive the way through a manifest: to JSON and back, nothing lost."""
    model = getattr(type(plugin), "Settings", None)
    if model is None:
        return  # nothing to carry: that it was built without any is the check
    settings = getattr(plugin, "settings", None)
    if not isinstance(settings, model):
        settings = model()
    back = model.model_validate(json.loads(settings.model_dump_json()))
    require(back == settings, f"settings change on the way through JSON: {settings!r} became {back!r}")
