"""Estimates from a stratified random audit: how many objects of a genus there truly are, from labels of a random few.

The estimator is the stratified expansion estimator (Cochran 1977, Sampling Techniques, chapter 5): a stratum of N objects, n of
them labelled, x of these the genus, holds N x / n of it. It is unbiased under the draw, whatever the classifier does. The strata
are the classifier's own answers, so the estimate is also the difference estimator of Särndal, Swensson and Wretman (1992), today
called prediction-powered inference (Angelopoulos et al. 2023, Science 382): count + corrections weighted by 1 / probability.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slidepipe.counting.intervals import Estimate, jeffreys_interval, mover_share, mover_sum

#: The classes of strata of objects that no genus was accepted for: those nearest to a genus, and the others.
NEAR, FAR = "unknown, near", "unknown, far"


@dataclass
class Stratum:
    """Objects that were drawn from together.

    Attributes:
        kind: the genus that all of them were accepted as, or :data:`NEAR` or :data:`FAR`.
        sample_id: the sample that all of them are of; empty where the stratum spans samples.
        size: how many objects there are.
        labels: what the reviewer said of those labelled; "" is not a fossil.
    """

    kind: str
    sample_id: str
    size: int
    labels: list[str] = field(default_factory=list)

    @property
    def is_unknown(self) -> bool:
        """Whether no genus was accepted for its objects."""
        return self.kind in (NEAR, FAR)


@dataclass(frozen=True)
class GenusAudit:
    """What an audit says of one genus.

    Attributes:
        labelled: objects accepted as the genus that have a label, and how many of these are ``right``.
        precision: share of the objects accepted as the genus that are of it (not a number where none was accepted).
        recall: share of the genus's objects that were accepted as it (not a number where none was found).
        total: the corrected count.
    """

    labelled: int
    right: int
    precision: Estimate
    recall: Estimate
    total: Estimate


def audit_genus(strata: Sequence[Stratum], genus: str) -> GenusAudit:
    """Precision, recall and corrected count of ``genus`` over ``strata``, each of which has at least one label."""
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
    # What was seen is certain, and what can be at all is known: no interval reaches beyond either.
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
    """How many of ``genus`` the strata hold together, with the Jeffreys interval of the pooled share.

    The interval takes the effective number of labels under the draw (Kish 1965): that of a plain random draw whose estimate
    would vary as much, the labels' share of each stratum (finite population correction) allowed for.
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
    low, high = max(estimate.low, least), min(estimate.high, most)
    return Estimate(estimate.value, min(low, estimate.value), max(high, estimate.value))
