"""``slidepipe benchmark``: fetch or read the images, embed them under each protocol, score, write metrics and the report."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from slidepipe import __version__, plugins
from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.data import BenchmarkData, read_data, read_thumbnails
from slidepipe.benchmark.embedding import Embedded, Kind, Workers, describe_published, embed_images
from slidepipe.benchmark.extras import (
    at_chance,
    bootstrap_intervals,
    head_scores_or_reason,
    plain_control,
    raw_pixels,
    shuffled_labels_control,
)
from slidepipe.benchmark.fetch import fetch_images
from slidepipe.benchmark.leaderboard import Row
from slidepipe.benchmark.page import Material, benchmark_page, write_leaderboard_page
from slidepipe.benchmark.scores import Scores, evaluate
from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import fingerprint_folder
from slidepipe.config import Config
from slidepipe.errors import PluginError, SettingsError, SlidepipeError
from slidepipe.interfaces import UInt8Array
from slidepipe.pipeline.specs import crop_spec, embed_spec, head_spec
from slidepipe.store.files import write_json, write_text
from slidepipe.store.lock import locked

Protocol = Literal["published", "slidepipe", "both"]
Told = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The table as text, its rows, and how many backbones of this command have scores."""

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
    told: Told = lambda line: None,
) -> Outcome:
    """Score one backbone, or every installed one, and write the tables and reports.

    Args:
        config: its backbone (but for ``every``), head and run settings are used.
        out: ``metrics.json``, ``metrics.csv``, ``leaderboard.csv`` and ``report.html`` go here, and each backbone's own below
            ``runs/``; what earlier runs on the same images left there joins the table.
        data: a labelled image folder; None fetches the published one.
        protocol: which of the two protocols to score under.
        every: score all installed backbones; one that fails is a row with its reason.
        told: hears one line a step.

    Raises:
        SlidepipeError: bad data or settings; the backbone cannot be had or breaks its contract (with ``every``: all of them).
    """
    plugins.register_files(config.plugins)
    configs = list(_every_backbone(config)) if every else [config]
    if not every:
        embed_spec(config)  # wrong settings show before anything is fetched
    head_spec(config)
    with locked(out), Workers(config) as workers:
        images = _read_images(data, told)
        scored: list[dict[str, Any]] = []
        failed: list[Row] = []
        for one in configs:
            told(f"{one.backbone.name}: embedding {len(images.data.labels)} images (what is cached is used)")
            try:
                with threadpool_limits(1):  # so that no figure depends on how many cores add up its sums
                    metrics, material = score_backbone(images.data, images.thumbnails, one, protocol, workers)
            except SlidepipeError as error:
                if not every:
                    raise
                failed.append(leaderboard.row_of({"model": one.backbone.name, "error": str(error)}, "this run"))
                continue
            metrics["data"]["fingerprint"] = images.fingerprint
            scored.append(metrics)
            folder = out / "runs" / _slug(metrics)
            folder.mkdir(parents=True, exist_ok=True)
            rows = _rows(out, scored, failed, images.fingerprint)
            report = benchmark_page(metrics, material, rows)
            for place in [folder] if every else [folder, out]:
                write_json(place / "metrics.json", metrics)
                write_text(place / "metrics.csv", _long(metrics, header=True))
                write_text(place / "report.html", report)
        if not scored:
            raise PluginError(f"none of {len(failed)} backbones could be scored; the first: {failed[0].verdict}")
        rows = _rows(out, scored, failed, images.fingerprint)
        write_text(out / "leaderboard.csv", leaderboard.as_csv(rows))
        if every:
            write_json(out / "metrics.json", {"leaderboard": scored, "failed": [vars(row) for row in failed]})
            write_text(
                out / "metrics.csv", "".join(_long(metrics, number == 0) for number, metrics in enumerate(scored))
            )
            write_leaderboard_page(
                out / "report.html", rows, [(m["model"], f"runs/{_slug(m)}/report.html") for m in scored]
            )
    return Outcome(leaderboard.as_text(rows), tuple(rows), len(scored))


