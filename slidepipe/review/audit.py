"""Estimate from a stratified random audit how many objects of a genus there are, given the labels of a few of them.

The estimator is the stratified expansion estimator (Cochran 1977, Sampling Techniques, chapter 5): of a stratum of N objects, n
are labelled and x of these are the genus, so the stratum holds N x / n of it. The estimate is unbiased under the draw, whatever
the classifier does. The strata are the classifier's own answers, so the estimate is also the difference estimator of Särndal,
Swensson and Wretman (1992), today called prediction-powered inference (Angelopoulos et al. 2023, Science 382).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slidepipe.counting.intervals import Estimate, jeffreys_interval, mover_share, mover_sum

#: The kinds of strata of unknown objects: those that look most like a genus, and the others.
NEAR, FAR = "unknown, near", "unknown, far"


@dataclass
class Stratum:
    """A stratum: objects with the same answer, from which a random sample was drawn.

    Attributes:
        kind: the genus that all of them were accepted as, or `NEAR` or `FAR`.
        sample_id: the sample that all of them belong to; empty where the stratum spans samples.
        size: the number of objects.
        labels: the labels of those that were labelled; "" is not a fossil.
    """

    kind: str
    sample_id: str
    size: int
    labels: list[str] = field(default_factory=list)

    @property
    def is_unknown(self) -> bool:
        """Whether its objects are unknown."""
        return self.kind in (NEAR, FAR)


@dataclass(frozen=True)
class GenusAudit:
    """The result of an audit for one genus.

    Attributes:
        labelled: number of labelled objects that were accepted as the genus.
        right: number of these whose label is the genus.
        precision: share of the objects accepted as the genus that belong to it, 0 to 1; NaN where none was accepted.
        recall: share of the genus's objects that were accepted as it, 0 to 1; NaN where the genus was not found.
        total: the corrected count.
    """

    labelled: int
    right: int
    precision: Estimate
    recall: Estimate
    total: Estimate


def audit_genus(strata: Sequence[Stratum], genus: str) -> GenusAudit:
    """Estimate precision, recall and the corrected count of a genus.

    Args:
        strata: all strata of the draw; each has at least one label.
        genus: the genus.
    """
    own = [stratum for stratum in strata if stratum.kind == genus]
    groups = (
        [stratum for stratum in strata if not stratum.is_unknown and stratum.kind != genus],
        [stratum for stratum in strata if stratum.kind == NEAR],
        [stratum for stratum in strata if stratum.kind == FAR],
    )
    hits = pooled_total(own, genus)
    missed = [pooled_total(group, genus) for group in groups]
    size = sum(stratum.size for stratum in own)
    total = mover_sum([hits, *missed])
    # At least the labelled objects of the genus exist, and at most all objects without another label: the interval is cut there.
    seen = sum(stratum.labels.count(genus) for stratum in strata)
    other = sum(len(stratum.labels) for stratum in strata) - seen
    whole = sum(stratum.size for stratum in strata)
    precision = Estimate(*((part / size if size else math.nan) for part in (hits.value, hits.low, hits.high)))
    return GenusAudit(
        labelled=sum(len(stratum.labels) for stratum in own),
        right=sum(stratum.labels.count(genus) for stratum in own),
        precision=precision,
        recall=mover_share(hits, _bounded(mover_sum(missed), 0, whole)),
        total=_bounded(total, seen, whole - other),
    )


def pooled_total(strata: Iterable[Stratum], genus: str) -> Estimate:
    """Estimate how many objects of a genus several strata hold together, with the Jeffreys interval of the pooled share.

    The interval uses the effective number of labels (Kish 1965): the number of labels with which a simple random draw would have
    the same variance, with the finite population correction of each stratum.

    Args:
        strata: strata with at least one label each; empty strata are ignored.
        genus: the genus.
    """
    parts = [stratum for stratum in strata if stratum.size > 0]
    size = sum(stratum.size for stratum in parts)
    value = math.fsum(stratum.size * stratum.labels.count(genus) / len(stratum.labels) for stratum in parts)
    seen = sum(stratum.labels.count(genus) for stratum in parts)
    other = sum(len(stratum.labels) for stratum in parts) - seen
    spread = math.fsum(stratum.size * (stratum.size - len(stratum.labels)) / len(stratum.labels) for stratum in parts)
    if spread <= 0:  # every object has a label
        return Estimate(value, value, value)
    effective = size * size / spread
    low, high = jeffreys_interval(min(1.0, value / size) * effective, effective)
    return _bounded(Estimate(value, size * low, size * high), seen, size - other)


def _bounded(estimate: Estimate, least: float, most: float) -> Estimate:
    """Cut the interval of an estimate to `least` and `most`, without excluding the estimate itself."""
    low, high = max(estimate.low, least), min(estimate.high, most)
    return Estimate(estimate.value, min(low, estimate.value), max(high, estimate.value))
