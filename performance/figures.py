"""Figures of the measurements: rows with their bars, the JSON files that store them, and the table of the README."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
START, END = "<!-- bench: start -->", "<!-- bench: end -->"

_PACKAGES = (
    "slidepipe",
    "numpy",
    "scipy",
    "scikit-image",
    "openslide-python",
    "openslide-bin",
    "torch",
    "timm",
    "dask",
)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: what was measured.
        figure: the value, as text with its unit.
        floor: the lower bound it is compared with, as text; may be empty.
        bar: the required value; empty if there is none.
        met: whether the bar is met; None if there is none.
    """

    what: str
    figure: str
    floor: str = ""
    bar: str = ""
    met: bool | None = None


def at_most(what: str, value: float, limit: float, shown: str = "{:.2f}", floor: str = "") -> Row:
    """Return a row whose value must be at most `limit`; `shown` formats both numbers."""
    return Row(what, shown.format(value), floor, f"at most {shown.format(limit)}", value <= limit)


def at_least(what: str, value: float, limit: float, shown: str = "{:.2f}", floor: str = "") -> Row:
    """Return a row whose value must be at least `limit`; `shown` formats both numbers."""
    return Row(what, shown.format(value), floor, f"at least {shown.format(limit)}", value >= limit)


@dataclass(frozen=True)
class Measured:
    """The result of a measurement: rows for the table, all figures by name, and the reasons for skipped parts."""

    rows: list[Row] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def machine() -> dict[str, Any]:
    """Return the machine, the date and the package versions of a measurement."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": _gpu(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def save(stage: str, measured: Measured, before: dict[str, Any], seconds: float, results: Path = RESULTS) -> None:
    """Write `results/STAGE.json`; `before` is the result of `machine()` at the start of the measurement."""
    results.mkdir(parents=True, exist_ok=True)
    record = {"stage": stage, "seconds": round(seconds, 1), "machine": before, **asdict(measured)}
    (results / f"{stage}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_table(stages: Sequence[str], results: Path = RESULTS, readme: Path = README) -> None:
    """Write the stored results between the markers of the README.

    Raises:
        ValueError: the README has no markers.
    """
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (results / f"{stage}.json" for stage in stages)
        if path.exists()
    ]
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{readme}: the markers {START} and {END} are missing. Add them at the place of the table")
    readme.write_text(f"{before}{start}\n{table(records)}\n{end}{after}", encoding="utf-8")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the records of stages as a Markdown table."""
    if not records:
        return "No measurements."
    lines = ["| what | figure | compared with | bar | met |", "|---|---|---|---|---|"]
    for record in records:
        for row in record["rows"]:
            met = {True: "yes", False: "**no**", None: ""}[row["met"]]
            lines.append(f"| {row['what']} | {row['figure']} | {row['floor']} | {row['bar']} | {met} |")
    skipped = [f"- {record['stage']}: {reason}" for record in records for reason in record["skipped"]]
    notes = [f"Skipped:\n\n{chr(10).join(skipped)}"] if skipped else []
    return "\n\n".join([_heading(records), "\n".join(lines), *notes])


def _heading(records: Sequence[dict[str, Any]]) -> str:
    one = records[0]["machine"]
    dates = sorted(record["machine"]["date"] for record in records)
    loads = max(record["machine"]["load_before"] for record in records)
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    total = sum(record["seconds"] for record in records)
    return (
        f"{one['processor']}, {one['cores']} cores, {one['memory_gb']:g} GB, {one['gpu'] or 'no GPU'}; "
        f"{dates[0]} to {dates[-1]}, {total / 60:.0f} minutes in total; load of the machine before a stage at most {loads:g}. "
        f"{one['system']}, Python {one['python']}, {versions}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return f"{named.get('model name', platform.machine())} (model {named.get('model', 'unknown')})"


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
