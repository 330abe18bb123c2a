"""`report.html` of a benchmark: one self-contained page with its pictures and charts inside.

Each function collects the values of one section of `templates/report.html`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.data import BenchmarkData
from slidepipe.benchmark.drawing import Curve, draw_curves, draw_scatter
from slidepipe.benchmark.leaderboard import Row
from slidepipe.benchmark.scores import Scores, curve
from slidepipe.html import picture, render, taxon_name
from slidepipe.interfaces import Float32Array, FloatArray, UInt8Array
from slidepipe.store.files import write_text

_PACKAGE = "slidepipe.benchmark"
_GALLERY_ROWS, _GALLERY_COLUMNS = 10, 9
_DATA_NAMES = {
    "published": "the published benchmark",
    "relabelled": "the published images under other labels",
    "other": "an image folder of your own",
}


@dataclass(frozen=True)
class ReportData:
    """What the report shows in addition to the figures of `metrics.json`.

    Attributes:
        data: the labelled images.
        thumbnails: uint8 (N, 96, 96, 3), from `slidepipe.benchmark.data.read_thumbnails`.
        scores: the scores whose retrievals the galleries show.
        embeddings: float32 (N, D), the embeddings that the t-SNE map shows.
    """

    data: BenchmarkData
    thumbnails: UInt8Array
    scores: Scores
    embeddings: Float32Array


def benchmark_page(metrics: Mapping[str, Any], shown: ReportData, rows: Sequence[Row]) -> Markup:
    """Return the report of one backbone as HTML.

    Args:
        metrics: the figures, as in `metrics.json`.
        shown: images, scores and embeddings.
        rows: the rows of the table of backbones.
    """
    data, names = metrics["data"], metrics["data"]["classes"]
    first = _first_protocol(metrics)
    best_first = np.argsort(-shown.scores.precision_at_nk, kind="stable")
    return render(
        _PACKAGE,
        "report.html",
        title=f"{metrics['model']} on {_DATA_NAMES[data['identity']]}",
        verdict=metrics["verdict"],
        at_chance=metrics["at_chance"],
        images=data["images"],
        classes=names,
        split="ten stratified splits of 80 % and 20 %"
        if data["split"] == "stratified"
        else f"leave-one-slide-out over {len(data['splits'])} slides (groups.csv); retrieval uses all images",
        protocol="published" if first is metrics else "slidepipe",
        protocols=_protocols(metrics),
        leaderboard=_leaderboard(rows),
        controls=_controls(metrics),
        classification=_classification(first),
        retrieval=_retrieval(metrics),
        genera=_genera(first, names),
        confusion=_confusion(first["confusion"], names),
        head=_head(metrics["slidepipe"]["head"]) if "slidepipe" in metrics else None,
        best=_gallery(shown, best_first[:_GALLERY_ROWS].tolist()),
        worst=_gallery(shown, best_first[::-1][:_GALLERY_ROWS].tolist()),
        scatter=draw_scatter(tsne(shown.embeddings), shown.data.labels, shown.data.names, shown.data.folder.files),
        provenance=_provenance(metrics),
    )


def write_leaderboard_page(path: Path, rows: Sequence[Row], reports: Sequence[tuple[str, str]]) -> None:
    """Write the page of `--all`: the table of backbones, and links to the report of each.

    Args:
        path: the file to write.
        rows: the rows of the table.
        reports: name of each backbone, and the path of its report relative to `path`.
    """
    write_text(path, render(_PACKAGE, "leaderboard.html", leaderboard=_leaderboard(rows), reports=reports))


def tsne(embeddings: Float32Array) -> FloatArray:
    """Return the t-SNE map of embeddings, the same on every run.

    Args:
        embeddings: float32 (N, D).

    Returns:
        float64 (N, 2).
    """
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    # One thread only: several threads sum in varying order, which moves the points.
    with threadpool_limits(1):
        placed = TSNE(2, perplexity=perplexity, init="random", random_state=0).fit_transform(embeddings)
    return np.asarray(placed, np.float64)


def _first_protocol(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of the published protocol, or those of slidepipe's protocol if only that was scored."""
    first: Mapping[str, Any] = metrics if "published" in metrics["protocols"] else metrics["slidepipe"]
    return first


