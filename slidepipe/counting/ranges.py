"""Tops and bases: the shallowest and the deepest sample of each genus, with the ids of the specimens.

Cuttings can cave: rock that falls from the wall of the hole is found too deep, never too shallow. A top is therefore reliable in
every sample type, but a base only in core; a base in any other sample type is marked "possibly caved".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from slidepipe.counting.counts import SampleCount, sample_columns

#: Largest number of specimens listed for a top or base. The most certain ones are listed; `objects.parquet` has all of them.
_NAMED_SPECIMENS = 10

_END_COLUMNS = ("m", "sample_id", "sample_type", "specimens", "object_ids")
RANGES_COLUMNS = (
    "well",
    "genus",
    "specimens",
    "samples",
    *(f"top_{name}" for name in _END_COLUMNS),
    "top_note",
    *(f"base_{name}" for name in _END_COLUMNS),
    "base_note",
    *(f"core_base_{name}" for name in _END_COLUMNS),
)

#: Object ids by (sample_id, genus), the most certain first.
Specimens = Mapping[tuple[str, str], Sequence[str]]

#: Columns of the object table that `specimens_by_sample` needs.
SPECIMEN_COLUMNS = ("sample_id", "genus", "object_id", "p_value")


def specimens_by_sample(accepted: pd.DataFrame) -> Specimens:
    """Return the ids of the accepted objects of each sample and genus, the most certain first.

    Args:
        accepted: the accepted objects, with the columns `SPECIMEN_COLUMNS`.
    """
    ordered = accepted.sort_values(["p_value", "object_id"], ascending=[False, True], kind="stable")
    specimens: dict[tuple[str, str], list[str]] = {}
    for sample_id, genus, object_id in zip(ordered["sample_id"], ordered["genus"], ordered["object_id"], strict=True):
        specimens.setdefault((sample_id, genus), []).append(object_id)
    return specimens


@dataclass(frozen=True)
class _Well:
    """The samples of one well that have a depth, shallowest first. At equal depth core is last, as better evidence of a base."""

    name: str
    samples: tuple[SampleCount, ...]


def ranges_table(
    samples: Sequence[SampleCount], specimens: Specimens, genera: Sequence[str], minimum_specimens: int
) -> pd.DataFrame:
    """Return `ranges.csv`: one row per well and genus.

    A genus is present in a sample if at least `minimum_specimens` were accepted. If it is present in no sample, the cells of top
    and base are empty. Samples without a depth are ignored. The notes report that a top or base is in the first or last sample of
    the well, or that the next sample failed or is partial. `core_base_*` is the deepest core sample with the genus.

    Args:
        samples: all samples.
        specimens: from `specimens_by_sample`.
        genera: the rows, in this order, without the spike.
        minimum_specimens: 1 or more.
    """
    rows = [_row(well, genus, specimens, minimum_specimens) for well in _wells(samples) for genus in genera]
    return pd.DataFrame(rows, columns=list(RANGES_COLUMNS))


def _wells(samples: Sequence[SampleCount]) -> list[_Well]:
    wells: dict[str, list[SampleCount]] = {}
    for count in samples:
        wells.setdefault(count.sample.well, [])
        if count.sample.depth_m is not None:
            wells[count.sample.well].append(count)
    return [
        _Well(
            name,
            tuple(
                sorted(
                    members,
                    key=lambda count: (count.sample.depth_m, count.sample.is_in_place, count.sample.sample_type),
                )
            ),
        )
        for name, members in sorted(wells.items())
    ]


def _row(well: _Well, genus: str, specimens: Specimens, minimum: int) -> dict[str, object]:
    held = [place for place, count in enumerate(well.samples) if count.genera[genus] >= minimum]
    row: dict[str, object] = dict.fromkeys(RANGES_COLUMNS, "")
    row |= {
        "well": well.name,
        "genus": genus,
        "specimens": sum(count.genera[genus] for count in well.samples),
        "samples": len(held),
    }
    if not held:
        return row
    top, base = well.samples[held[0]], well.samples[held[-1]]
    core = [well.samples[place] for place in held if well.samples[place].sample.is_in_place]
    row |= _end("top", top, genus, specimens) | _end("base", base, genus, specimens)
    row["top_note"] = "; ".join(_range_notes(well, held[0], -1))
    caved = [] if base.sample.is_in_place else ["possibly caved"]
    row["base_note"] = "; ".join(caved + _range_notes(well, held[-1], 1))
    if core:
        row |= _end("core_base", core[-1], genus, specimens)
    return row


def _end(name: str, count: SampleCount, genus: str, specimens: Specimens) -> dict[str, object]:
    sample = sample_columns(count.sample)
    values = (
        sample["depth_m"],
        sample["sample_id"],
        sample["sample_type"],
        count.genera[genus],
        "; ".join(specimens.get((count.sample.sample_id, genus), ())[:_NAMED_SPECIMENS]),
    )
    return {f"{name}_{column}": value for column, value in zip(_END_COLUMNS, values, strict=True)}


def _range_notes(well: _Well, place: int, step: int) -> list[str]:
    """Return notes on why the true range may continue above a top (step -1) or below a base (step 1) at position `place`."""
    last = 0 if step < 0 else len(well.samples) - 1
    if place == last:
        return ["shallowest sample of the well" if step < 0 else "deepest sample of the well"]
    neighbour = well.samples[place + step]
    if neighbour.status in ("failed", "partial"):
        direction = "above" if step < 0 else "below"
        return [f"the sample {direction} ({neighbour.sample.sample_id}) is {neighbour.status}"]
    return []
