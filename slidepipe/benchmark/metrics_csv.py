"""`metrics.csv`: the figures of `metrics.json` as a table."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SCORES = (
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


def metrics_csv(metrics: Mapping[str, Any], header: bool) -> str:
    """Return the figures of one backbone as CSV, one row per figure.

    The columns are `model`, `protocol`, `score` (keys of `metrics.json`, joined by dots), `split` (a seed or a slide;
    empty for a figure over all splits) and `value`.

    Args:
        metrics: the figures, as in `metrics.json`.
        header: write the line with the names of the columns.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(["model", "protocol", "score", "split", "value"])
    splits, classes = metrics["data"]["splits"], metrics["data"]["classes"]
    for protocol, part in (("published", metrics), ("slidepipe", metrics.get("slidepipe") or {})):
        for key in _SCORES:
            for name, split, value in _figures(key, part.get(key), splits, classes):
                writer.writerow([metrics["model"], protocol, name, split, value])
    return file.getvalue()


def _figures(name: str, value: Any, splits: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, split and value of every figure in a part of `metrics.json`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _figures(f"{name}.{key}", inner, splits, classes)
    elif isinstance(value, list):
        if name.endswith(".seeds"):
            for split, inner in zip(splits, value, strict=True):
                yield name.removesuffix(".seeds"), split, inner
            return
        keys: Sequence[str] = [str(index) for index in range(len(value))]
        if name.startswith("class_wise"):
            keys = classes
        elif name.startswith("intervals"):
            keys = ("low", "high")
        for key, inner in zip(keys, value, strict=True):
            yield from _figures(f"{name}.{key}", inner, splits, classes)
    elif value is not None:
        yield name, "", value