def _protocols(metrics: Mapping[str, Any]) -> list[list[str]]:
    published = metrics if "published" in metrics["protocols"] else {}
    slidepipe = metrics.get("slidepipe") or {}
    head = slidepipe.get("head", {})
    held_out = head.get("held_out", {})

    def pair(name: str, key: str) -> list[str]:
        cells = [name]
        for part in (published, slidepipe):
            interval = part.get("intervals", {}).get(key)
            cells.append(_number(part.get(key)) + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""))
        return cells

    return [
        ["preprocessing", published.get("preprocessing", ""), "the backbone's own, as in a run"],
        ["orientations averaged", "1", str(slidepipe.get("views", ""))],
        ["object isolated on an even background", "no", "yes" if slidepipe.get("isolate") else "no"],
        ["companion backbone", "", str(slidepipe.get("beside") or "")],
        pair("nn f1 (95 % interval)", "nn_f1"),
        pair("p@n_k (95 % interval)", "p_at_nr"),
        pair("area under the precision-recall curve", "pr_auc"),
        ["head", "1-NN, always answers", str(head.get("name", ""))],
        ["macro F1 of the head if it must answer", "", _number(held_out.get("macro_f1_forced"))],
        ["fraction of images answered (coverage)", "", _number(held_out.get("coverage"))],
        ["fraction of answers that are right (precision)", "", _number(held_out.get("precision"))],
    ]


def _leaderboard(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "header": leaderboard.HEADER,
        "rows": [leaderboard.cells(row) for row in rows],
        "marked": [number for number, row in enumerate(rows) if row.origin == "this run"],
    }


def _controls(metrics: Mapping[str, Any]) -> dict[str, Any]:
    controls = metrics["controls"]
    first = metrics if controls["protocol"] == "published" else metrics["slidepipe"]
    shuffled, random, pixels = controls["shuffled_labels"], controls["random_weights"], controls["raw_pixels"]
    rows = [
        ["this backbone", _number(first["nn_f1"]), _number(first["p_at_nr"]), ""],
        [
            f"labels shuffled ({shuffled['shuffles']} times)",
            _number(shuffled["nn_f1"]),
            _number(shuffled["p_at_nr"]),
            "chance level: a higher value would show a leak in the evaluation",
        ],
        ["16 x 16 raw pixels", _number(pixels["nn_f1"]), _number(pixels["p_at_nr"]), "needs no backbone"],
    ]
    if random is not None:
        meaning = "the same network before any training"
        rows.append(["random weights", _number(random["nn_f1"]), _number(random["p_at_nr"]), meaning])
    else:
        rows.append(["random weights", "", "", "not measured: no torch network, or not under the published protocol"])
    is_sound = False
    if metrics["at_chance"]:
        conclusion = (
            "nn f1 is at chance level: shuffled labels give the same. The labels do not belong to the images, "
            "or the embeddings are broken."
        )
    elif random is not None and first["nn_f1"] <= random["nn_f1"] + 0.02:
        conclusion = "These weights are no better than random ones. Check the weight file and the preprocessing."
    elif first["nn_f1"] <= pixels["nn_f1"]:
        conclusion = "Raw pixels are as good as this backbone: it adds nothing here."
    else:
        conclusion = "nn f1 is well above chance level and above the controls that need no training."
        is_sound = True
    return {"rows": rows, "conclusion": conclusion, "is_sound": is_sound}


def _classification(scores: Mapping[str, Any]) -> dict[str, Any]:
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "mean_precision": "macro precision"}
    rows = [
        [f"{count}-NN", *(_mean(part, key) for key in names), _mean(part, "f1_score"), ""]
        for count, part in scores["knn"].items()
    ]
    logistic = scores["logistic"]
    log_loss = _number(logistic["log_loss"]["mean"])
    rows.append(["logistic, balanced", *(_mean(logistic, key) for key in names), "", log_loss])
    return {"header": ["mean (lowest to highest split)", *names.values(), "macro F1", "log loss"], "rows": rows}


