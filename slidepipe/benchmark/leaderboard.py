"""The table of backbones: the published rows, the rows of this and earlier runs, and the verdict on a backbone."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Published figures are rounded to 0.01. The additional 0.001 covers floating-point noise.
ROUNDING = 0.005 + 0.001


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of the backbone, with the weight file if one was given.
        origin: "published", "this run" or "earlier run".
        params: number of parameters, for example "21M"; empty if it is not known.
        nn_f1: macro F1 of 1-NN under the published protocol; None if it was not scored.
        p_at_nr: precision at n_k under the published protocol.
        pr_auc: area under the precision-recall curve under the published protocol.
        nn_f1_slidepipe: macro F1 of 1-NN under slidepipe's protocol.
        verdict: one sentence on the backbone, or the error message if it failed.
    """

    name: str
    origin: str
    params: str = ""
    nn_f1: float | None = None
    p_at_nr: float | None = None
    pr_auc: float | None = None
    nn_f1_slidepipe: float | None = None
    verdict: str = ""


#: Name, parameters, nn f1 and p@n_k, from the table of the benchmark's authors (github.com/equinor/scampi-benchmark).
PUBLISHED = (
    Row("SCAMPI ViT-S/16", "published", "21M", 0.91, 0.60),
    Row("SCAMPI ViT-B/16", "published", "85M", 0.90, 0.60),
    Row("DINO ViT-S/16", "published", "21M", 0.78, 0.44),
    Row("DINO ViT-S/8", "published", "21M", 0.84, 0.46),
    Row("DINO ViT-B/16", "published", "85M", 0.81, 0.47),
    Row("DINO ViT-B/8", "published", "85M", 0.82, 0.45),
)

#: The published row of each backbone whose network is one of the published ones.
_OWN_ROW = {
    "scampi-vits16": "SCAMPI ViT-S/16",
    "scampi-vitb16": "SCAMPI ViT-B/16",
    "dino-vits16": "DINO ViT-S/16",
    "dino-vits8": "DINO ViT-S/8",
    "dino-vitb16": "DINO ViT-B/16",
    "dino-vitb8": "DINO ViT-B/8",
    "timm:vit_small_patch16_224.dino": "DINO ViT-S/16",
    "timm:vit_small_patch8_224.dino": "DINO ViT-S/8",
    "timm:vit_base_patch16_224.dino": "DINO ViT-B/16",
    "timm:vit_base_patch8_224.dino": "DINO ViT-B/8",
}


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return one sentence on a backbone: at chance level, not comparable, or how it compares with a published row.

    A published backbone is compared with its own row, any other backbone with the row whose nn f1 is nearest.

    Args:
        metrics: the figures, as in `metrics.json`.
    """
    if metrics.get("at_chance"):
        return (
            f"at chance level: nn f1 {metrics['nn_f1']:.3f} is no better than with shuffled labels "
            f"({metrics['controls']['shuffled_labels']['nn_f1']:.3f}). The labels or the embeddings are broken"
        )
    if metrics.get("nn_f1") is None:
        return "not scored under the published protocol: not comparable with the published rows"
    if metrics["data"]["identity"] != "published" or metrics["data"]["split"] != "stratified":
        return "not comparable with the published rows: other images, labels or splits"
    own = _OWN_ROW.get(metrics["model"])
    if own is not None:
        row = next(row for row in PUBLISHED if row.name == own)
    else:
        row = min(PUBLISHED, key=lambda row: abs((row.nn_f1 or 0) - metrics["nn_f1"]))
    words = [
        f"{label} {_compare(metrics[key], getattr(row, key), metrics['intervals'][key], own is not None)}"
        for key, label in (("nn_f1", "nn f1"), ("p_at_nr", "p@n_k"))
    ]
    against = f"its published row {row.name}" if own is not None else f"the nearest published row, {row.name}"
    return f"against {against}: {', '.join(words)}"


def _compare(value: float, published: float, interval: Sequence[float], own: bool) -> str:
    gap = value - published
    if abs(gap) <= ROUNDING:
        return f"{'reproduces' if own else 'level with'} {published:.2f} ({gap:+.3f}, rounding)"
    if interval[0] - ROUNDING <= published <= interval[1] + ROUNDING:
        return f"{'reproduces' if own else 'level with'} {published:.2f} ({gap:+.3f}, within the 95 % interval)"
    return f"{'better' if gap > 0 else 'worse'} by {abs(gap):.3f}"


def row_of(metrics: Mapping[str, Any], origin: str) -> Row:
    """Return the row of a backbone.

    Args:
        metrics: the figures, as in `metrics.json`; or `model` and `error` of a backbone that failed.
        origin: "this run" or "earlier run".
    """
    if "error" in metrics:
        return Row(str(metrics["model"]), origin, verdict=f"failed: {metrics['error']}")
    slidepipe = metrics.get("slidepipe") or {}
    name = metrics["model"] + (f" ({metrics['weights_file']})" if metrics.get("weights_file") else "")
    return Row(
        name,
        origin,
        metrics.get("params") or "",
        metrics.get("nn_f1"),
        metrics.get("p_at_nr"),
        metrics.get("pr_auc"),
        slidepipe.get("nn_f1"),
        str(metrics.get("verdict", "")),
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return `rows` together with the published rows, by falling nn f1, then p@n_k. Rows without scores come last."""
    return sorted(
        [*PUBLISHED, *rows], key=lambda row: (row.nn_f1 is None, -(row.nn_f1 or 0), -(row.p_at_nr or 0), row.name)
    )


HEADER = ("backbone", "row", "params", "nn f1", "p@n_k", "PR area", "nn f1, slidepipe's protocol", "verdict")


def cells(row: Row) -> list[str]:
    """Return the cells of a row, in the order of `HEADER`. Published figures have two decimals, others three."""
    places = 2 if row.origin == "published" else 3
    numbers = [
        "" if value is None else f"{value:.{places}f}"
        for value in (row.nn_f1, row.p_at_nr, row.pr_auc, row.nn_f1_slidepipe)
    ]
    return [row.name, row.origin, row.params, *numbers, row.verdict]


def as_text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal, with one line per verdict below it."""
    lines = [list(HEADER[:-1]), *(cells(row)[:-1] for row in rows)]
    lines[0][6] = "(slidepipe)"
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    verdicts = [f"{row.name}: {row.verdict}" for row in rows if row.verdict and row.origin == "this run"]
    return "\n".join([*text, "", *verdicts])


def as_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["backbone", "row", "params", "nn_f1", "p_at_nr", "pr_auc", "nn_f1_slidepipe", "verdict"])
    writer.writerows(cells(row) for row in rows)
    return file.getvalue()
