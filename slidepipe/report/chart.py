"""The depth chart of a well: depth downwards at true scale, a panel a genus, as palynologists draw a range chart."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from slidepipe.report.chart_parts import (
    INK,
    ROW_PT,
    SOFT,
    ChartSample,
    Link,
    Share,
    draw_genus,
    draw_guides,
    draw_labels,
    draw_numbers,
    draw_scale,
    extent,
    label,
    legend,
)
from slidepipe.store.files import write_file

_INCHES_PER_PERCENT, _LEAST_PANEL_IN, _WIDEST_PANELS_IN = 0.026, 0.42, 34.0
_GAP_IN = 0.09


def chart_samples(counts: pd.DataFrame, long: pd.DataFrame) -> tuple[list[ChartSample], dict[str, dict[str, Share]]]:
    """The samples of ``counts.csv`` and, by genus and sample, the shares of ``counts_long.csv`` (those above zero)."""
    shares: dict[str, dict[str, Share]] = {}
    sums: dict[str, int] = {}
    for row in long.itertuples(index=False):
        genus, sample_id, count = str(row.genus), str(row.sample_id), int(row.count)  # type: ignore[call-overload]  # itertuples is untyped
        cells = shares.setdefault(genus, {})
        sums[sample_id] = sums.get(sample_id, 0) + count
        if count:
            percent, low, high = (float(getattr(row, name)) for name in ("percent", "low", "high"))
            cells[sample_id] = Share(count, percent, low, high)
    samples = [
        ChartSample(
            sample_id=str(record["sample_id"]),
            depth_m=_number(record["depth_m"]),
            sample_type=_text(record["sample_type"]),
            status=str(record["status"]),
            fossils=_whole(record.get("fossils", sums.get(str(record["sample_id"])))),
            unknown=_whole(record["unknown"]),
        )
        for record in counts.to_dict("records")
    ]
    return samples, shares


def spread_rows(depths_pt: npt.NDArray[np.float64], least_pt: float) -> npt.NDArray[np.float64]:
    """Move rows that lie closer than ``least_pt`` apart, as little as can be (least squares); the others stay.

    Args:
        depths_pt: float64 (N,), ascending.
        least_pt: least distance of neighbours.

    Returns:
        float64 (N,), ascending by at least ``least_pt``: the isotonic regression of the rows less their least distances.
    """
    if len(depths_pt) < 2:
        return depths_pt.copy()
    steps = least_pt * np.arange(len(depths_pt))
    return np.asarray(isotonic_regression(depths_pt - steps).x + steps, np.float64)


def draw_chart(
    title: str,
    samples: Sequence[ChartSample],
    shares: Mapping[str, Mapping[str, Share]],
    link: Link | None = None,
) -> Figure:
    """Draw a depth chart.

    Rows stand at their true depth; rows that would hide one another are drawn apart by the least that keeps them readable, and a
    line leads from the depth scale to each row. A sample that failed or is barren has a line with its status, never a zero.

    Args:
        title: the well.
        samples: in any order.
        shares: by genus and ``sample_id``; what is not in it was not found.
        link: where each find leads to; None makes a chart without links.
    """
    shown = [sample for sample in samples if sample.depth_m is not None] or list(samples)
    shown.sort(key=lambda sample: (sample.depth_m or 0.0, sample.sample_type))
    left_out = [sample.sample_id for sample in samples if sample not in shown]
    scaled = bool(shown) and shown[0].depth_m is not None
    depths = np.array([sample.depth_m if scaled else index for index, sample in enumerate(shown)], np.float64)
    body_pt = max(200.0, ROW_PT * len(shown) * (2.2 if len(shown) <= 40 else 1.6))
    span = float(np.ptp(depths)) if len(depths) else 0.0
    per_m = body_pt / span if span else 1.0
    origin = float(depths.min()) if len(depths) else 0.0
    true_pt = (depths - origin) * per_m
    rows = spread_rows(true_pt, ROW_PT)
    top, bottom = (min(0.0, rows.min()), max(body_pt if span else 0.0, rows.max())) if len(rows) else (0.0, body_pt)
    top, bottom = top - 1.5 * ROW_PT, bottom + 1.5 * ROW_PT

    found, missing = order_genera(shown, shares)
    widths = _panel_widths(found, shown, shares)
    header_in = min(3.0, 0.35 + 0.062 * max((len(name) for name in [*found, "unknown objects"]), default=10))
    label_in = 0.35 + 0.062 * max((len(label(sample)) for sample in shown), default=8)
    side_in, connector_in, sum_in = 0.75, 0.45, 0.62
    width_in = side_in + connector_in + label_in + 2 * (sum_in + _GAP_IN) + sum(widths) + _GAP_IN * len(widths) + 0.9
    figure_in = max(width_in, 6.5)
    notes = _notes(shown, missing, left_out, rows, true_pt, int(figure_in * 13.5))
    footer_in = 0.8 + 0.15 * len(notes)
    body_in = (bottom - top) / 72
    height_in = 0.55 + header_in + body_in + footer_in

    figure = Figure(figsize=(figure_in, height_in))
    figure.text(0.2 / figure_in, 1 - 0.2 / height_in, title, fontsize=13, weight="bold", va="top", parse_math=False)

    def axes(left_in: float, panel_in: float) -> Axes:
        panel = figure.add_axes((left_in / figure_in, footer_in / height_in, panel_in / figure_in, body_in / height_in))
        panel.set_ylim(bottom, top)
        panel.set_facecolor("none")
        panel.spines[["right", "top", "bottom"]].set_visible(False)
        panel.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False, labelsize=6, length=2, pad=1)
        return panel

    right = width_in - 0.9
    draw_guides(axes(side_in + connector_in + label_in, right - side_in - connector_in - label_in), shown, rows)
    draw_scale(axes(side_in, connector_in), rows, true_pt, scaled, origin, per_m, body_pt if span else 0.0)
    left = side_in + connector_in
    draw_labels(axes(left, label_in), shown, rows)
    left += label_in
    numbers = axes(left, sum_in)
    draw_numbers(numbers, rows, [sample.fossils for sample in shown], "fossils counted", INK)
    left += sum_in + _GAP_IN
    for genus, panel_in in zip(found, widths, strict=True):
        draw_genus(axes(left, panel_in), genus, shown, rows, shares[genus], panel_in, link)
        left += panel_in + _GAP_IN
    draw_numbers(axes(left, sum_in), rows, [sample.unknown for sample in shown], "unknown objects", SOFT)

    figure.legend(
        handles=legend(shown),
        loc="lower left",
        bbox_to_anchor=(0.15 / figure_in, (0.22 + 0.15 * len(notes)) / height_in),
        ncols=max(2, min(8, int(figure_in / 1.6))),
        fontsize=7,
        frameon=False,
        borderpad=0,
        handletextpad=0.8,
    )
    for number, line in enumerate(notes):
        figure.text(
            0.2 / figure_in,
            (0.08 + 0.15 * (len(notes) - number)) / height_in,
            line,
            fontsize=7,
            color=SOFT,
            va="top",
            parse_math=False,
        )
    return figure


def order_genera(
    samples: Sequence[ChartSample], shares: Mapping[str, Mapping[str, Share]]
) -> tuple[list[str], list[str]]:
    """Genera as a range chart has them, by their highest occurrence, then by their lowest; and those that were not found."""
    place = {sample.sample_id: number for number, sample in enumerate(samples)}
    ends = {
        genus: (min(at), max(at))
        for genus, cells in shares.items()
        if (at := [place[sample_id] for sample_id in cells if sample_id in place])
    }
    found = sorted(ends, key=lambda genus: (*ends[genus], genus))
    return found, sorted(set(shares) - set(found))


def genera_in_order(counts: pd.DataFrame, long: pd.DataFrame) -> list[str]:
    """All genera of ``counts_long.csv``: those found as the chart has them, then those that were not."""
    samples, shares = chart_samples(counts, long)
    samples.sort(key=lambda sample: (sample.depth_m is None, sample.depth_m or 0.0))
    found, missing = order_genera(samples, shares)
    return [*found, *missing]


def write_chart(figure: Figure, folder: Path, name: str = "chart") -> None:
    """Write NAME.svg and NAME.pdf into ``folder``: the same figure always gives the same bytes. Text stays text in both."""
    with _text_kept():
        write_file(folder / f"{name}.svg", lambda part: _save_svg(figure, part))
        write_file(
            folder / f"{name}.pdf",
            lambda part: figure.savefig(
                part, format="pdf", metadata={"CreationDate": None, "ModDate": None, "Creator": "slidepipe"}
            ),
        )


def chart_svg(figure: Figure) -> str:
    """The figure as the text of an SVG file."""
    buffer = io.BytesIO()
    with _text_kept():
        _save_svg(figure, buffer)
    return buffer.getvalue().decode("utf-8")


def _save_svg(figure: Figure, file: Path | io.BytesIO) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "slidepipe"})


@contextmanager
def _text_kept() -> Iterator[None]:
    settings: dict[Any, Any] = {"svg.hashsalt": "slidepipe", "svg.fonttype": "none", "pdf.fonttype": 42}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A genus named in a script that the built-in font lacks is drawn by the viewer's font in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def _notes(
    samples: Sequence[ChartSample],
    missing: Sequence[str],
    left_out: Sequence[str],
    rows: npt.NDArray[np.float64],
    true_pt: npt.NDArray[np.float64],
    width: int,
) -> list[str]:
    moved = int(np.sum(np.abs(rows - true_pt) > 0.5))
    texts = []
    if moved and samples and samples[0].depth_m is not None:
        texts.append(
            f"{moved} close samples are drawn apart so that each can be read; the lines at the left lead to their true depths."
        )
    texts.append(
        "Detections as classified, without correction. No bar: none found; with n fossils counted up to 3/n of them could still"
        " be of that genus (95 %). Cuttings may have caved: the lowest finds in them are no bases."
    )
    if missing:
        texts.append(f"Looked for and not found: {', '.join(missing)}.")
    if left_out:
        texts.append(f"Without a depth, not shown: {', '.join(left_out)}.")
    return [line for text in texts for line in textwrap.wrap(text, max(40, width))]


def _panel_widths(
    genera: Sequence[str], samples: Sequence[ChartSample], shares: Mapping[str, Mapping[str, Share]]
) -> list[float]:
    """Widths in inches: one scale of percent for all panels, so that bars can be compared across them."""
    extents = [extent(samples, shares[genus]) for genus in genera]
    scale = min(_INCHES_PER_PERCENT, _WIDEST_PANELS_IN / max(sum(extents), 1.0))
    return [max(_LEAST_PANEL_IN, scale * extent) for extent in extents]


def _number(value: object) -> float | None:
    return None if pd.isna(value) or value == "" else float(value)  # type: ignore[arg-type, call-overload]  # a cell of a CSV


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]  # a cell of a CSV
