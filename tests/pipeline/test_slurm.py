"""Jobs of a queueing system: the real dask-jobqueue, with a fake `sbatch` that starts the job on this machine."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from slidepipe.config import load_config, parse_config
from slidepipe.errors import SettingsError
from slidepipe.pipeline.engine import Engine
from slidepipe.pipeline.flow import run_well
from slidepipe.pipeline.tables import TABLES

pytest.importorskip("dask_jobqueue", reason="the extra slurm is not installed")

SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/job.sh"
setsid sh "$(dirname "$0")/job.sh" > "$(dirname "$0")/job.log" 2>&1 &
echo $! >> "$(dirname "$0")/jobs"
echo "Submitted batch job $!"
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the commands of a queueing system that consists of this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill -- -"$1"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else ():
        if psutil.pid_exists(int(job)):
            os.killpg(int(job), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # dask-jobqueue does not close the pipes of its jobs
def test_run_in_slurm_jobs(queue: Path, colour_well: Path, test_plugins: Path, tmp_path: Path) -> None:
    """Jobs started with configs/slurm.yaml give the same tables as threads."""
    shipped = load_config(Path(__file__).parents[2] / "configs" / "slurm.yaml")
    assert shipped.run.scheduler == "slurm"
    here: dict[str, Any] = {
        "reference": str(colour_well / "reference"),
        "plugins": [str(test_plugins)],
        "backbone": {"name": "mean-colour", "orientations": 1},
        "head": {"alpha": 0.05, "settings": {"metric": "euclidean"}},
    }
    # The test machine is smaller than the cluster that the file describes, and has only its loopback network.
    job = {**shipped.run.jobqueue, "cores": 2, "processes": 2, "interface": "lo", "log_directory": str(tmp_path)}
    jobs = parse_config({**here, "run": {"scheduler": "slurm", "workers": 1, "jobqueue": job}}, "test")
    assert run_well(colour_well / "well", tmp_path / "jobs", jobs).exit_status == 0
    assert (queue / "jobs").read_text().split()
    local = parse_config({**here, "run": {"scheduler": "threads", "workers": 1}}, "test")
    run_well(colour_well / "well", tmp_path / "local", local)
    for name in TABLES:
        assert (tmp_path / "jobs" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_wrong_jobqueue_settings(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong or missing job setting, and a missing sbatch, are errors that name them."""
    for job, problem in (({"coers": 2, "memory": "1GB"}, "'coers' is unknown"), ({"cores": 2}, "'memory' is missing")):
        with pytest.raises(SettingsError, match=f"'run.jobqueue': {problem}"):
            Engine("slurm", 1, jobqueue=job)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match="no command 'sbatch' here"):
        Engine("slurm", 1, jobqueue={"cores": 1, "memory": "1GB"})


def test_slurm_without_dask_jobqueue() -> None:
    """Without the package dask-jobqueue, the error names the extra to install."""
    code = (
        "import sys; sys.modules['dask_jobqueue'] = None\n"
        "from slidepipe.pipeline.engine import Engine\n"
        "from slidepipe.errors import SettingsError\n"
        "try:\n    Engine('slurm', 1)\nexcept SettingsError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "pip install 'slidepipe[slurm]'" in result.stdout
