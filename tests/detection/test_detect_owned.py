"""What the detector leaves out when it is told what the core owns is nothing that the core owns."""

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
def test_the_core_gets_all_that_it_owns(seed: int, data: st.DataObject) -> None:
    rgb, scanned = crowded_scan(seed)
    height, width = scanned.shape
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    core = x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    detector, region = DensityDetector(DensitySettings(max_size_um=80)), Region(rgb, scanned, 1.0)
    assert owned(detector.detect_owned(region, core), core) == owned(detector.detect(region), core)


def test_a_small_core_spares_looking_at_the_rest() -> None:
    rgb, scanned = crowded_scan(1)
    detector, region = DensityDetector(DensitySettings(max_size_um=80)), Region(rgb, scanned, 1.0)
    assert len(detector.detect_owned(region, (0, 0, 40, 40)).boxes) < len(detector.detect(region).boxes)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**15 - 1), min_size=1, max_size=300), st.integers(0, 100))
def test_the_percentile_is_that_of_numpy(values: list[int], percent: int) -> None:
    array = np.array(values, np.int16)
    assert _percentile(array, percent) == float(np.percentile(array, percent))
