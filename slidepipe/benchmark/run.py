"""The command `slidepipe benchmark`: get the images, score backbones on them, and write tables and reports."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from slidepipe import plugins
from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.backbone_scores import Protocol, score_backbone
from slidepipe.benchmark.data import BenchmarkData, read_data, read_thumbnails
from slidepipe.benchmark.embedding import Workers
from slidepipe.benchmark.fetch import fetch_images
from slidepipe.benchmark.leaderboard import Row
from slidepipe.benchmark.metrics_csv import metrics_csv
from slidepipe.benchmark.page import benchmark_page, write_leaderboard_page
from slidepipe.classification.reference_set import fingerprint_folder
from slidepipe.config import Config
from slidepipe.errors import PluginError, SettingsError, SlidepipeError
from slidepipe.interfaces import UInt8Array
from slidepipe.pipeline.specs import embed_spec, head_spec
from slidepipe.store.files import write_json, write_text
from slidepipe.store.lock import locked

#: A function that receives one line of text per step of the benchmark.
Log = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The result of the command.

    Attributes:
        text: the table of backbones, for a terminal.
        rows: the rows of the table.
        scored: number of backbones that this command scored.
    """

    text: str
    rows: tuple[Row, ...]
    scored: int


@dataclass(frozen=True)
class _Images:
    data: BenchmarkData
    thumbnails: UInt8Array
    fingerprint: str


def run_benchmark(
    config: Config,
    out: Path,
    data: Path | None = None,
    protocol: Protocol = "both",
    every: bool = False,
    log: Log = lambda line: None,
) -> Outcome:
    """Score one backbone or every installed one, and write the tables and reports.

    Args:
        config: the settings. Backbone (unless `every`), head and run settings are used.
        out: output folder for `metrics.json`, `metrics.csv`, `leaderboard.csv` and `report.html`, and for the files of
            each backbone below `runs/`. Backbones that earlier runs scored on the same images join the table.
        data: folder of labelled images; None fetches the published ones.
        protocol: the protocol to score under.
        every: score all installed backbones. A backbone that fails becomes a row with its error message.
        log: receives one line per step.

    Raises:
        SlidepipeError: the images or settings are wrong, or the backbone fails (with `every`: all backbones fail).
    """
    plugins.register_files(config.plugins)
    configs = list(_every_backbone(config)) if every else [config]
    # Wrong settings are reported before anything is fetched.
    if not every:
        embed_spec(config)
    head_spec(config)
    with locked(out), Workers(config) as workers:
        images = _read_images(data, log)
        scored: list[dict[str, Any]] = []
        failed: list[Row] = []
        for one in configs:
            log(f"{one.backbone.name}: embedding {len(images.data.labels)} images, or reading them from the cache")
            try:
                with threadpool_limits(1):  # the number of threads must not change the figures: it changes sums
                    metrics, shown = score_backbone(images.data, images.thumbnails, one, protocol, workers)
            except SlidepipeError as error:
                if not every:
                    raise
                failed.append(leaderboard.row_of({"model": one.backbone.name, "error": str(error)}, "this run"))
                continue
            metrics["data"]["fingerprint"] = images.fingerprint
            scored.append(metrics)
            report = benchmark_page(metrics, shown, _rows(out, scored, failed, images.fingerprint))
            folder = out / "runs" / _folder_name(metrics)
            for place in [folder] if every else [folder, out]:
                _write_scores(place, metrics, report)
        if not scored:
            raise PluginError(f"none of {len(failed)} backbones could be scored; the first: {failed[0].verdict}")
        rows = _rows(out, scored, failed, images.fingerprint)
        write_text(out / "leaderboard.csv", leaderboard.as_csv(rows))
        if every:
            _write_all_scores(out, scored, failed, rows)
    return Outcome(leaderboard.as_text(rows), tuple(rows), len(scored))


def _write_scores(folder: Path, metrics: Mapping[str, Any], report: str) -> None:
    """Write the files of one backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", dict(metrics))
    write_text(folder / "metrics.csv", metrics_csv(metrics, header=True))
    write_text(folder / "report.html", report)


def _write_all_scores(
    out: Path, scored: Sequence[Mapping[str, Any]], failed: Sequence[Row], rows: Sequence[Row]
) -> None:
    """Write the files that describe all backbones together."""
    write_json(out / "metrics.json", {"leaderboard": scored, "failed": [vars(row) for row in failed]})
    parts = [metrics_csv(metrics, header=number == 0) for number, metrics in enumerate(scored)]
    write_text(out / "metrics.csv", "".join(parts))
    reports = [(metrics["model"], f"runs/{_folder_name(metrics)}/report.html") for metrics in scored]
    write_leaderboard_page(out / "report.html", rows, reports)


def _read_images(data: Path | None, log: Log) -> _Images:
    if data is None:
        log("published images: checking the cache and fetching what is missing")
    found = read_data(fetch_images() if data is None else data)
    found.splits()  # too few images are reported before anything is embedded
    return _Images(found, read_thumbnails(found.folder), fingerprint_folder(found.folder, {"slides": found.slides}))


def _every_backbone(config: Config) -> Iterator[Config]:
    """Yield a config for each installed backbone. A backbone that takes an argument is used only as `config` names it."""
    if config.backbone.weights is not None:
        raise SettingsError(
            "--all takes no --weights, because a weight file belongs to one backbone. Give the name of that backbone instead"
        )
    own = config.backbone.name
    names = [info.name for info in plugins.list_plugins("backbone")]
    for name in [*dict.fromkeys(names), *([own] if ":" in own else [])]:
        if name == own:
            yield config
        elif ":" in name or not _takes_argument(name):
            backbone = config.backbone.model_copy(update={"name": name, "settings": {}})
            yield config.model_copy(update={"backbone": backbone})


def _takes_argument(name: str) -> bool:
    try:
        return bool(plugins.get_class("backbone", name).takes_argument)
    except PluginError:
        return False  # the plugin is broken: scoring it reports the error


def _rows(out: Path, scored: Sequence[Mapping[str, Any]], failed: Sequence[Row], data: str) -> list[Row]:
    """Return the table: the backbones of this run, those of earlier runs on the same images, and the published ones."""
    mine = {_folder_name(metrics) for metrics in scored}
    rows = [*(leaderboard.row_of(metrics, "this run") for metrics in scored), *failed]
    for path in sorted(out.glob("runs/*/metrics.json")):
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if path.parent.name not in mine and earlier["data"]["fingerprint"] == data:
                rows.append(leaderboard.row_of(earlier, "earlier run"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the file is incomplete or was not written by the benchmark
    return leaderboard.ranked(rows)


def _folder_name(metrics: Mapping[str, Any]) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", str(metrics["model"])) + "-" + str(metrics["fingerprint"])[:8]
