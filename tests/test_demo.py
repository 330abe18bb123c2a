"""The demo of the README: the sample well counted by the command line, compared with the truth of its drawing."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from slidepipe.cli import main

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_slides"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return RESULTS of the command that `make demo` runs."""
    out = tmp_path_factory.mktemp("demo") / "results"
    done = CliRunner().invoke(
        main, ["run", str(SAMPLES / "well"), "--config", str(ROOT / "configs" / "demo.yaml"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.slow
def test_demo_counts_match_truth(results: Path) -> None:
    """Each genus is counted within 10 % over the well and within 15 % at each depth (or one specimen), and never too often."""
    truth = pd.read_csv(SAMPLES / "truth_counts.csv")
    counts = pd.read_csv(results / "counts.csv")
    names = ["well", "depth_m", "sample_type", "slides"]
    assert counts[names].to_numpy().tolist() == truth[names].to_numpy().tolist()
    assert counts["status"].tolist() == ["ok"] * len(truth)
    genera = [name for name in truth.columns if name not in names]
    assert len(genera) == 9
    for genus in genera:
        drawn = truth[genus].sum()
        assert abs(counts[genus].sum() - drawn) <= max(1, 0.1 * drawn), genus
        for depth_m, counted, true in zip(truth["depth_m"], counts[genus], truth[genus], strict=True):
            assert true - max(1, 0.15 * true) <= counted <= true, f"{genus} at {depth_m} m: {counted}, drawn {true}"


@pytest.mark.slow
def test_demo_compare_script_agrees(results: Path) -> None:
    """The script that `make demo` runs after the count reports no difference, and reports one when a count is wrong."""
    command = [sys.executable, str(SAMPLES / "compare.py"), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    table = pd.read_csv(results / "counts.csv")
    genus = pd.read_csv(SAMPLES / "truth_counts.csv").columns[-1]
    table[genus] = table[genus] * 2 + 5
    table.to_csv(results / "counts.csv", index=False)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"more than 10 % off: {genus}" in done.stdout
