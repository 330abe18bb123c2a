"""Diversity of a sample among the trained genera.

A genus that the reference set lacks is not counted, however common it is.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.special import gammaln

from slidepipe.counting.counts import SampleCount, rounded, sample_columns

#: If no sum to rarefy to is set, the smallest sum of the well that is at least this is used.
_LEAST_RAREFIED = 20

DIVERSITY_COLUMNS = (
    "sample_id",
    "well",
    "depth_m",
    "sample_type",
    "status",
    "fossils",
    "genera",
    "shannon",
    "simpson",
    "rarefied_genera",
    "rarefied_to",
    "among",
)


def shannon(counts: Iterable[int]) -> float:
    """Return Shannon's entropy, -sum(p ln p) (Shannon 1948).

    Args:
        counts: specimens of each genus.

    Returns:
        The entropy in nats; NaN where nothing was counted.
    """
    present = [count for count in counts if count > 0]
    total = sum(present)
    if total == 0:
        return math.nan
    # One genus alone has an entropy of 0; rounding must not make it negative.
    return max(0.0, -math.fsum(count / total * math.log(count / total) for count in present))


def simpson(counts: Iterable[int]) -> float:
    """Return Simpson's index as 1 - sum(p^2) (Simpson 1949): the probability that two fossils belong to different genera.

    Args:
        counts: specimens of each genus.

    Returns:
        0 to 1; NaN where nothing was counted.
    """
    present = [count for count in counts if count > 0]
    total = sum(present)
    return 1 - math.fsum((count / total) ** 2 for count in present) if total else math.nan


def rarefied_richness(counts: Iterable[int], specimens: int) -> float:
    """Return the number of genera expected among some fossils of a sample (Sanders 1968, corrected by Hurlbert 1971).

    E[S_n] = sum(1 - C(N - N_i, n) / C(N, n)), computed exactly with log-gamma.

    Args:
        counts: N_i, specimens of each genus.
        specimens: n, the number of fossils to rarefy to.

    Returns:
        The expected number of genera; NaN where the sample has fewer fossils than `specimens`.
    """
    present = np.array([count for count in counts if count > 0], np.float64)
    total = present.sum()
    if specimens < 1 or specimens > total:
        return math.nan
    rest = total - present
    drawn = (
        rest >= specimens
    )  # if the other genera have fewer fossils than are drawn, the genus is certainly in the draw
    missed = np.exp(
        gammaln(rest[drawn] + 1)
        - gammaln(rest[drawn] - specimens + 1)
        - gammaln(total + 1)
        + gammaln(total - specimens + 1)
    )
    return float(len(present) - missed.sum())


def diversity_table(
    samples: Sequence[SampleCount], genera: Sequence[str], rarefy_to: int | None, spike_genus: str | None = None
) -> pd.DataFrame:
    """Return `diversity.csv`: one row per sample. Cells are empty where nothing was analysed, or where there are too few fossils.

    Args:
        samples: all samples, in the order of the rows.
        genera: the trained genera.
        rarefy_to: number of fossils that samples are rarefied to; None uses the smallest sum of at least 20 in the well.
        spike_genus: the genus that was added to the samples; it is left out.
    """
    native = [genus for genus in genera if genus != spike_genus]
    analysed = [count for count in samples if count.status != "failed"]
    sums = [count.fossils(spike_genus) for count in analysed]
    target = rarefy_to or min((fossils for fossils in sums if fossils >= _LEAST_RAREFIED), default=0)
    rows = []
    for count in samples:
        numbers = [count.genera[genus] for genus in native]
        is_analysed = count.status != "failed"
        rows.append(
            {
                **sample_columns(count.sample),
                "status": count.status,
                "fossils": sum(numbers) if is_analysed else "",
                "genera": sum(number > 0 for number in numbers) if is_analysed else "",
                "shannon": rounded(shannon(numbers), 4),
                "simpson": rounded(simpson(numbers), 4),
                "rarefied_genera": rounded(rarefied_richness(numbers, target), 3),
                "rarefied_to": target or "",
                "among": f"the {len(native)} trained genera",
            }
        )
    return pd.DataFrame(rows, columns=list(DIVERSITY_COLUMNS))
