"""Starting the workers of a run, and checking that they can do its work."""

import sys
from collections.abc import Sequence
from pathlib import Path

from slidepipe._version import __version__
from slidepipe.config import Config
from slidepipe.errors import SettingsError
from slidepipe.paths import absolute
from slidepipe.pipeline.engine import Engine
from slidepipe.pipeline.specs import local_gpus_of
from slidepipe.pipeline.tasks import probe_worker


def start_engine(config: Config, needed: Sequence[Path]) -> Engine:
    """Start the workers of a run, or connect to them.

    Workers on other machines are checked: they must have the same version of slidepipe and see the same files.

    Args:
        config: the settings of the run.
        needed: the files and folders that the workers need.

    Raises:
        SettingsError: the workers cannot be used.
    """
    run = config.run
    dashboard = sys.stderr.isatty() if run.dashboard is None else run.dashboard
    engine = Engine(
        run.scheduler, run.workers, config.paths, gpus=local_gpus_of(config), dashboard=dashboard, jobqueue=run.jobqueue
    )
    if run.scheduler in ("local", "threads") and not config.paths:
        return engine
    try:
        _check_workers(engine, run.scheduler, [absolute(path) for path in needed if path.exists()])
    except SettingsError:
        engine.close()
        raise
    return engine


def _check_workers(engine: Engine, scheduler: str, needed: Sequence[Path]) -> None:
    try:
        probes = engine.run_on_every_worker(probe_worker, needed)
    except ImportError as error:
        raise SettingsError(
            f"scheduler {scheduler}: a worker cannot import this version of slidepipe ({error}). "
            "Start the workers in the environment of this run"
        ) from error
    for address, (version, missing) in sorted(probes.items()):
        if version != __version__:
            raise SettingsError(
                f"worker {address}: it has slidepipe {version}, this run has {__version__}. Install the same version on both"
            )
        if missing:
            raise SettingsError(
                f"worker {address}: it cannot see {missing[0]}. Give the folder's path on that machine in the setting 'paths'"
            )
