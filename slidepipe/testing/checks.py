"""Checks and their results, and the functions that a check uses to fail."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CheckFunctions = dict[str, Callable[[], None]]
"""Names of checks to functions that return nothing, or raise an error if the check fails."""


class CheckFailure(AssertionError):  # noqa: N818  # a failed check is a result, not an error of the person who runs it
    """A check has failed. The message states in one line what is wrong."""


@dataclass(frozen=True)
class Check:
    """One named check. Calling it returns nothing, or raises an error if the check fails.

    Attributes:
        name: for example `batch invariance`.
        run: raises `CheckFailure`, or whatever the plugin raises.
        expected_failure: why the plugin is known to fail this check, or None.
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
    """The result of a check.

    Attributes:
        name: name of the check.
        status: the result.
        reason: what is wrong, or why the failure was expected; empty if the check passed.
    """

    name: str
    status: Literal["passed", "failed", "failed as expected", "passed unexpectedly"]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the result is the expected one."""
        return self.status in ("passed", "failed as expected")


def require(condition: bool, message: str) -> None:
    """Raise `CheckFailure` with the message if the condition is false."""
    if not condition:
        raise CheckFailure(message)


def require_attributes(plugin: Any, expected: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise `CheckFailure` unless the plugin has these attributes, with these types, and no empty text among them."""
    for name, kind in expected.items():
        require(hasattr(plugin, name), f"attribute {name} is missing")
        value = getattr(plugin, name)
        require(isinstance(value, kind) and not isinstance(value, bool), f"attribute {name} is {value!r}")
        require(value != "", f"attribute {name} is empty")


def require_members(plugin: Any, expected: Mapping[str, tuple[Callable[[Any], bool], str]]) -> None:
    """Raise `CheckFailure` unless the optional members of a plugin have valid values.

    Args:
        plugin: a plugin that is built.
        expected: names of members to a function that returns whether a value is valid, and the valid values in words.
    """
    for name, (is_valid, words) in expected.items():
        value = getattr(plugin, name)
        require(is_valid(value), f"{name} is {value!r}. It must be {words}")
