"""Return and run the conformance checks of a plugin.

The checks are imported inside the functions: the command line imports this module, and they import numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidepipe import plugins
from slidepipe.errors import PluginError, SlidepipeError
from slidepipe.plugins import Kind
from slidepipe.plugins.old_form import adapt_class, adapt_plugin
from slidepipe.testing.checks import Check, CheckFailure, CheckFunctions, CheckResult
from slidepipe.testing.common_checks import common_checks

if TYPE_CHECKING:
    from slidepipe.interfaces import Backbone, Detector, Head


def check_backbone(
    plugin: type[Any] | Callable[[], Backbone],
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Return the checks of a backbone.

    Args:
        plugin: the class, or a function that returns a new backbone that is not loaded.
        settings: values for the `Settings` of the class.
        weights: a weights file, for the setting `weights` of the class.
        device: where to run the backbone. Every backbone must run on `cpu`.
        expected_failures: names of checks to the reason why the backbone is known to fail them.

    Raises:
        ValueError: `expected_failures` contains an unknown name, or `settings` or `weights` are given with a function.
    """
    from slidepipe.testing.backbone_checks import BackboneChecks

    make = _maker("backbone", plugin, settings, weights)
    checks = BackboneChecks(make, device).by_name()
    return _checks({**common_checks(plugin, make), **checks}, expected_failures)


def check_head(
    plugin: type[Any] | Callable[[], Head],
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Return the checks of a head, which use four drawn genera. Arguments and errors are those of `check_backbone`."""
    from slidepipe.testing.head_checks import HeadChecks

    make = _maker("head", plugin, settings, None)
    return _checks({**common_checks(plugin, make), **HeadChecks(make).by_name()}, expected_failures)


def check_detector(
    plugin: type[Any] | Callable[[], Detector],
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Return the checks of a detector, which use a drawn field of discs. Arguments and errors as for `check_backbone`."""
    from slidepipe.testing.detector_checks import DetectorChecks

    make = _maker("detector", plugin, settings, None)
    return _checks({**common_checks(plugin, make), **DetectorChecks(make).by_name()}, expected_failures)


def pytest_params(checks: Iterable[Check]) -> list[Any]:
    """Return the checks as pytest parameters, so that each is a test. An expected failure is a strict xfail."""
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
    """Run the checks of the plugin called `name`. Yield each result as soon as it is known.

    Args:
        kind: `backbone`, `head` or `detector`.
        name: as for `slidepipe.plugins.create`.
        settings: as for `slidepipe.plugins.create`.
        weights: as for `slidepipe.plugins.create`.
        device: where to run a backbone.

    Raises:
        PluginError: there is no such plugin, or there are no checks for its kind.
        SettingsError: the plugin cannot be built with these settings.
    """
    # Build the plugin once before the checks: a wrong name or setting is an error, not the failure of a check.
    plugins.create(kind, name, settings, weights)

    def make() -> Any:
        return plugins.create(kind, name, settings, weights)

    if kind == "backbone":
        yield from map(_run, check_backbone(make, device=device))
    elif kind == "head":
        yield from map(_run, check_head(make))
    elif kind == "detector":
        yield from map(_run, check_detector(make))
    else:
        raise PluginError(f"{kind} {name!r}: there are no checks for a {kind}. Test it with files of its format")


def _run(check: Check) -> CheckResult:
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
    """Return a function that builds the plugin."""
    if isinstance(plugin, type):
        name = str(getattr(plugin, "name", plugin.__name__))
        return lambda: plugins.build(kind, name, plugin, settings, weights)
    if settings is not None or weights is not None:
        raise ValueError("settings and weights are for a class. Let the function build the plugin with them")

    def make() -> Any:
        made = plugin()
        adapt_class(kind, type(made), type(made).__module__)
        adapt_plugin(kind, made, type(made).__module__)
        return made

    return make


def _checks(functions: CheckFunctions, expected: Mapping[str, str] | None) -> Iterator[Check]:
    expected = expected or {}
    unknown = sorted(set(expected) - set(functions))
    if unknown:
        raise ValueError(f"expected_failures: unknown check {', '.join(unknown)}. Known checks: {', '.join(functions)}")
    return (replace(Check(name, run), expected_failure=expected.get(name)) for name, run in functions.items())
