"""Which objects are usable."""

import numpy as np

from slidepipe.classification.usable import find_faults
from slidepipe.config import CountingConfig


def test_find_faults_returns_first_fault() -> None:
    """Of several faults the first one is returned; a property that could not be measured is not a fault."""
    limits = CountingConfig()
    measured = {
        "black_share": np.array([0.0, 0.9, 0.9, 0.0, np.nan, 0.0]),
        "edge_um": np.array([2.0, 9.0, 2.0, 9.0, np.nan, 2.0]),
    }
    cut = np.array([False, False, True, False, False, False])
    reasons = find_faults(measured, np.array([30.0, 30.0, 30.0, 30.0, 30.0, 400.0]), cut, limits)
    assert reasons == [
        None,
        "black (over 70% of it)",
        "cut by the edge of what was scanned",
        "out of focus (no edge under 6 um)",
        None,
        "too large (over 200 um)",
    ]


def test_find_faults_uses_limits_from_settings() -> None:
    """Each limit is a setting."""
    measured = {"black_share": np.array([0.5, 0.5]), "edge_um": np.array([3.0, 5.0])}
    sides, cut = np.array([50.0, 50.0]), np.zeros(2, bool)
    assert find_faults(measured, sides, cut, CountingConfig()) == [None, None]
    strict = find_faults(measured, sides, cut, CountingConfig(max_edge_um=4))
    assert strict == [None, "out of focus (no edge under 4 um)"]
    assert None not in find_faults(measured, sides, cut, CountingConfig(max_black_share=0.4))
    assert None not in find_faults(measured, sides, cut, CountingConfig(max_size_um=40))
