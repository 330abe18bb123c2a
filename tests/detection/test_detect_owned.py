"""Tests of `detect_owned`: it leaves out only objects that other blocks own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe.detectors.density.detector import DensityDetector, DensitySettings, _percentile
from slidepipe.interfaces import Detections, Region
from tests.detectors.density.test_detector import crowded_scan

Core = tuple[int, int, int, int]


def owned(found: Detections, core: Core) -> list[tuple[float, ...]]:
    x0, y0, x1, y1 = core
    inside = (x0 <= found.owner[:, 0]) & (found.owner[:, 0] < x1) & (y0 <= found.owner[:, 1]) & (found.owner[:, 1] < y1)
    columns = (found.boxes, found.owner, found.area[:, None], found.score[:, None], found.cut[:, None])
    return [tuple(row) for row in np.concatenate(columns, axis=1)[inside].tolist()]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**20), data=st.data())
def test_detect_owned_is_complete(seed: int, data: st.DataObject) -> None:
    """`detect_owned` returns every object that the core owns, as `detect` does."""
    rgb, scanned = crowded_scan(seed)
    height, width = scanned.shape
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    core = x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    detector, region = DensityDetector(DensitySettings(max_size_um=80)), Region(rgb, scanned, 1.0)
    assert owned(detector.detect_owned(region, core), core) == owned(detector.detect(region), core)


def test_detect_owned_skips_other_objects() -> None:
    rgb, scanned = crowded_scan(1)
    detector, region = DensityDetector(DensitySettings(max_size_um=80)), Region(rgb, scanned, 1.0)
    assert len(detector.detect_owned(region, (0, 0, 40, 40)).boxes) < len(detector.detect(region).boxes)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**15 - 1), min_size=1, max_size=300), st.integers(0, 100))
def test_percentile_matches_numpy(values: list[int], percent: int) -> None:
    array = np.array(values, np.int16)
    assert _percentile(array, percent) == float(np.percentile(array, percent))
