"""``report.html`` of a benchmark: one self-contained page, pictures and charts inside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.data import BenchmarkData
from slidepipe.benchmark.drawing import scatter, unit_chart
from slidepipe.benchmark.leaderboard import Row
from slidepipe.benchmark.scores import Scores, curve
from slidepipe.interfaces import Float32Array, FloatArray, UInt8Array
from slidepipe.report.html import page, picture, table
from slidepipe.store.files import write_text

_GALLERY_ROWS, _GALLERY_COLUMNS = 10, 9

_STYLE = """
.verdict { border-left: 4px solid var(--mark); background: var(--tint); padding: 10px 14px; font-size: 1.05rem; max-width: none; }
.bad { border-color: #b3261e; background: #fdecea; }
h1, .verdict { overflow-wrap: anywhere; } .board th { white-space: normal; }
.board td:first-child, .board td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 18ch; }
.gallery { border-collapse: separate; border-spacing: 3px; } .gallery td { padding: 0; border: 0; vertical-align: top; }
.gallery img { width: 72px; height: 72px; display: block; border: 3px solid #b3261e; border-radius: 3px; }
.gallery .right img { border-color: #4c7a34; } .gallery .query img { border-color: #1c2126; }
.gallery small { display: block; width: 72px; overflow: hidden; text-overflow: ellipsis; font-size: 10px; line-height: 1.3; }
.confusion td, .confusion th { padding: 1px 5px; font-size: 11px; text-align: right; border: 1px solid #fff; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 5px 1px; }
"""


@dataclass(frozen=True)
class Material:
    """What the report shows beside the figures: images, and the scores and embeddings that galleries and t-SNE are of."""

    data: BenchmarkData
    thumbnails: UInt8Array
    scores: Scores
    embeddings: Float32Array


def benchmark_page(metrics: Mapping[str, Any], material: Material, rows: Sequence[Row]) -> str:
    """The report of one backbone as HTML."""
    title = f"{metrics['model']} on {_data_name(metrics)}"
    return page(title, "\n".join(_sections(title, metrics, material, rows)), _STYLE)


def write_leaderboard_page(path: Path, rows: Sequence[Row], reports: Sequence[tuple[str, str]]) -> None:
    """Write the page of ``--all``: the table and where each backbone's own report is."""
    links = "".join(f'<li><a href="{escape(target)}">{escape(name)}</a></li>' for name, target in reports)
    body = f"<h1>Backbones on the benchmark</h1>{_leaderboard(rows)}<h2>Report of each</h2><ul>{links}</ul>"
    write_text(path, page("Backbones on the benchmark", body, _STYLE))


def tsne(embeddings: Float32Array) -> FloatArray:
    """float64 (N, 2): t-SNE of the embeddings, the same on every run."""
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    with threadpool_limits(1):  # more threads add up in another order, which moves the points
        placed = TSNE(2, perplexity=perplexity, init="random", random_state=0).fit_transform(embeddings)
    return np.asarray(placed, np.float64)


def _sections(title: str, metrics: Mapping[str, Any], material: Material, rows: Sequence[Row]) -> Iterator[str]:
    data = metrics["data"]
    bad = " bad" if metrics["at_chance"] else ""
    split = (
        "ten stratified 80/20 splits"
        if data["split"] == "stratified"
        else f"leave-one-slide-out over {len(data['splits'])} slides (groups.csv); retrieval still asks all images"
    )
    yield f"<h1>{escape(title)}</h1><p class='verdict{bad}'>{escape(metrics['verdict'])}.</p>"
    yield f"<p class=muted>{data['images']} images, {len(data['classes'])} genera; {escape(split)}.</p>"
    yield "<h2>Two protocols, not to be mistaken for each other</h2>" + _protocols(metrics)
    yield "<h2>Among the published backbones</h2>" + _leaderboard(rows)
    yield "<h2>Is the evaluation sound?</h2>" + _controls(metrics)
    first = metrics if "published" in metrics["protocols"] else metrics["slidepipe"]
    of = f"<p class=muted>Under the {'published' if first is metrics else 'slidepipe'} protocol.</p>"
    yield f"<h2>Classification</h2>{of}" + _classification(first)
    yield "<h2>Retrieval</h2>" + _retrieval(metrics)
    yield f"<h2>Genus by genus</h2>{of}" + _genera(first, data["classes"])
    yield f"<h2>Confusion of the logistic regression</h2>{of}" + _confusion(first["confusion"], data["classes"])
    if "slidepipe" in metrics:
        yield "<h2>The head that may say unknown</h2>" + _head(metrics["slidepipe"]["head"])
    yield f"<h2>Retrievals</h2>{of}" + _galleries(material)
    yield "<h2>The embeddings at a glance</h2><p class=muted>t-SNE: what lies near is alike; distances far off mean nothing.</p>"
    places = tsne(material.embeddings)
    yield f"<div class=wide>{scatter(places, material.data.labels, material.data.names, material.data.folder.files)}</div>"
    yield "<h2>How this was made</h2>" + _provenance(metrics)


def _data_name(metrics: Mapping[str, Any]) -> str:
    return {
        "published": "the published benchmark",
        "relabelled": "the published images under other labels",
        "other": "an image folder of your own",
    }[metrics["data"]["identity"]]


def _protocols(metrics: Mapping[str, Any]) -> str:
    slidepipe = metrics.get("slidepipe")
    head = (slidepipe or {}).get("head", {})
    held_out = head.get("held_out", {})
    published = metrics if "published" in metrics["protocols"] else {}

    def pair(name: str, key: str) -> list[str]:
        cells = [name]
        for part in (published, slidepipe or {}):
            interval = part.get("intervals", {}).get(key)
            cells.append(_number(part.get(key)) + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""))
        return cells

    rows = [
        ["preprocessing", published.get("preprocessing", ""), "the backbone's own, as in a run"],
        ["views averaged", "1", str((slidepipe or {}).get("views", ""))],
        ["the object alone, on an even background", "no", "yes" if (slidepipe or {}).get("isolate") else "no"],
        ["joined by the embeddings of", "", str((slidepipe or {}).get("beside") or "")],
        pair("nn f1 (95 % interval)", "nn_f1"),
        pair("p@n_k (95 % interval)", "p_at_nr"),
        pair("area under precision-recall", "pr_auc"),
        ["head", "1-NN, always answers", str(head.get("name", ""))],
        ["macro F1 of the head, forced to answer", "", _number(held_out.get("macro_f1_forced"))],
        ["answered at all (coverage)", "", _number(held_out.get("coverage"))],
        ["right among the answers", "", _number(held_out.get("precision"))],
    ]
    told = (
        "<p class=muted>The published columns of other papers compare with the left column only. Intervals: bootstrap over "
        "images, so they speak of other images of these slides, not of other wells.</p>"
    )
    return table(["", "published protocol", "slidepipe's protocol"], rows) + told


def _leaderboard(rows: Sequence[Row]) -> str:
    marked = [number for number, row in enumerate(rows) if row.origin == "this run"]
    board = table(leaderboard.HEADER, [leaderboard.cells(row) for row in rows], range(3, 7), marked)
    return f"<div class=board>{board}</div>"


def _controls(metrics: Mapping[str, Any]) -> str:
    controls = metrics["controls"]
    first = metrics if controls["protocol"] == "published" else metrics["slidepipe"]
    shuffled, random, pixels = controls["shuffled_labels"], controls["random_weights"], controls["raw_pixels"]
    rows = [
        ["this backbone", _number(first["nn_f1"]), _number(first["p_at_nr"]), ""],
        [
            f"labels shuffled ({shuffled['shuffles']} times)",
            _number(shuffled["nn_f1"]),
            _number(shuffled["p_at_nr"]),
            "chance: anything above it here would show a leak",
        ],
        ["16 x 16 raw pixels", _number(pixels["nn_f1"]), _number(pixels["p_at_nr"]), "what needs no backbone"],
    ]
    if random is not None:
        what = "the same network that has learned nothing"
        rows.append(["random weights", _number(random["nn_f1"]), _number(random["p_at_nr"]), what])
    else:
        rows.append(["random weights", "", "", "not made: no torch network, or not under the published protocol"])
    if metrics["at_chance"]:
        said = (
            "nn f1 is at chance: it is what shuffled labels give. Labels and images do not belong together, "
            "or the embeddings are broken."
        )
    elif random is not None and first["nn_f1"] <= random["nn_f1"] + 0.02:
        said = "These weights do no better than random ones: check the weight file and the preprocessing."
    elif first["nn_f1"] <= pixels["nn_f1"]:
        said = "Raw pixels do as well as this backbone: it adds nothing here."
    else:
        said = "nn f1 is clear of chance and of what needs no learning."
    bad = " bad" if not said.startswith("nn f1 is clear") else ""
    return f"<p class='verdict{bad}'>{said}</p>" + table(["control", "nn f1", "p@n_k", ""], rows, (1, 2))


def _classification(scores: Mapping[str, Any]) -> str:
    names = (("accuracy",) * 2, ("balanced_accuracy", "balanced accuracy"), ("mean_precision", "macro precision"))
    rows = [
        [f"{count}-NN", *(_mean(part, key) for key, _ in names), _mean(part, "f1_score"), ""]
        for count, part in scores["knn"].items()
    ]
    logistic = scores["logistic"]
    rows.append(
        ["logistic, balanced", *(_mean(logistic, key) for key, _ in names), "", _number(logistic["log_loss"]["mean"])]
    )
    header = ["mean (lowest to highest split)", *(name for _, name in names), "macro F1", "log loss"]
    return table(header, rows, range(1, 6))


def _retrieval(metrics: Mapping[str, Any]) -> str:
    curves = []
    for name in metrics["protocols"]:
        part = metrics if name == "published" else metrics["slidepipe"]
        curves.append((f"{name} protocol, area {part['pr_auc']:.3f}", *curve(part["retrieval"])))
    first = metrics if "published" in metrics["protocols"] else metrics["slidepipe"]
    precision, recall = first["retrieval"]["precision"], first["retrieval"]["recall"]
    rows = [
        ["n_k" if depth == "k" else depth, _number(precision[depth]), _number(recall[depth])] for depth in precision
    ]
    chart = unit_chart(curves, "recall", "precision")
    return f"<div class=pair><div>{chart}</div><div>{table(['retrieved', 'precision', 'recall'], rows, (0, 1, 2))}</div></div>"


def _genera(scores: Mapping[str, Any], names: Sequence[str]) -> str:
    part = scores["class_wise_1nn"]
    rows = [
        [name, *(_number(part[key][index]) for key in ("recall", "precision", "f1_score"))]
        for index, name in enumerate(names)
    ]
    return table(["genus", "recall", "precision", "F1 of 1-NN"], rows, (1, 2, 3))


def _confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for name, row in zip(names, matrix, strict=True):
        most = max(sum(row), 1)
        cells = "".join(
            f'<td style="background:rgba(11,110,153,{count / most:.2f});color:{"#fff" if count / most > 0.5 else "#1c2126"}">'
            f"{count or ''}</td>"
            for count in row
        )
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    told = "<p class=muted>True genus in rows, what it was taken for in columns, all splits together.</p>"
    return f"{told}<div class=wide><table class=confusion><thead><tr><th></th>{head}</tr></thead>{''.join(lines)}</table></div>"


def _head(head: Mapping[str, Any]) -> str:
    if "error" in head:
        return f"<p class='verdict bad'>Not measured: {escape(head['error'])}</p>"
    lone = head["leave_one_genus_out"]
    points = [point for point in head["curve"] if point["precision"] is not None]
    curves = [
        ("known genera only", [p["coverage"] for p in points], [p["precision"] for p in points]),
    ]
    half = [point for point in points if point["precision_half_hidden"] is not None]
    if half:
        curves.append(
            (
                "half of them of a hidden genus",
                [p["coverage"] for p in half],
                [p["precision_half_hidden"] for p in half],
            )
        )
    reliability = head["reliability"]
    share = [("measured", [p["alpha"] for p in reliability], [p["share"] for p in reliability])]
    absorbed = "not told" if lone["absorbed"] is None else f"{lone['absorbed']:.0%}"
    rows = [
        [
            genus,
            str(part["images"]),
            f"{part['absorbed']:.0%}",
            ", ".join(f"{into} {count}" for into, count in list(part["into"].items())[:4]),
        ]
        for genus, part in sorted(lone["genera"].items(), key=lambda item: -item[1]["absorbed"])
    ]
    return (
        f"<p>Head {escape(head['name'])} at alpha {head['alpha']:g}: {head['held_out']['coverage']:.0%} of held-out fossils are "
        f"accepted. Of a genus that the reference set lacks, {absorbed} are absorbed into others.</p>"
        f"<div class=pair><div><h3>Coverage against precision</h3>{unit_chart(curves, 'coverage', 'precision')}</div>"
        "<div><h3>Reliability of the p-values</h3>"
        f"{unit_chart(share, 'alpha', 'share of known fossils with p at most alpha', diagonal=True)}"
        "<p class=muted>On or below the dashed line the promise holds: no more than alpha of the fossils is left unknown.</p>"
        "</div></div><h3>Each genus left out of the reference set in turn</h3>"
        + table(["hidden genus", "images", "absorbed", "into"], rows, (1, 2))
    )


def _galleries(material: Material) -> str:
    quality = material.scores.precision_at_nk
    order = np.argsort(-quality, kind="stable")
    legend = "<p class=muted>The image asked about (black), its nearest others: right (green) or wrong (red).</p>"
    best, worst = order[:_GALLERY_ROWS], order[::-1][:_GALLERY_ROWS]
    return (
        f"{legend}<h3>The ten best</h3>{_gallery(material, best.tolist())}"
        f"<h3>The ten worst</h3>{_gallery(material, worst.tolist())}"
    )


def _gallery(material: Material, queries: Sequence[int]) -> str:
    labels, names = material.data.labels, material.data.names

    def cell(row: int, kind: str, extra: str) -> str:
        name = names[labels[row]]
        title = escape(material.data.folder.files[row])
        return (
            f'<td class="{kind}"><img src="{picture(material.thumbnails[row])}" alt="{escape(name)}" title="{title}">'
            f"<small>{escape(name)}</small><small>{extra}</small></td>"
        )

    lines = []
    for query in queries:
        cells = [cell(query, "query", f"p@n_k {material.scores.precision_at_nk[query]:.2f}")]
        for row in material.scores.retrieved[query][:_GALLERY_COLUMNS].tolist():
            cells.append(cell(row, "right" if labels[row] == labels[query] else "wrong", ""))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class=wide><table class=gallery>{''.join(lines)}</table></div>"


def _provenance(metrics: Mapping[str, Any]) -> str:
    rows = [
        ["backbone", metrics["model"]],
        ["weights", metrics["weights_file"] or "the backbone's own"],
        ["sha256 of the weights", metrics["weights_sha256"] or "none told"],
        ["slidepipe", metrics["slidepipe_version"]],
        ["fingerprint of the embeddings", metrics["fingerprint"]],
    ]
    for name in metrics["protocols"]:
        cost = (metrics if name == "published" else metrics["slidepipe"])["cost"]
        speed = cost["images_per_s_and_worker"]
        seconds = (
            "not told by the cache"
            if speed is None
            else f"{speed:g} images/s a worker ({cost['worker_seconds']:g} s in all)"
        )
        rows.append(
            [
                f"embedding, {name} protocol",
                f"{seconds}, on {cost['device']}{', from cache' if cost['from_cache'] else ''}",
            ]
        )
    return table(["", ""], rows)


def _mean(part: Mapping[str, Any], key: str) -> str:
    seeds = [value for value in part[key]["seeds"] if value is not None]
    return f"{_number(part[key]['mean'])} ({min(seeds):.2f} to {max(seeds):.2f})" if seeds else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
