"""Confidence intervals of proportions and of their sums. All are 95 % intervals, two-sided unless stated otherwise."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy.special import betaincinv

#: The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
Z95 = 1.959963984540054

#: Upper limit of the expected count where nothing was counted (one-sided 95 %, Poisson: exp(-3.0) = 0.05).
ZERO_COUNT_UPPER = 3.0

#: A number below this counts as zero, to allow for rounding.
_NONE = 1e-9


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927).

    Args:
        successes: 0 to `trials`.
        trials: 0 or more.

    Returns:
        The lower and upper limit, 0 to 1; NaN where there are no trials.
    """
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
    """Return the 95 % Jeffreys interval of a proportion (Brown, Cai and DasGupta 2001).

    The lower limit is 0 where there are no successes, and the upper limit 1 where there are no failures. On average the interval
    covers close to 95 %, also for rare objects, where Wilson's covers less.

    Args:
        successes: 0 to `trials`; may be an effective number, not a whole one.
        trials: above 0; may be an effective number.

    Returns:
        The lower and upper limit, 0 to 1.
    """
    failures = trials - successes
    low = 0.0 if successes <= _NONE else float(betaincinv(successes + 0.5, failures + 0.5, 0.025))
    high = 1.0 if failures <= _NONE else float(betaincinv(successes + 0.5, failures + 0.5, 0.975))
    return low, high


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval: `low <= value <= high`."""

    value: float
    low: float
    high: float


def mover_sum(parts: Iterable[Estimate]) -> Estimate:
    """Return the sum of independent estimates with its interval (MOVER; Zou and Donner 2008).

    The distance of each limit from the sum is the root of the summed squares of the parts' distances. The interval of a sum of
    rare objects therefore stays asymmetric, as those of its parts are.

    Args:
        parts: independent estimates.
    """
    listed = list(parts)
    value = math.fsum(part.value for part in listed)
    below = math.sqrt(math.fsum((part.value - part.low) ** 2 for part in listed))
    above = math.sqrt(math.fsum((part.high - part.value) ** 2 for part in listed))
    return Estimate(value, value - below, value + above)


def mover_share(part: Estimate, rest: Estimate) -> Estimate:
    """Return `part / (part + rest)` with its interval (MOVER-R; Donner and Zou 2012).

    The limits are the shares r at which the interval of (1 - r) part - r rest just reaches 0.

    Args:
        part: an estimate, not negative.
        rest: an independent estimate, not negative.

    Returns:
        The share, 0 to 1; NaN where both estimates are 0.
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
    """Return where a function that changes its sign between 0 and 1 is zero."""
    if function(0.0) * function(1.0) >= 0:  # one of the ends is the root, apart from rounding
        return 0.0 if abs(function(0.0)) < abs(function(1.0)) else 1.0
    from scipy.optimize import brentq  # imported here because it is slow to import and needed only for corrected counts

    return float(brentq(function, 0.0, 1.0, xtol=1e-12))
