"""Fixtures and settings of all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# One thread per process, set before numpy and torch are imported: tests run in parallel, and many start worker processes.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests import drawn  # noqa: E402  # it imports numpy

# No deadline: how long an example takes depends on how busy the machine is.
hypothesis.settings.register_profile("slidepipe", deadline=None)
hypothesis.settings.load_profile("slidepipe")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real test data; skip the test if the machine has none."""
    folder = os.environ.get("SLIDEPIPE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SLIDEPIPE_TEST_DATA names no folder of real test data")
    return Path(folder)


@pytest.fixture(autouse=True, scope="session")
def _no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep module fixtures away from the cache folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIDEPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIDEPIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def colour_well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `well` (three small scans, one MIRAX with unscanned tiles) and `reference`."""
    root = tmp_path_factory.mktemp("colours")
    discs = [
        (x, y, 70 + 3 * index, (drawn.AMBER, drawn.BROWN, drawn.GREEN)[index % 3])
        for index, (x, y) in enumerate((x, y) for y in range(200, 1400, 330) for x in range(200, 1400, 330))
    ]
    drawn.svs(root / "well" / "1_2-3 100 mDC.svs", drawn.field(1536, 1536, discs))
    drawn.svs(root / "well" / "1_2-3 200,5 mC.svs", drawn.field(1536, 1536, discs[:5]))
    drawn.mirax(root / "well" / "1_2-3 300 mSWC.mrxs", drawn.field(1536, 1536, discs[3:9]), missing=[(0, 0), (5, 5)])
    drawn.reference(root / "reference")
    return root


@pytest.fixture(scope="session")
def test_plugins() -> Path:
    return Path(__file__).with_name("plugins_for_tests.py")


@pytest.fixture
def config(colour_well: Path, test_plugins: Path) -> dict[str, Any]:
    """Return settings that count the colour well in this process."""
    return {
        "reference": str(colour_well / "reference"),
        "plugins": [str(test_plugins)],
        "backbone": {"name": "mean-colour", "orientations": 1, "companion": None},
        "head": {"alpha": 0.05, "settings": {"metric": "euclidean"}},
        "run": {"scheduler": "threads", "workers": 2},
    }
