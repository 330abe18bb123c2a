"""Counting: objects to slide, sample and well tables. What was not analysed is a status and missing area, never a zero."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from slidepipe.classification.object_table import UNKNOWN, UNUSABLE, SlideObjects
from slidepipe.counting.intervals import ZERO_COUNT_UPPER, wilson_interval
from slidepipe.samples.sample import Sample, WellSlide

Status = Literal["ok", "partial", "failed", "barren"]


@dataclass
class SlideCount:
    """The objects of one slide by genus (accepted) and state. ``status`` of a slide that was not analysed is ``failed``."""

    slide: WellSlide
    status: Status
    area_mm2: float
    genera: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SampleCount:
    """The slides of one sample summed: those that were analysed. A sample of which nothing was analysed is ``failed``."""

    sample: Sample
    status: Status
    slides: tuple[SlideCount, ...]
    area_mm2: float
    genera: Counter[str]
    states: Counter[str]

    def fossils(self, spike_genus: str | None = None) -> int:
        """The sum that percentages are of: all accepted fossils but the spike."""
        return self.genera.total() - (self.genera[spike_genus] if spike_genus else 0)


def count_slide(
    slide: WellSlide, objects: SlideObjects, area_mm2: float, partial: bool, spike_genus: str | None = None
) -> SlideCount:
    """Count one analysed slide.

    Args:
        slide: the slide and its sample.
        objects: its object rows.
        area_mm2: what was analysed of it.
        partial: some of it could not be read.
        spike_genus: the genus that was added to the sample: a slide that holds nothing else is barren.
    """
    genera = Counter(genus for genus in objects.table.column("genus").to_pylist() if genus is not None)
    states = Counter(objects.table.column("state").to_pylist())
    status: Status = "partial" if partial else "ok" if set(genera) - {spike_genus} else "barren"
    return SlideCount(slide, status, area_mm2, genera, states)


#: Columns of the count tables that no genus may be named after.
RESERVED_COLUMNS = frozenset(
    {
        "slide_id",
        "sample_id",
        "well",
        "depth_m",
        "sample_type",
        "slides",
        "status",
        "area_mm2",
        UNKNOWN,
        UNUSABLE,
        "total",
        "fossils",
        "fossils_per_mm2",
    }
)


def by_sample(counts: Sequence[SlideCount]) -> list[SampleCount]:
    """The samples of the slides, by well and depth (those without a depth last).

    A sample is ``partial`` where some of its slides failed or are partial, ``failed`` where all failed, ``barren`` where all was
    analysed and no fossil was accepted.
    """
    groups: dict[Sample, list[SlideCount]] = {}
    for count in sorted(counts, key=lambda count: count.slide.slide_id):
        groups.setdefault(count.slide.sample, []).append(count)
    return [
        _summed(sample, members) for sample, members in sorted(groups.items(), key=lambda item: _depth_key(item[0]))
    ]


def slide_table(counts: Sequence[SlideCount], genera: Sequence[str], spike_genus: str | None = None) -> pd.DataFrame:
    """``counts_slides.csv``: one row a slide, by depth and id. Cells of a failed slide are empty.

    ``total`` is all objects: those of the genera, unknown and unusable. ``fossils`` is the sum that percentages are of.
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
    """``counts.csv``: one row a sample, depth ascending; the slides of a sample are summed, columns as :func:`slide_table`."""
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
    """``counts_long.csv``: one row a sample and genus.

    ``percent`` of the sample's accepted ``fossils`` with the Wilson 95 % interval (``low``, ``high``); ``unknown`` objects stand
    beside that sum, not in it. ``zero_upper``: where none was counted, the specimens that 95 % of such samples stay below.
    The spike is no part of the sum and has no percentage. Samples of which nothing was analysed have no rows.
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
                    "per_mm2": rounded(number / count.area_mm2 if count.area_mm2 > 0 else math.nan, 4),
                }
            )
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))


def sample_columns(sample: Sample) -> dict[str, object]:
    """The columns that name a sample in a table; the depth as short as it can be written."""
    depth = "" if sample.depth_m is None else f"{sample.depth_m.normalize():f}"
    return {"sample_id": sample.sample_id, "well": sample.well, "depth_m": depth, "sample_type": sample.sample_type}


def rounded(value: float, digits: int) -> object:
    """A cell: ``value`` rounded, or empty where it is not a number."""
    return "" if math.isnan(value) else round(value, digits)


def _summed(sample: Sample, members: Sequence[SlideCount]) -> SampleCount:
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
    return sample.well, math.inf if sample.depth_m is None else float(sample.depth_m), sample.sample_type


def _cells(count: SampleCount, genera: Sequence[str], spike_genus: str | None) -> dict[str, object]:
    names = ("area_mm2", *genera, UNKNOWN, UNUSABLE, "total", "fossils", "fossils_per_mm2")
    if count.status == "failed":
        return dict.fromkeys(names, "")
    fossils = count.fossils(spike_genus)
    return {
        "area_mm2": rounded(count.area_mm2, 4),
        **{genus: count.genera[genus] for genus in genera},
        UNKNOWN: count.states[UNKNOWN],
        UNUSABLE: count.states[UNUSABLE],
        "total": count.states.total(),
        "fossils": fossils,
        "fossils_per_mm2": rounded(fossils / count.area_mm2 if count.area_mm2 > 0 else math.nan, 4),
    }
