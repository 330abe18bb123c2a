"""The data of a depth chart: its samples, the share of each genus in them, and the order of the genera."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

#: A function of a `sample_id` and a genus that returns the URL to which the genus's bar in that sample leads.
Link = Callable[[str, str], str]


@dataclass(frozen=True)
class ChartSample:
    """One sample of a chart.

    Attributes:
        sample_id: as in `counts.csv`.
        depth_m: depth in metres; None if it is not known.
        sample_type: code of the sample type, for example "DC"; empty if it is not known.
        status: "ok", "partial", "barren" or "failed".
        fossils: number of specimens of the genera in the sum; None if nothing was analysed.
        unknown: number of unknown objects; None if nothing was analysed.
    """

    sample_id: str
    depth_m: float | None
    sample_type: str
    status: str
    fossils: int | None
    unknown: int | None


@dataclass(frozen=True)
class Share:
    """A genus in a sample.

    Attributes:
        count: number of specimens.
        percent: percentage of the sample's fossils; not-a-number for the spike, which is not part of the sum.
        low: lower end of the 95 % interval of `percent`.
        high: upper end of the 95 % interval of `percent`.
    """

    count: int
    percent: float
    low: float
    high: float


def chart_samples(counts: pd.DataFrame, long: pd.DataFrame) -> tuple[list[ChartSample], dict[str, dict[str, Share]]]:
    """Return the samples and the shares that a chart shows.

    Args:
        counts: rows of `counts.csv`.
        long: rows of `counts_long.csv` of the same samples.

    Returns:
        The samples, in the order of `counts`; and the shares above zero, by genus and `sample_id`. A genus that was
        not found has an empty entry.
    """
    shares: dict[str, dict[str, Share]] = {}
    sums: dict[str, int] = {}
    for row in long.itertuples(index=False):
        genus, sample_id, count = str(row.genus), str(row.sample_id), int(row.count)  # type: ignore[call-overload]  # itertuples is untyped
        cells = shares.setdefault(genus, {})
        sums[sample_id] = sums.get(sample_id, 0) + count
        if count:
            percent, low, high = (float(getattr(row, name)) for name in ("percent", "low", "high"))
            cells[sample_id] = Share(count, percent, low, high)
    samples = [
        ChartSample(
            sample_id=str(record["sample_id"]),
            depth_m=_number(record["depth_m"]),
            sample_type=_text(record["sample_type"]),
            status=str(record["status"]),
            fossils=_whole(record.get("fossils", sums.get(str(record["sample_id"])))),
            unknown=_whole(record["unknown"]),
        )
        for record in counts.to_dict("records")
    ]
    return samples, shares


def order_genera(
    samples: Sequence[ChartSample], shares: Mapping[str, Mapping[str, Share]]
) -> tuple[list[str], list[str]]:
    """Order genera as in a range chart: by highest occurrence, then by lowest occurrence, then by name.

    Args:
        samples: the samples of the chart, shallowest first.
        shares: by genus and `sample_id`.

    Returns:
        The genera found in `samples`, in the order of the chart; and the other genera, sorted by name.
    """
    place = {sample.sample_id: number for number, sample in enumerate(samples)}
    ends = {
        genus: (min(at), max(at))
        for genus, cells in shares.items()
        if (at := [place[sample_id] for sample_id in cells if sample_id in place])
    }
    found = sorted(ends, key=lambda genus: (*ends[genus], genus))
    return found, sorted(set(shares) - set(found))


def genera_in_order(counts: pd.DataFrame, long: pd.DataFrame) -> list[str]:
    """Return all genera of `counts_long.csv`: those found in the order of the chart, then the others by name.

    Args:
        counts: rows of `counts.csv`.
        long: rows of `counts_long.csv`.
    """
    samples, shares = chart_samples(counts, long)
    samples.sort(key=lambda sample: (sample.depth_m is None, sample.depth_m or 0.0))
    found, missing = order_genera(samples, shares)
    return [*found, *missing]


def _number(value: object) -> float | None:
    return None if pd.isna(value) or value == "" else float(value)  # type: ignore[arg-type, call-overload]  # a cell of a CSV


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]  # a cell of a CSV
