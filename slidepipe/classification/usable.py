"""Decide which objects are usable: not cut by the edge of the scan, not too large, and within the limits of the quality rules."""

from collections.abc import Mapping

import numpy as np

from slidepipe.config import CountingConfig
from slidepipe.crops.quality import RULES
from slidepipe.interfaces import BoolArray, FloatArray
from slidepipe.store.arrays import read_array
from slidepipe.store.slide_store import SlideStore


def read_crop_properties(store: SlideStore) -> dict[str, FloatArray]:
    """Read the measured properties of a slide's objects, which are stored with its crops.

    Args:
        store: the slide's store; its crops are published.

    Returns:
        float64 (N,) for each of `slidepipe.crops.quality.RULES`, by column. NaN where the crop is lost or the property could
        not be measured.
    """
    crops = store.read("crops")
    return {rule.column: read_array(crops, rule.column) for rule in RULES}


def find_faults(
    measured: Mapping[str, FloatArray], long_sides_um: FloatArray, cut: BoolArray, limits: CountingConfig
) -> list[str | None]:
    """Return for each object why it is unusable, or None if it is usable.

    A property that could not be measured (NaN) is not a fault. Of several faults, the first of this order is returned: cut,
    too large, then those of `slidepipe.crops.quality.RULES`.

    Args:
        measured: properties of N crops, as `read_crop_properties` returns them.
        long_sides_um: float64 (N,), long side of each box, micrometres.
        cut: bool (N,), whether the edge of the scanned area cuts the object.
        limits: the settings `max_size_um`, `max_black_share` and so on.

    Returns:
        N reasons, as they stand in the column `reason` of `objects.parquet`.
    """
    checks = [
        (cut, "cut by the edge of what was scanned"),
        (long_sides_um > limits.max_size_um, f"too large (over {limits.max_size_um:g} um)"),
        *((measured[rule.column] > rule.limit(limits), rule.reason.format(rule.limit(limits))) for rule in RULES),
    ]
    reasons: list[str | None] = [None] * len(cut)
    for found, reason in reversed(checks):  # In reverse order, so that the first fault overwrites the others.
        for row in np.flatnonzero(found).tolist():
            reasons[row] = reason
    return reasons
