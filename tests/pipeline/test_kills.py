"""Runs that are killed or fill the disk are resumed by the same command, and give byte-identical tables."""

import functools
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from performance import runs
from slidepipe.config import load_config
from slidepipe.pipeline.flow import run_well
from tests import drawn

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class KillWell:
    """A well to kill runs of, and the tables of a run that was not killed."""

    plan: runs.RunPlan
    wanted: dict[str, bytes]


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory, test_plugins: Path) -> KillWell:
    folder = tmp_path_factory.mktemp("kills")
    colours = (drawn.AMBER, drawn.BROWN, drawn.GREEN)
    for number in range(3):
        discs = [
            (x, y, 60 + 5 * number, colours[(x + y + number) % 3])
            for y in range(150, 1900, 310)
            for x in range(150, 1900, 310)
        ]
        drawn.svs(folder / "well" / f"1_2-3 {100 * (number + 1)} mDC.svs", drawn.field(2048, 2048, discs))
    (folder / "settings.yaml").write_text(
        f"reference: {drawn.reference(folder / 'reference', 12)}\n"
        f"plugins: [{test_plugins}, {test_plugins.with_name('counting_plugins.py')}]\n"
        "backbone: {name: mean-colour, orientations: 1}\n"
        "head: {name: nearest-mean}\n"
        "detector: {block_px: 256}\n"  # several tasks per slide
        "run: {scheduler: local, workers: 2}\n"
    )
    plan = runs.RunPlan(folder / "well", ("--config", str(folder / "settings.yaml")), folder / "cache")
    return KillWell(plan, resumed(plan, folder / "out"))


def resumed(plan: runs.RunPlan, out: Path) -> dict[str, bytes]:
    """Return the tables of a run of `plan`, done in this process to save time."""
    config = load_config(Path(plan.options[1]), {"run.scheduler": "threads"})
    assert run_well(plan.well, out, config).exit_status == 0
    return runs.tables_of(out)


def crops_under_work(out: Path) -> bool:
    return any(out.glob("slides/*/.parts/crops-*/*.npz"))


@pytest.mark.parametrize(
    ("seen", "kill"),
    [
        (lambda out: any(out.glob("slides/*/boxes")), runs.kill_group),
        (crops_under_work, runs.kill_parent),
        (lambda out: (out / "objects.parquet").exists(), runs.kill_group),
    ],
    ids=["detecting", "cropping-parent-only", "writing-tables"],
)
def test_resume_after_sigkill(
    well: KillWell, tmp_path: Path, seen: Callable[[Path], bool], kill: Callable[..., None]
) -> None:
    """A run killed at any moment is resumed to the same tables, and leaves no temporary files."""
    out, log = tmp_path / "out", tmp_path / "log"
    # The cache is new too, so that the killed run embeds the reference set.
    plan = replace(well.plan, cache=tmp_path / "cache")
    process = runs.start(plan, out, log)
    try:
        assert runs.wait_until(process, lambda: seen(out)), log.read_text()
        kill(process)
        assert process.returncode == -9
        assert runs.differing(resumed(plan, out), well.wanted) == []
    finally:
        runs.kill_group(process)
    assert [path.name for path in out.glob("slides/*/.*")] == []


def test_two_killed_workers(well: KillWell, tmp_path: Path) -> None:
    """A run whose workers are killed twice finishes with the same tables."""
    out, log = tmp_path / "out", tmp_path / "log"
    process = runs.start(well.plan, out, log)
    try:
        for seen in (lambda: any(out.glob("slides/*/boxes")), lambda: any(out.glob("slides/*/crops"))):
            assert runs.wait_until(process, seen), log.read_text()
            runs.workers_of(process)[-1].kill()
        assert process.wait(120) == 0, log.read_text()
    finally:
        runs.kill_group(process)
    assert runs.differing(runs.tables_of(out), well.wanted) == []


def test_resume_after_full_disk(well: KillWell, tmp_path: Path) -> None:
    """A full disk is reported in one line, and the run resumes once there is space."""
    out, log = tmp_path / "out", tmp_path / "log"
    limits = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (60_000, 60_000))
    full = runs.finish(well.plan, out, log, preexec_fn=limits)
    assert full.status == 2, full.output
    *before, last = full.output.splitlines()
    assert last.startswith(f"slidepipe: {out}: no space left on its disk")
    assert not any("no space" in line for line in before)
    assert "Traceback" not in full.output
    assert any(out.glob("slides/*/boxes"))
    assert not (out / "objects.parquet").exists()
    ended = runs.finish(well.plan, out, log)
    assert ended.status == 0, ended.output
    assert runs.differing(runs.tables_of(out), well.wanted) == []