def _retrieval(metrics: Mapping[str, Any]) -> dict[str, Any]:
    curves = []
    for name in metrics["protocols"]:
        part = metrics if name == "published" else metrics["slidepipe"]
        curves.append(Curve(f"{name} protocol, area {part['pr_auc']:.3f}", *curve(part["retrieval"])))
    retrieval = _first_protocol(metrics)["retrieval"]
    precision, recall = retrieval["precision"], retrieval["recall"]
    rows = [
        ["n_k" if depth == "k" else depth, _number(precision[depth]), _number(recall[depth])] for depth in precision
    ]
    return {"chart": draw_curves(curves, "recall", "precision"), "rows": rows}


def _genera(scores: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    part = scores["class_wise_1nn"]
    return [
        [name, *(_number(part[key][index]) for key in ("recall", "precision", "f1_score"))]
        for index, name in enumerate(names)
    ]


def _confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per true genus: the counts, each with its fraction of the row."""
    return [
        {"name": name, "cells": [(count, count / max(sum(row), 1)) for count in row]}
        for name, row in zip(names, matrix, strict=True)
    ]


def _head(head: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in head:
        return {"error": head["error"]}
    points = [point for point in head["curve"] if point["precision"] is not None]
    curves = [Curve("known genera only", [p["coverage"] for p in points], [p["precision"] for p in points])]
    half = [point for point in points if point["precision_half_hidden"] is not None]
    if half:
        precision = [p["precision_half_hidden"] for p in half]
        curves.append(Curve("half of the images of a hidden genus", [p["coverage"] for p in half], precision))
    reliability = head["reliability"]
    measured = Curve("measured", [p["alpha"] for p in reliability], [p["share"] for p in reliability])
    left_out = head["leave_one_genus_out"]
    return {
        "error": "",
        "name": head["name"],
        "alpha": head["alpha"],
        "coverage": f"{head['held_out']['coverage']:.0%}",
        "absorbed": "an unknown fraction" if left_out["absorbed"] is None else f"{left_out['absorbed']:.0%}",
        "coverage_chart": draw_curves(curves, "coverage", "precision"),
        "reliability_chart": draw_curves(
            [measured], "alpha", "fraction of known fossils with p at most alpha", diagonal=True
        ),
        "rows": [
            [
                genus,
                str(part["images"]),
                f"{part['absorbed']:.0%}",
                ", ".join(f"{taxon_name(into)} {count}" for into, count in list(part["into"].items())[:4]),
            ]
            for genus, part in sorted(left_out["genera"].items(), key=lambda item: -item[1]["absorbed"])
        ],
    }


def _gallery(shown: ReportData, queries: Sequence[int]) -> list[list[dict[str, str]]]:
    """Return one row per query: the query image and the images that are nearest to it."""
    labels, names = shown.data.labels, shown.data.names

    def cell(row: int, kind: str, note: str = "") -> dict[str, str]:
        return {
            "kind": kind,
            "picture": picture(shown.thumbnails[row]),
            "genus": names[labels[row]],
            "file": shown.data.folder.files[row],
            "note": note,
        }

    return [
        [
            cell(query, "query", f"p@n_k {shown.scores.precision_at_nk[query]:.2f}"),
            *(
                cell(row, "right" if labels[row] == labels[query] else "wrong")
                for row in shown.scores.retrieved[query][:_GALLERY_COLUMNS].tolist()
            ),
        ]
        for query in queries
    ]


def _provenance(metrics: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["backbone", metrics["model"]],
        ["weights", metrics["weights_file"] or "the backbone's own"],
        ["sha256 of the weights", metrics["weights_sha256"] or "not reported by the backbone"],
        ["slidepipe", metrics["slidepipe_version"]],
        ["fingerprint of the embeddings", metrics["fingerprint"]],
    ]
    for name in metrics["protocols"]:
        cost = (metrics if name == "published" else metrics["slidepipe"])["cost"]
        speed = cost["images_per_s_and_worker"]
        time = (
            "time not recorded in the cache"
            if speed is None
            else f"{speed:g} images per second and worker ({cost['worker_seconds']:g} s in all)"
        )
        source = ", from the cache" if cost["from_cache"] else ""
        rows.append([f"embedding, {name} protocol", f"{time}, on {cost['device']}{source}"])
    return rows


def _mean(part: Mapping[str, Any], key: str) -> str:
    seeds = [value for value in part[key]["seeds"] if value is not None]
    return f"{_number(part[key]['mean'])} ({min(seeds):.2f} to {max(seeds):.2f})" if seeds else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
