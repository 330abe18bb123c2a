"""Counting: objects to slide, sample and well tables. What was not analysed is a status and missing area, never a zero."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from slidepipe.objects import UNKNOWN, UNUSABLE, SlideObjects
from slidepipe.well import Sample, WellSlide

Status = Literal["ok", "partial", "failed", "barren"]

#: Two-sided 95 % of the normal distribution.
_Z95 = 1.959963984540054


@dataclass
class SlideCount:
    """The objects of one slide by genus (accepted) and state. ``status`` of a slide that was not analysed is ``failed``."""

    slide: WellSlide
    status: Status
    area_mm2: float
    genera: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)


def count_slide(slide: WellSlide, objects: SlideObjects, area_mm2: float, partial: bool) -> SlideCount:
    """Count one analysed slide. ``partial``: some of it could not be read."""
    genera = Counter(genus for genus in objects.table.column("genus").to_pylist() if genus is not None)
    states = Counter(objects.table.column("state").to_pylist())
    status: Status = "partial" if partial else "ok" if genera else "barren"
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
    }
)


def slide_table(counts: Sequence[SlideCount], genera: Sequence[str]) -> pd.DataFrame:
    """``counts_slides.csv``: one row a slide, by depth and id. Cells of a failed slide are empty.

    ``total`` is all objects: those of the genera, unknown and unusable.
    """
    rows = [
        {
            "slide_id": count.slide.slide_id,
            **_sample_columns(count.slide.sample),
            "status": count.status,
            **_cells([count], genera),
        }
        for count in sorted(counts, key=lambda count: (_depth_key(count.slide.sample), count.slide.slide_id))
    ]
    return pd.DataFrame(rows)


def sample_table(counts: Sequence[SlideCount], genera: Sequence[str]) -> pd.DataFrame:
    """``counts.csv``: one row a sample, depth ascending; the slides of a sample are summed.

    A sample is ``partial`` where some of its slides failed or are partial, ``failed`` where all failed (its cells are empty),
    ``barren`` where all was analysed and no genus was accepted.
    """
    rows = [
        {
            **_sample_columns(sample),
            "slides": len(members),
            "status": _sample_status(members),
            **_cells(members, genera),
        }
        for sample, members in _by_sample(counts)
    ]
    return pd.DataFrame(rows)


def long_table(counts: Sequence[SlideCount], genera: Sequence[str]) -> pd.DataFrame:
    """``counts_long.csv``: one row a sample and genus, with its percentage of the accepted fossils and the Wilson 95 % interval.

    Samples of which nothing was analysed have no rows.
    """
    rows = []
    for sample, members in _by_sample(counts):
        if _sample_status(members) == "failed":
            continue
        total = Counter[str]()
        for member in members:
            total.update(member.genera)
        whole = sum(total.values())
        for genus in genera:
            low, high = wilson_interval(total[genus], whole)
            percent = 100 * total[genus] / whole if whole else math.nan
            rows.append(
                {
                    "sample_id": sample.sample_id,
                    "genus": genus,
                    "count": total[genus],
                    "percent": _rounded(percent, 3),
                    "low": _rounded(100 * low, 3),
                    "high": _rounded(100 * high, 3),
                }
            )
    return pd.DataFrame(rows, columns=["sample_id", "genus", "count", "percent", "low", "high"])


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); not a number where there are no trials."""
    if trials == 0:
        return math.nan, math.nan
    share = successes / trials
    spread = _Z95 * math.sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2))
    centre = share + _Z95**2 / (2 * trials)
    scale = 1 + _Z95**2 / trials
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == trials else min(1.0, (centre + spread) / scale)
    return low, high


def _by_sample(counts: Sequence[SlideCount]) -> list[tuple[Sample, list[SlideCount]]]:
    groups: dict[Sample, list[SlideCount]] = {}
    for count in sorted(counts, key=lambda count: count.slide.slide_id):
        groups.setdefault(count.slide.sample, []).append(count)
    return sorted(groups.items(), key=lambda item: _depth_key(item[0]))


def _depth_key(sample: Sample) -> tuple[str, float, str]:
    return sample.well, math.inf if sample.depth_m is None else float(sample.depth_m), sample.sample_type


def _sample_status(members: Sequence[SlideCount]) -> Status:
    statuses = {member.status for member in members}
    if statuses == {"failed"}:
        return "failed"
    if statuses & {"failed", "partial"}:
        return "partial"
    return "barren" if statuses == {"barren"} else "ok"


def _sample_columns(sample: Sample) -> dict[str, object]:
    depth = "" if sample.depth_m is None else f"{sample.depth_m.normalize():f}"
    return {"sample_id": sample.sample_id, "well": sample.well, "depth_m": depth, "sample_type": sample.sample_type}


def _cells(members: Sequence[SlideCount], genera: Sequence[str]) -> dict[str, object]:
    analysed = [member for member in members if member.status != "failed"]
    if not analysed:
        return {"area_mm2": "", **dict.fromkeys(genera, ""), "unknown": "", "unusable": "", "total": ""}
    totals = Counter[str]()
    states = Counter[str]()
    for member in analysed:
        totals.update(member.genera)
        states.update(member.states)
    return {
        "area_mm2": _rounded(sum(member.area_mm2 for member in analysed), 4),
        **{genus: totals[genus] for genus in genera},
        "unknown": states[UNKNOWN],
        "unusable": states[UNUSABLE],
        "total": states.total(),
    }


def _rounded(value: float, digits: int) -> object:
    return "" if math.isnan(value) else round(value, digits)
