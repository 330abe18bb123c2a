"""Diversity of a sample "among the trained genera": a genus that the reference set lacks is not counted, however common it is."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.special import gammaln

from slidepipe.counting.counts import SampleCount, rounded, sample_columns

#: The sum that samples are rarefied to, if none is set, is the smallest in the well that is not below this.
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
    """Shannon's entropy in nats, -sum(p ln p) (Shannon 1948); not a number where nothing was counted."""
    present = [count for count in counts if count > 0]
    total = sum(present)
    if total == 0:
        return math.nan
    # Never below 0, not even by rounding: one genus alone has none.
    return max(0.0, -math.fsum(count / total * math.log(count / total) for count in present))


def simpson(counts: Iterable[int]) -> float:
    """Simpson's index as 1 - sum(p^2) (Simpson 1949): the chance that two fossils are of different genera."""
    present = [count for count in counts if count > 0]
    total = sum(present)
    return 1 - math.fsum((count / total) ** 2 for count in present) if total else math.nan


def rarefied_richness(counts: Iterable[int], specimens: int) -> float:
    """Genera to be expected among ``specimens`` fossils of the sample (Sanders 1968, corrected by Hurlbert 1971).

    E[S_n] = sum(1 - C(N - N_i, n) / C(N, n)), exact with log-gamma; not a number where the sample has fewer fossils.
    """
    present = np.array([count for count in counts if count > 0], np.float64)
    total = present.sum()
    if specimens < 1 or specimens > total:
        return math.nan
    rest = total - present
    drawn = rest >= specimens  # a genus that the other fossils cannot fill the draw without is surely in it
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
    """``diversity.csv``: one row a sample. Cells are empty where nothing was analysed, or where the sum does not give them.

    Args:
        samples: all samples, in the order of the rows.
        genera: the trained genera.
        rarefy_to: fossils that samples are rarefied to; None takes the smallest sum in the well of at least 20.
        spike_genus: left out, as it was added by hand.
    """
    native = [genus for genus in genera if genus != spike_genus]
    analysed = [count for count in samples if count.status != "failed"]
    sums = [count.fossils(spike_genus) for count in analysed]
    target = rarefy_to or min((fossils for fossils in sums if fossils >= _LEAST_RAREFIED), default=0)
    rows = []
    for count in samples:
        numbers = [count.genera[genus] for genus in native]
        read = count.status != "failed"
        rows.append(
            {
                **sample_columns(count.sample),
                "status": count.status,
                "fossils": sum(numbers) if read else "",
                "genera": sum(number > 0 for number in numbers) if read else "",
                "shannon": rounded(shannon(numbers), 4),
                "simpson": rounded(simpson(numbers), 4),
                "rarefied_genera": rounded(rarefied_richness(numbers, target), 3),
                "rarefied_to": target or "",
                "among": f"the {len(native)} trained genera",
            }
        )
    return pd.DataFrame(rows, columns=list(DIVERSITY_COLUMNS))
