"""Decide which objects are usable: not cut by the edge of the scan, not too large, not black, not out of focus."""

from dataclasses import dataclass

import numpy as np

from slidepipe.config import CountingConfig
from slidepipe.interfaces import BoolArray, FloatArray
from slidepipe.store.arrays import read_array
from slidepipe.store.slide_store import SlideStore


@dataclass(frozen=True)
class CropProperties:
    """Properties measured on N crops (`slidepipe.crops.quality.measure_crop`).

    Attributes:
        black_share: float64 (N,), share of the object's pixels that are black, 0 to 1. NaN where the crop is lost.
        edge_um: float64 (N,), width of the object's sharpest edges, micrometres. NaN where nothing differs from the
            background, or where the crop is lost.
    """

    black_share: FloatArray
    edge_um: FloatArray


def read_crop_properties(store: SlideStore) -> CropProperties:
    """Read the properties of a slide's objects, which are stored with its crops.

    Args:
        store: the slide's store; its crops are published.
    """
    crops = store.read("crops")
    return CropProperties(read_array(crops, "black_share"), read_array(crops, "edge_um"))


def find_faults(
    measured: CropProperties, long_sides_um: FloatArray, cut: BoolArray, limits: CountingConfig
) -> list[str | None]:
    """Return for each object why it is unusable, or None if it is usable.

    A property that could not be measured (NaN) is not a fault. Of several faults, the first of this order is returned: cut,
    too large, black, out of focus.

    Args:
        measured: properties of N crops.
        long_sides_um: float64 (N,), long side of each box, micrometres.
        cut: bool (N,), whether the edge of the scanned area cuts the object.
        limits: the settings `max_size_um`, `max_black_share` and `max_edge_um`.

    Returns:
        N reasons, as they stand in the column `reason` of `objects.parquet`.
    """
    checks = (
        (cut, "cut by the edge of what was scanned"),
        (long_sides_um > limits.max_size_um, f"too large (over {limits.max_size_um:g} um)"),
        (measured.black_share > limits.max_black_share, f"black (over {limits.max_black_share:.0%} of it)"),
        (measured.edge_um > limits.max_edge_um, f"out of focus (no edge under {limits.max_edge_um:g} um)"),
    )
    reasons: list[str | None] = [None] * len(cut)
    for found, reason in reversed(checks):  # In reverse order, so that the first fault overwrites the others.
        for row in np.flatnonzero(found).tolist():
            reasons[row] = reason
    return reasons
