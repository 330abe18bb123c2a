"""All figures of one backbone: the scores under each protocol, the controls, and the head."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slidepipe import __version__, plugins
from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.controls import at_chance, plain_control, raw_pixels, shuffled_labels_control
from slidepipe.benchmark.data import BenchmarkData
from slidepipe.benchmark.embedding import Embedded, Kind, Workers, describe_published, embed_images
from slidepipe.benchmark.head_scores import head_scores_or_error
from slidepipe.benchmark.intervals import bootstrap_intervals
from slidepipe.benchmark.page import ReportData
from slidepipe.benchmark.scores import Scores, Split, evaluate
from slidepipe.classification.fit import fit_head
from slidepipe.config import Config
from slidepipe.errors import PluginError
from slidepipe.interfaces import UInt8Array
from slidepipe.pipeline.specs import EmbedSpec, crop_spec, embed_spec, head_spec

Protocol = Literal["published", "slidepipe", "both"]


@dataclass(frozen=True)
class _Scored:
    """The embeddings of one protocol, and their scores."""

    embedded: Embedded
    scores: Scores


def score_backbone(
    data: BenchmarkData, thumbnails: UInt8Array, config: Config, protocol: Protocol, workers: Workers
) -> tuple[dict[str, Any], ReportData]:
    """Score one backbone.

    Args:
        data: the labelled images.
        thumbnails: uint8 (N, 96, 96, 3), from `slidepipe.benchmark.data.read_thumbnails`.
        config: the settings, with the backbone and the head.
        protocol: the protocol to score under.
        workers: the workers that embed.

    Returns:
        The figures, as in `metrics.json`, without the fingerprint of the images; and what the report shows in addition.

    Raises:
        SlidepipeError: the backbone or the head fails, or their settings are wrong.
    """
    spec, splits = embed_spec(config), data.splits()
    kinds: list[Kind] = [kind for kind in ("published", "slidepipe") if protocol in (kind, "both")]
    scored: dict[Kind, _Scored] = {}
    for kind in kinds:
        embedded = embed_images(data.folder, spec, crop_spec(config), kind, workers)
        if embedded is None:
            raise PluginError(f"backbone {config.backbone.name}: it gives no embeddings")
        scored[kind] = _Scored(embedded, evaluate(embedded.reference.embeddings, data.labels, splits))
    first = scored[kinds[0]]
    controls = _controls(data, thumbnails, config, splits, kinds, first, workers)
    metrics = _published_figures(data, config, splits, kinds, first, scored.get("published"), spec)
    metrics["controls"] = controls
    metrics["at_chance"] = at_chance(first.scores.summary["nn_f1"], controls["shuffled_labels"])
    if "slidepipe" in scored:
        metrics["slidepipe"] = _slidepipe_figures(data, config, splits, scored["slidepipe"], spec)
    metrics["verdict"] = leaderboard.verdict(metrics)
    return metrics, ReportData(data, thumbnails, first.scores, first.embedded.reference.embeddings)


def _published_figures(
    data: BenchmarkData,
    config: Config,
    splits: tuple[Split, ...],
    kinds: list[Kind],
    first: _Scored,
    published: _Scored | None,
    spec: EmbedSpec,
) -> dict[str, Any]:
    """Return the top level of `metrics.json`: the backbone, the images, and the figures of the published protocol."""
    summary = published.scores.summary if published is not None else {}
    metrics: dict[str, Any] = {
        "nn_f1": summary.get("nn_f1"),
        "p_at_nr": summary.get("p_at_nr"),
        "pr_auc": summary.get("pr_auc"),
        "model": config.backbone.name,
        "weights_file": _weights_name(config),
        "weights_sha256": first.embedded.reference.weights_sha256,
        "slidepipe_version": __version__,
        "fingerprint": first.embedded.reference.fingerprint,
        "data": {
            "identity": data.identity,
            "images": len(data.labels),
            "classes": list(data.names),
            "split": "stratified" if data.slides is None else "leave-one-slide-out",
            "splits": [split.name for split in splits],
        },
        "protocols": kinds,
        **{key: value for key, value in summary.items() if key not in ("nn_f1", "p_at_nr", "pr_auc")},
    }
    if published is not None:
        metrics["intervals"] = bootstrap_intervals(data.labels, published.scores)
        metrics["confusion"] = published.scores.confusion.tolist()
        metrics["preprocessing"] = describe_published(spec)
        metrics["cost"] = _cost(published.embedded, len(data.labels))
    return metrics


def _controls(
    data: BenchmarkData,
    thumbnails: UInt8Array,
    config: Config,
    splits: tuple[Split, ...],
    kinds: list[Kind],
    first: _Scored,
    workers: Workers,
) -> dict[str, Any]:
    controls: dict[str, Any] = {
        "protocol": kinds[0],
        "shuffled_labels": shuffled_labels_control(first.embedded.reference.embeddings, data.labels, splits),
        "raw_pixels": plain_control(raw_pixels(thumbnails), data.labels, splits),
        "random_weights": None,
    }
    if "published" in kinds:
        random = embed_images(data.folder, embed_spec(config), crop_spec(config), "random", workers)
        if random is not None:
            controls["random_weights"] = plain_control(random.reference.embeddings, data.labels, splits)
    return controls


def _slidepipe_figures(
    data: BenchmarkData, config: Config, splits: tuple[Split, ...], scored: _Scored, spec: EmbedSpec
) -> dict[str, Any]:
    """Return the part `slidepipe` of `metrics.json`: the figures of slidepipe's own protocol."""
    head, reference = head_spec(config), scored.embedded.reference
    # The head is fitted to all images first. If alpha is too small for them, that is an error of the settings and ends
    # the command; the same error in a part of the images is only noted in the report.
    fit_head(plugins.create("head", head.name, json.loads(head.settings)), reference, config.head.alpha)
    return {
        **scored.scores.summary,
        # The keys of metrics.json keep their names, because users have scripts that read them: "views" is the number
        # of orientations, "beside" the companion backbone.
        "views": spec.orientations,
        "isolate": spec.isolate,
        "beside": spec.companion.plugin.name if spec.companion else None,
        "intervals": bootstrap_intervals(data.labels, scored.scores),
        "confusion": scored.scores.confusion.tolist(),
        "head": {
            "name": config.head.name,
            **head_scores_or_error(reference, data.labels, data.names, splits, head, config.head.alpha),
        },
        "cost": _cost(scored.embedded, len(data.labels)),
    }


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
