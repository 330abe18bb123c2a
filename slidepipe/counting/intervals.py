"""Intervals of proportions and of sums of them, as the count tables use them. All are 95 %, two-sided unless said otherwise."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy.special import betaincinv

#: Two-sided 95 % of the normal distribution.
Z95 = 1.959963984540054

#: Where nothing was counted, at most this many were to be expected (one-sided 95 %, Poisson: exp(-3.0) = 0.05).
ZERO_COUNT_UPPER = 3.0

#: An effective number below this is none, up to rounding.
_NONE = 1e-9


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); not a number where there are no trials."""
    if trials == 0:
        return math.nan, math.nan
    share = successes / trials
    spread = Z95 * math.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    centre = share + Z95**2 / (2 * trials)
    scale = 1 + Z95**2 / trials
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == trials else min(1.0, (centre + spread) / scale)
    return low, high


def jeffreys_interval(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % Jeffreys interval of a proportion, its open ends closed (Brown, Cai and DasGupta 2001).

    Clopper and Pearson's interval with its surplus taken off: over many cases it covers near 95 %, also for rare things, where
    Wilson's covers less. ``successes`` and ``trials`` may be effective numbers, not whole ones.

    Args:
        successes: 0 to ``trials``.
        trials: above 0.
    """
    failures = trials - successes
    low = 0.0 if successes <= _NONE else float(betaincinv(successes + 0.5, failures + 0.5, 0.025))
    high = 1.0 if failures <= _NONE else float(betaincinv(successes + 0.5, failures + 0.5, 0.975))
    return low, high


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, ``low <= value <= high``."""

    value: float
    low: float
    high: float


def mover_sum(parts: Iterable[Estimate]) -> Estimate:
    """The sum of independent estimates, its interval recovered from theirs (MOVER; Zou and Donner 2008).

    Each limit lies as far from the sum as the root of the summed squares of the parts' distances, so that the skewed intervals
    of rare things stay skewed.
    """
    listed = list(parts)
    value = math.fsum(part.value for part in listed)
    below = math.sqrt(math.fsum((part.value - part.low) ** 2 for part in listed))
    above = math.sqrt(math.fsum((part.high - part.value) ** 2 for part in listed))
    return Estimate(value, value - below, value + above)


def mover_share(part: Estimate, rest: Estimate) -> Estimate:
    """``part / (part + rest)`` of two independent estimates that are not negative (MOVER-R; Donner and Zou 2012).

    The limits are the shares r at which the interval of (1 - r) part - r rest just reaches 0. Not a number where both are 0.
    """
    whole = part.value + rest.value
    if whole <= 0:
        return Estimate(math.nan, math.nan, math.nan)

    def lower(share: float) -> float:
        centre = (1 - share) * part.value - share * rest.value
        return centre - math.hypot((1 - share) * (part.value - part.low), share * (rest.high - rest.value))

    def upper(share: float) -> float:
        centre = (1 - share) * part.value - share * rest.value
        return centre + math.hypot((1 - share) * (part.high - part.value), share * (rest.value - rest.low))

    value = part.value / whole
    low = 0.0 if lower(0.0) <= 0 else min(value, _root(lower))
    high = 1.0 if upper(1.0) >= 0 else max(value, _root(upper))
    return Estimate(value, low, high)


def _root(function: Callable[[float], float]) -> float:
    if function(0.0) * function(1.0) >= 0:  # an end is the root, up to rounding
        return 0.0 if abs(function(0.0)) < abs(function(1.0)) else 1.0
    from scipy.optimize import brentq  # slow to import, and needed only where counts are corrected

    return float(brentq(function, 0.0, 1.0, xtol=1e-12))
