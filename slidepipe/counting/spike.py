"""Fossils per gram, computed from a spike.

A spike is tablets with a known number of exotic spores (Lycopodium), which are added to a weighed sample and counted with its
fossils.
"""

import math
from collections.abc import Sequence

import pandas as pd

from slidepipe.counting.counts import SampleCount, rounded
from slidepipe.counting.intervals import Z95, Estimate, wilson_interval
from slidepipe.errors import SettingsError
from slidepipe.samples.sample import Spike, WellSlide
from slidepipe.samples.samples_csv import SAMPLES_FILE

#: The row of `spike.csv` for all fossils of a sample together.
ALL_FOSSILS = "(all fossils)"

SPIKE_COLUMNS = (
    "sample_id",
    "genus",
    "count",
    "spike_genus",
    "spike_count",
    "tablets",
    "spores_per_tablet",
    "spores_sd",
    "grams",
    "per_gram",
    "low",
    "high",
    "relative_error",
    "note",
)


def check_spike(slides: Sequence[WellSlide], genera: Sequence[str], spike_genus: str | None) -> None:
    """Check before any work starts that the spike can be used.

    Args:
        slides: all slides, with the spikes of `samples.csv`.
        genera: the genera of the reference set.
        spike_genus: the setting `counting.spike_genus`.

    Raises:
        SettingsError: the spike genus is none of `genera`, or samples have tablets and no spike genus is set.
    """
    if spike_genus is not None and spike_genus not in genera:
        raise SettingsError(
            f"counting.spike_genus is '{spike_genus}', which the reference set does not have. "
            f"Add a folder of its crops, or name one of {', '.join(genera)}"
        )
    spiked = next((slide for slide in slides if slide.spike is not None), None)
    if spiked is not None and spike_genus is None:
        raise SettingsError(
            f"{SAMPLES_FILE}: {spiked.slide_id} has tablets, but counting.spike_genus is not set. "
            "Name the genus of the reference set that the tablets hold"
        )


def concentration(fossils: int, spikes: int, spike: Spike) -> Estimate:
    """Return the number of fossils per gram, c = X T L / (M g), with its 95 % interval (Stockmarr 1971; Maher 1981).

    The interval of X / M follows from Wilson's interval of X / (X + M), taken as odds. The variation between tablets is added as
    a relative error. The estimate is NaN where no spike was counted.

    Args:
        fossils: X, fossils counted.
        spikes: M, spikes counted.
        spike: T tablets of L spores each (standard deviation of one tablet) in g grams.
    """
    if spikes == 0:
        return Estimate(math.nan, math.nan, math.nan)
    per_ratio = spike.tablets * spike.spores_per_tablet / spike.grams
    ratio = fossils / spikes
    low_share, high_share = wilson_interval(fossils, fossils + spikes)
    low, high = low_share / (1 - low_share), high_share / (1 - high_share)
    tablets = Z95 * tablet_error(spike)
    if fossils == 0:
        return Estimate(0.0, 0.0, high * per_ratio * math.exp(tablets))
    below, above = math.hypot(math.log(ratio / low), tablets), math.hypot(math.log(high / ratio), tablets)
    return Estimate(*(ratio * per_ratio * math.exp(step) for step in (0.0, -below, above)))


def relative_error(fossils: int, spikes: int, spike: Spike) -> float:
    """Return the relative standard error of a concentration, sqrt(1/X + 1/M + (s/L)^2 / T) (Stockmarr 1971).

    Args:
        fossils: X, fossils counted.
        spikes: M, spikes counted.
        spike: T tablets of L spores each, with the standard deviation s.

    Returns:
        The error; NaN where one of the counts is 0.
    """
    if fossils == 0 or spikes == 0:
        return math.nan
    return math.sqrt(1 / fossils + 1 / spikes + tablet_error(spike) ** 2)


def tablet_error(spike: Spike) -> float:
    """Return the relative standard deviation of the number of spores in all tablets of a spike: (s / L) / sqrt(T)."""
    return spike.spores_sd / spike.spores_per_tablet / math.sqrt(spike.tablets)


def spike_table(samples: Sequence[SampleCount], genera: Sequence[str], spike_genus: str | None) -> pd.DataFrame:
    """Return `spike.csv`: fossils per gram of each sample with a spike, one row for all fossils and one per genus.

    The slides of a sample are mounts of the same spiked residue, so their counts are summed. `per_gram` is empty where no spike
    was counted; `note` says so.

    Args:
        samples: all samples; those without a spike have no rows.
        genera: the genera, in this order.
        spike_genus: the genus of the spike; None if there is none, and then the table is empty.
    """
    rows = []
    for count in samples:
        spike = next((member.slide.spike for member in count.slides if member.slide.spike is not None), None)
        if spike is None or spike_genus is None or count.status == "failed":
            continue
        spikes = count.genera[spike_genus]
        natives = [(genus, count.genera[genus]) for genus in genera if genus != spike_genus]
        for genus, number in [(ALL_FOSSILS, count.fossils(spike_genus)), *natives]:
            estimate = concentration(number, spikes, spike)
            rows.append(
                {
                    "sample_id": count.sample.sample_id,
                    "genus": genus,
                    "count": number,
                    "spike_genus": spike_genus,
                    "spike_count": spikes,
                    "tablets": spike.tablets,
                    "spores_per_tablet": spike.spores_per_tablet,
                    "spores_sd": spike.spores_sd,
                    "grams": spike.grams,
                    "per_gram": rounded(estimate.value, 2),
                    "low": rounded(estimate.low, 2),
                    "high": rounded(estimate.high, 2),
                    "relative_error": rounded(relative_error(number, spikes, spike), 4),
                    "note": "" if spikes else "no spike was counted",
                }
            )
    return pd.DataFrame(rows, columns=list(SPIKE_COLUMNS))
