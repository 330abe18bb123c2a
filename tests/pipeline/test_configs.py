"""Every file in configs/ works in a run."""

from pathlib import Path

import pandas as pd
import pytest

from slidepipe.config import load_config
from slidepipe.pipeline.flow import run_well
from tests import drawn

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_file_runs(path: Path, tmp_path: Path, colour_well: Path) -> None:
    """A run with the config file counts the one fossil of a drawn slide."""
    config = load_config(path, {"run.scheduler": "threads", "run.device": "cpu"})
    if config.reference is None or path.name != "demo.yaml":
        config = config.model_copy(update={"reference": colour_well / "reference"})
    slide = drawn.svs(tmp_path / "1_2-3 5 mC.svs", drawn.field(1024, 1024, [(300, 300, 90, drawn.BROWN)]))
    summary = run_well(slide, tmp_path / "r", config)
    assert summary.exit_status == 0
    assert pd.read_csv(tmp_path / "r" / "counts.csv")["total"].tolist() == [1]