def score_backbone(
    data: BenchmarkData, thumbnails: UInt8Array, config: Config, protocol: Protocol, workers: Workers
) -> tuple[dict[str, Any], Material]:
    """All figures of one backbone, as ``metrics.json`` has them, and what the report shows beside them."""
    spec, crops, head = embed_spec(config), crop_spec(config), head_spec(config)
    splits = data.splits()
    kinds: list[Kind] = [kind for kind in ("published", "slidepipe") if protocol in (kind, "both")]
    embedded: dict[Kind, Embedded] = {}
    scores: dict[Kind, Scores] = {}
    for kind in kinds:
        found = embed_images(data.folder, spec, crops, kind, workers)
        if found is None:
            raise PluginError(f"backbone {config.backbone.name}: it embeds nothing")
        embedded[kind], scores[kind] = found, evaluate(found.reference.embeddings, data.labels, splits)
    first = kinds[0]
    controls: dict[str, Any] = {
        "protocol": first,
        "shuffled_labels": shuffled_labels_control(embedded[first].reference.embeddings, data.labels, splits),
        "raw_pixels": plain_control(raw_pixels(thumbnails), data.labels, splits),
        "random_weights": None,
    }
    if "published" in kinds:
        random = embed_images(data.folder, spec, crops, "random", workers)
        if random is not None:
            controls["random_weights"] = plain_control(random.reference.embeddings, data.labels, splits)
    published = scores["published"].summary if "published" in scores else {}
    metrics: dict[str, Any] = {
        "nn_f1": published.get("nn_f1"),
        "p_at_nr": published.get("p_at_nr"),
        "pr_auc": published.get("pr_auc"),
        "model": config.backbone.name,
        "weights_file": _weights_name(config),
        "weights_sha256": embedded[first].reference.weights_sha256,
        "slidepipe_version": __version__,
        "fingerprint": embedded[first].reference.fingerprint,
        "data": {
            "identity": data.identity,
            "images": len(data.labels),
            "classes": list(data.names),
            "split": "stratified" if data.slides is None else "leave-one-slide-out",
            "splits": [split.name for split in splits],
        },
        "protocols": kinds,
        **{key: value for key, value in published.items() if key not in ("nn_f1", "p_at_nr", "pr_auc")},
    }
    if "published" in scores:
        metrics["intervals"] = bootstrap_intervals(data.labels, scores["published"])
        metrics["confusion"] = scores["published"].confusion.tolist()
        metrics["preprocessing"] = describe_published(spec)
        metrics["cost"] = _cost(embedded["published"], len(data.labels))
    metrics["controls"] = controls
    metrics["at_chance"] = at_chance(scores[first].summary["nn_f1"], controls["shuffled_labels"])
    if "slidepipe" in scores:
        reference = embedded["slidepipe"].reference
        # On all images first: an alpha that is too fine for them is the user's to mend, not a row of the report.
        fit_head(plugins.create("head", head.name, json.loads(head.settings)), reference, config.head.alpha)
        metrics["slidepipe"] = {
            **scores["slidepipe"].summary,
            "views": spec.orientations,
            "isolate": spec.isolate,
            "beside": spec.companion.plugin.name if spec.companion else None,
            "intervals": bootstrap_intervals(data.labels, scores["slidepipe"]),
            "confusion": scores["slidepipe"].confusion.tolist(),
            "head": {
                "name": config.head.name,
                **head_scores_or_reason(reference, data.labels, data.names, splits, head, config.head.alpha),
            },
            "cost": _cost(embedded["slidepipe"], len(data.labels)),
        }
    metrics["verdict"] = leaderboard.verdict(metrics)
    return metrics, Material(data, thumbnails, scores[first], embedded[first].reference.embeddings)


def _read_images(data: Path | None, told: Told) -> _Images:
    if data is None:
        told("the published images: looking in the cache, fetching what is missing")
    found = read_data(fetch_images() if data is None else data)
    found.splits()  # too few images show before anything is embedded
    return _Images(found, read_thumbnails(found.folder), fingerprint_folder(found.folder, {"slides": found.slides}))


def _every_backbone(config: Config) -> Iterator[Config]:
    """A config for each installed backbone; one that needs an argument is taken as the config names it."""
    if config.backbone.weights is not None:
        raise SettingsError(
            "--all takes no --weights: a weight file is one backbone's. Give that backbone's name instead"
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
        return False  # it is broken: scoring it says how


def _weights_name(config: Config) -> str | None:
    given = config.backbone.weights or config.backbone.settings.get("weights")
    return Path(str(given)).name if given else None


def _cost(embedded: Embedded, images: int) -> dict[str, Any]:
    seconds = embedded.worker_seconds
    return {
        "device": embedded.device,
        "worker_seconds": seconds,
        "images_per_s_and_worker": round(images / seconds, 2) if seconds else None,
        "from_cache": embedded.cached,
    }


def _rows(out: Path, scored: Sequence[Mapping[str, Any]], failed: Sequence[Row], data: str) -> list[Row]:
    mine = {_slug(metrics) for metrics in scored}
    rows = [*(leaderboard.row_of(metrics, "this run") for metrics in scored), *failed]
    for path in sorted(out.glob("runs/*/metrics.json")):
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if path.parent.name not in mine and earlier["data"]["fingerprint"] == data:
                rows.append(leaderboard.row_of(earlier, "earlier run"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not one of ours, or cut short: it has no figures to show
    return leaderboard.ranked(rows)


def _slug(metrics: Mapping[str, Any]) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", str(metrics["model"])) + "-" + str(metrics["fingerprint"])[:8]


def _long(metrics: Mapping[str, Any], header: bool) -> str:
    """One row a figure: model, protocol, score (dotted), split (a seed or slide, or empty), value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(["model", "protocol", "score", "split", "value"])
    wanted = (
        "nn_f1",
        "p_at_nr",
        "pr_auc",
        "retrieval",
        "knn",
        "logistic",
        "class_wise_1nn",
        "intervals",
        "controls",
        "head",
    )
    splits = metrics["data"]["splits"]
    for protocol, part in (("published", metrics), ("slidepipe", metrics.get("slidepipe") or {})):
        for key in wanted:
            for name, split, value in _leaves(key, part.get(key), splits, metrics["data"]["classes"]):
                writer.writerow([metrics["model"], protocol, name, split, value])
    return file.getvalue()


def _leaves(name: str, value: Any, splits: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner, splits, classes)
    elif isinstance(value, list):
        keys: Sequence[str] = [str(index) for index in range(len(value))]
        if name.endswith(".seeds"):
            for split, inner in zip(splits, value, strict=True):
                yield name.removesuffix(".seeds"), split, inner
            return
        if name.startswith("class_wise"):
            keys = classes
        elif name.startswith("intervals"):
            keys = ("low", "high")
        for key, inner in zip(keys, value, strict=True):
            yield from _leaves(f"{name}.{key}", inner, splits, classes)
    elif value is not None:
        yield name, "", value
