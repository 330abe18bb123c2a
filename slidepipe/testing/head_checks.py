"""The checks of heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.interfaces import Decisions, Head
from slidepipe.testing.checks import CheckFunctions, require, require_attributes

if TYPE_CHECKING:
    from slidepipe.interfaces import Float32Array, StrArray

ALPHA = 0.1
GENERA = ("Azolla", "Deflandrea", "Spiniferites", "Wetzeliella")


class HeadChecks:
    """The checks of a head, on four well separated genera with 40 references each, and on outliers far from all of them.

    Args:
        make: returns a new head that is not fitted.
    """

    def __init__(self, make: Callable[[], Head]) -> None:
        self._make = make
        self._references, self._genera = _draw_clusters(40, seed=1)
        self._queries, self._truth = _draw_clusters(10, seed=2)
        self._outliers = np.random.default_rng(3).normal(0, 300, (20, self._references.shape[1])).astype(np.float32)
        noise = np.random.default_rng(4).normal(0, 0.1, self._references.shape)
        self._crop_like = self._references + noise.astype(np.float32)

    def by_name(self) -> CheckFunctions:
        """Return the checks by name."""
        return {
            "attributes": self.attributes,
            "fields": self.fields,
            "known genera": self.known_genera,
            "p-values": self.p_values,
            "neighbours": self.neighbours,
            "accepts": self.accepts,
            "abstains": self.abstains,
            "alpha": self.alpha,
            "order": self.order,
            "determinism": self.determinism,
        }

    def _fit(self, head: Head, alpha: float = ALPHA) -> Head:
        """Fit a head as a run does."""
        genera = self._genera.copy()
        rows = ReferenceSet(self._references.copy(), self._crop_like.copy(), genera, genera.copy(), "drawn", None)
        return fit_head(head, rows, alpha)

    @cached_property
    def fitted(self) -> Head:
        """The head, fitted."""
        head = self._make()
        result = self._fit(head)
        require(result is head, f"fit returned {type(result).__name__}. It must return self")
        return head

    @cached_property
    def decisions(self) -> Decisions:
        """The decisions about objects like the references."""
        return self.fitted.predict(self._queries)

    def attributes(self) -> None:
        """Check the attributes and that `fit` returns the head."""
        require_attributes(self._make(), {"name": str})
        _ = self.fitted

    def fields(self) -> None:
        """Check the shapes and dtypes of decisions."""
        for count in (len(self._queries), 1, 0):
            _require_valid_fields(self.fitted.predict(self._queries[:count]), count)

    def known_genera(self) -> None:
        """Check that every genus is one of the reference set."""
        unknown = sorted(set(map(str, self.decisions.genus)) - set(GENERA))
        require(not unknown, f"genus {', '.join(unknown)} is not in the reference set")

    def p_values(self) -> None:
        """Check the range of p-values."""
        values = np.concatenate([self.decisions.p_value, self.fitted.predict(self._outliers).p_value])
        require(bool(((values >= 0) & (values <= 1)).all()), "a p_value is not between 0 and 1")

    def neighbours(self) -> None:
        """Check that neighbours are rows of the reference set, nearest first."""
        rows, distances = self.decisions.neighbours, self.decisions.neighbour_distances
        require(
            bool(((rows >= 0) & (rows < len(self._references))).all()), "a neighbour is no row of the reference set"
        )
        require(bool((np.diff(distances, axis=1) >= 0).all()), "the neighbours are not nearest first")

    def accepts(self) -> None:
        """Check that objects like the references are accepted, with the right genus."""
        accepted = self.decisions.accepted
        fraction = float(accepted.mean())
        require(fraction >= 0.5, f"only {fraction:.0%} of objects like the references are accepted at alpha {ALPHA}")
        right = float((self.decisions.genus[accepted] == self._truth[accepted]).mean())
        require(right >= 0.9, f"only {right:.0%} of well separated objects get the right genus")

    def abstains(self) -> None:
        """Check that objects far from every reference are not accepted."""
        fraction = float(self.fitted.predict(self._outliers).accepted.mean())
        require(
            fraction <= 0.2, f"{fraction:.0%} of objects far from every reference are accepted. The head must abstain"
        )

    def alpha(self) -> None:
        """Check that a larger alpha accepts no additional object."""
        strict = self._fit(self._make(), 0.3).predict(self._queries).accepted
        require(
            bool((self.decisions.accepted | ~strict).all()),
            "a larger alpha accepts an object that a smaller alpha does not",
        )

    def order(self) -> None:
        """Check that a decision does not depend on the other objects of the call."""
        single = [self.fitted.predict(query[None]) for query in self._queries]
        for name in ("genus", "accepted"):
            alone = np.concatenate([getattr(decisions, name) for decisions in single])
            require(
                bool((alone == getattr(self.decisions, name)).all()), f"{name} depends on the other objects of the call"
            )

    def determinism(self) -> None:
        """Check that fitting again gives the same decisions."""
        again = self._fit(self._make()).predict(self._queries)
        for name in ("genus", "accepted", "p_value"):
            same = bool((getattr(again, name) == getattr(self.decisions, name)).all())
            require(same, f"{name} changes when the head is fitted again")


def _draw_clusters(count: int, seed: int) -> tuple[Float32Array, StrArray]:
    centres = np.random.default_rng(0).normal(0, 10, (len(GENERA), 16))
    rng = np.random.default_rng(seed)
    points = centres[:, None] + rng.normal(0, 1, (len(GENERA), count, 16))
    return points.reshape(-1, 16).astype(np.float32), np.repeat(np.array(GENERA), count)


def _require_valid_fields(decisions: Decisions, count: int) -> None:
    for name, kinds, ndim in (
        ("genus", "U", 1),
        ("accepted", "b", 1),
        ("p_value", "f", 1),
        ("distance", "f", 1),
        ("neighbours", "i", 2),
        ("neighbour_distances", "f", 2),
    ):
        value = getattr(decisions, name, None)
        require(isinstance(value, np.ndarray), f"{name} is {type(value).__name__}, not an array")
        array: npt.NDArray[Any] = np.asarray(value)
        require(array.ndim == ndim and len(array) == count, f"for {count} objects, {name} has shape {array.shape}")
        require(array.dtype.kind in kinds, f"{name} has dtype {array.dtype}")
        if array.dtype.kind == "f":
            require(bool(np.isfinite(array).all()), f"{name} is not finite")
