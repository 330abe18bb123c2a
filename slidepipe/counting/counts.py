"""Count tables of slides, samples and wells.

What was not analysed appears as a status and as missing area, never as a zero.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from slidepipe.classification.object_table import UNKNOWN, UNUSABLE, SlideObjects
from slidepipe.counting.intervals import ZERO_COUNT_UPPER, wilson_interval
from slidepipe.samples.sample import Sample, WellSlide

Status = Literal["ok", "partial", "failed", "barren"]


@dataclass
class SlideCount:
    """The objects of one slide, counted.

    Attributes:
        slide: the slide and its sample.
        status: `failed` if the slide was not analysed, `partial` if parts of it were not, `barren` if it holds no fossil.
        area_mm2: the area that was analysed.
        genera: accepted objects by genus.
        states: objects by state.
    """

    slide: WellSlide
    status: Status
    area_mm2: float
    genera: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SampleCount:
    """The sum of the analysed slides of one sample.

    Attributes:
        sample: the sample.
        status: `failed` if no slide was analysed, `partial` if some slides failed or are partial, `barren` if all were analysed
            and hold no fossil.
        slides: all slides of the sample, failed ones included.
        area_mm2: the area that was analysed.
        genera: accepted objects by genus.
        states: objects by state.
    """

    sample: Sample
    status: Status
    slides: tuple[SlideCount, ...]
    area_mm2: float
    genera: Counter[str]
    states: Counter[str]

    def fossils(self, spike_genus: str | None = None) -> int:
        """Return the number of accepted fossils without the spike. Percentages refer to this sum."""
        return self.genera.total() - (self.genera[spike_genus] if spike_genus else 0)


def count_slide(
    slide: WellSlide, objects: SlideObjects, area_mm2: float, partial: bool, spike_genus: str | None = None
) -> SlideCount:
    """Count one analysed slide.

    Args:
        slide: the slide and its sample.
        objects: its rows of the object table.
        area_mm2: the area that was analysed.
        partial: whether parts of the slide could not be read.
        spike_genus: the genus that was added to the sample. A slide that holds nothing else is barren.
    """
    genera = Counter(genus for genus in objects.table.column("genus").to_pylist() if genus is not None)
    states = Counter(objects.table.column("state").to_pylist())
    status: Status = "partial" if partial else "ok" if set(genera) - {spike_genus} else "barren"
    return SlideCount(slide, status, area_mm2, genera, states)


@dataclass(frozen=True)
class CountColumn:
    """A column of `counts.csv` and `counts_slides.csv` that is computed from a sample, or from a slide taken as one.

    Attributes:
        name: of the column. No genus may have this name.
        value: returns the cell, from the count and the genus of the spike. The cells of a failed sample are always empty.
        is_integer: whether the cells are whole numbers.
    """

    name: str
    value: Callable[[SampleCount, str | None], object]
    is_integer: bool = False


#: The columns before and after those of the genera, in order. To add a column, add it here and to docs/counting.md.
_BEFORE_GENERA = (CountColumn("area_mm2", lambda count, spike_genus: rounded(count.area_mm2, 4)),)
_AFTER_GENERA = (
    CountColumn(UNKNOWN, lambda count, spike_genus: count.states[UNKNOWN], is_integer=True),
    CountColumn(UNUSABLE, lambda count, spike_genus: count.states[UNUSABLE], is_integer=True),
    CountColumn("total", lambda count, spike_genus: count.states.total(), is_integer=True),
    CountColumn("fossils", lambda count, spike_genus: count.fossils(spike_genus), is_integer=True),
    CountColumn("fossils_per_mm2", lambda count, spike_genus: _per_mm2(count.fossils(spike_genus), count.area_mm2)),
)

#: The columns that name a sample; see `sample_columns`.
SAMPLE_COLUMNS = ("sample_id", "well", "depth_m", "sample_type")

#: Columns of the count tables that hold whole numbers, besides those of the genera.
INTEGER_COLUMNS = tuple(column.name for column in _BEFORE_GENERA + _AFTER_GENERA if column.is_integer)

#: Names of columns of the count tables, which no genus may have.
RESERVED_COLUMNS = frozenset(
    ("slide_id", *SAMPLE_COLUMNS, "slides", "status", *(column.name for column in _BEFORE_GENERA + _AFTER_GENERA))
)


def by_sample(counts: Sequence[SlideCount]) -> list[SampleCount]:
    """Sum slides to samples, sorted by well and depth. Samples without a depth come last."""
    groups: dict[Sample, list[SlideCount]] = {}
    for count in sorted(counts, key=lambda count: count.slide.slide_id):
        groups.setdefault(count.slide.sample, []).append(count)
    return [
        _summed(sample, members) for sample, members in sorted(groups.items(), key=lambda item: _depth_key(item[0]))
    ]


def slide_table(counts: Sequence[SlideCount], genera: Sequence[str], spike_genus: str | None = None) -> pd.DataFrame:
    """Return `counts_slides.csv`: one row per slide, sorted by depth and id. The cells of a failed slide are empty.

    `total` counts all objects: accepted, unknown and unusable. `fossils` is the sum that percentages refer to.

    Args:
        counts: all slides.
        genera: the columns of the genera, in this order.
        spike_genus: the genus that was added to the samples, which is no part of `fossils`.
    """
    rows = [
        {
            "slide_id": count.slide.slide_id,
            **sample_columns(count.slide.sample),
            "status": count.status,
            **_cells(_summed(count.slide.sample, [count]), genera, spike_genus),
        }
        for count in sorted(counts, key=lambda count: (_depth_key(count.slide.sample), count.slide.slide_id))
    ]
    return pd.DataFrame(rows)


def sample_table(counts: Sequence[SlideCount], genera: Sequence[str], spike_genus: str | None = None) -> pd.DataFrame:
    """Return `counts.csv`: one row per sample, by ascending depth. The slides of a sample are summed.

    The columns are those of `slide_table`, with the number of `slides` instead of `slide_id`.

    Args:
        counts: all slides.
        genera: the columns of the genera, in this order.
        spike_genus: the genus that was added to the samples, which is no part of `fossils`.
    """
    rows = [
        {
            **sample_columns(count.sample),
            "slides": len(count.slides),
            "status": count.status,
            **_cells(count, genera, spike_genus),
        }
        for count in by_sample(counts)
    ]
    return pd.DataFrame(rows)


#: The columns of `counts_long.csv`, in order, before those of the corrected counts.
LONG_COLUMNS = (
    "sample_id",
    "genus",
    "count",
    "percent",
    "low",
    "high",
    "fossils",
    "unknown",
    "zero_upper",
    "per_mm2",
)


def long_table(counts: Sequence[SlideCount], genera: Sequence[str], spike_genus: str | None = None) -> pd.DataFrame:
    """Return `counts_long.csv`: one row per sample and genus, with the columns `LONG_COLUMNS`.

    `percent` refers to the sample's accepted `fossils`; `low` and `high` are its Wilson 95 % interval. `unknown` objects are no
    part of that sum. `zero_upper` is given where nothing was counted: the upper limit (95 %, one-sided) of the expected count.
    The spike is no part of the sum and has no percentage. Failed samples have no rows.

    Args:
        counts: all slides.
        genera: the genera, in this order.
        spike_genus: the genus that was added to the samples.
    """
    rows = []
    for count in by_sample(counts):
        if count.status == "failed":
            continue
        whole = count.fossils(spike_genus)
        for genus in genera:
            number = count.genera[genus]
            in_sum = genus != spike_genus
            low, high = wilson_interval(number, whole) if in_sum else (math.nan, math.nan)
            percent = 100 * number / whole if whole and in_sum else math.nan
            rows.append(
                {
                    "sample_id": count.sample.sample_id,
                    "genus": genus,
                    "count": number,
                    "percent": rounded(percent, 3),
                    "low": rounded(100 * low, 3),
                    "high": rounded(100 * high, 3),
                    "fossils": whole,
                    "unknown": count.states[UNKNOWN],
                    "zero_upper": ZERO_COUNT_UPPER if number == 0 else "",
                    "per_mm2": _per_mm2(number, count.area_mm2),
                }
            )
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))


def sample_columns(sample: Sample) -> dict[str, object]:
    """Return the cells that name a sample. The depth is written without trailing zeros."""
    depth = "" if sample.depth_m is None else f"{sample.depth_m.normalize():f}"
    return {"sample_id": sample.sample_id, "well": sample.well, "depth_m": depth, "sample_type": sample.sample_type}


def rounded(value: float, digits: int) -> object:
    """Return a cell: the rounded value, or an empty string for NaN."""
    return "" if math.isnan(value) else round(value, digits)


def _summed(sample: Sample, members: Sequence[SlideCount]) -> SampleCount:
    """Sum the analysed slides of a sample."""
    analysed = [member for member in members if member.status != "failed"]
    genera, states = Counter[str](), Counter[str]()
    for member in analysed:
        genera.update(member.genera)
        states.update(member.states)
    area_mm2 = math.fsum(member.area_mm2 for member in analysed)
    return SampleCount(sample, _sample_status(members), tuple(members), area_mm2, genera, states)


def _sample_status(members: Sequence[SlideCount]) -> Status:
    statuses = {member.status for member in members}
    if statuses == {"failed"}:
        return "failed"
    if statuses & {"failed", "partial"}:
        return "partial"
    return "barren" if statuses == {"barren"} else "ok"


def _depth_key(sample: Sample) -> tuple[str, float, str]:
    """Return the key that sorts samples by well and depth; a sample without a depth comes last."""
    return sample.well, math.inf if sample.depth_m is None else float(sample.depth_m), sample.sample_type


def _cells(count: SampleCount, genera: Sequence[str], spike_genus: str | None) -> dict[str, object]:
    """Return the cells of a row from `area_mm2` on; all of them are empty where nothing was analysed."""
    if count.status == "failed":
        return dict.fromkeys(
            (*(column.name for column in _BEFORE_GENERA), *genera, *(column.name for column in _AFTER_GENERA)), ""
        )
    return {
        **{column.name: column.value(count, spike_genus) for column in _BEFORE_GENERA},
        **{genus: count.genera[genus] for genus in genera},
        **{column.name: column.value(count, spike_genus) for column in _AFTER_GENERA},
    }


def _per_mm2(number: int, area_mm2: float) -> object:
    return rounded(number / area_mm2 if area_mm2 > 0 else math.nan, 4)
