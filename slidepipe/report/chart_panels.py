"""The panels of a depth chart: the depth axis, the labels, one panel per genus, the columns of numbers, and the legend."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from slidepipe.html import taxon_name
from slidepipe.report.chart_data import ChartSample, Link, Share
from slidepipe.report.chart_rows import ROW_PT, ChartRows
from slidepipe.samples.sample import sample_type_of

INK, MUTED, BAR, PALE, FAILED = "#1c2126", "#5b6670", "#5b9abf", "#d9dee3", "#a3181f"
_BAR_PT = 4.7
_FAILED_DASHES, _BARREN_DASHES = (0, (1, 2)), (0, (6, 4))


def draw_depth_axis(panel: Axes, rows: ChartRows) -> None:
    """Draw the depth axis, and the lines that lead from it to the rows."""
    panel.set_xlim(0, 1)
    panel.plot(
        np.array([[0.0], [0.15], [0.85], [1.0]]).repeat(len(rows.drawn_pt), axis=1),
        np.array([rows.true_pt, rows.true_pt, rows.drawn_pt, rows.drawn_pt]),
        color=MUTED,
        linewidth=0.5,
    )
    if not rows.has_depth:
        panel.spines["left"].set_visible(False)
        panel.set_title("no depth", fontsize=8, loc="left")
        return
    deepest = rows.origin_m + rows.scale_pt / rows.pt_per_m
    wanted = MaxNLocator(nbins=max(2, int(rows.scale_pt / 40)), steps=[1, 2, 2.5, 5, 10]).tick_values(
        rows.origin_m, deepest
    )
    ticks = [depth for depth in wanted if rows.origin_m <= depth <= deepest] or [rows.origin_m]
    panel.tick_params(left=True, labelleft=True, labelsize=7, length=3)
    panel.set_yticks([(depth - rows.origin_m) * rows.pt_per_m for depth in ticks], [f"{depth:g}" for depth in ticks])
    panel.set_ylabel("depth (m)", fontsize=8)


def draw_labels(panel: Axes, rows: ChartRows) -> None:
    """Draw the marker of each sample's type, and its label."""
    panel.set_xlim(0, 1)
    panel.spines["left"].set_visible(False)
    width_pt = panel.get_position().width * panel.figure.get_figwidth() * 72  # type: ignore[union-attr]  # always a Figure here
    for sample, row in zip(rows.samples, rows.drawn_pt, strict=True):
        sample_type = sample_type_of(sample.sample_type)
        colour = FAILED if sample.status == "failed" else INK
        panel.plot(
            [5 / width_pt],
            [row],
            marker=sample_type.marker,
            markersize=4.2,
            color=colour,
            linestyle="none",
            markerfacecolor=colour if sample_type.in_place else "white",
            markeredgewidth=0.8,
        )
        panel.text(11 / width_pt, row, row_label(sample), fontsize=6.5, va="center", color=colour, parse_math=False)


def draw_genus(
    panel: Axes,
    genus: str,
    rows: ChartRows,
    cells: Mapping[str, Share],
    panel_in: float,
    link: Link | None = None,
) -> None:
    """Draw a genus: bars of percent with their intervals, and the range line from the highest to the lowest find.

    Args:
        panel: the axes to draw in.
        genus: name of the genus, as in the reference set.
        rows: the rows of the chart.
        cells: the share of the genus, by `sample_id`; at least one is among the rows.
        panel_in: width of the panel, in inches.
        link: the URL of each bar. The area that can be clicked is as wide as the panel, so that a short bar can be hit.
    """
    widest = panel_extent(rows.samples, cells)
    panel.set_xlim(0, widest)
    panel.spines["left"].set_color(MUTED)
    panel.spines["left"].set_linewidth(0.5)
    found = [
        (row, sample, cells[sample.sample_id])
        for sample, row in zip(rows.samples, rows.drawn_pt, strict=True)
        if sample.sample_id in cells
    ]
    panel.plot([0, 0], [found[0][0], found[-1][0]], color=INK, linewidth=2.0, solid_capstyle="butt", clip_on=False)
    _draw_bars(panel, found, widest)
    if link is not None:
        areas = LineCollection(
            [[(0, row), (widest, row)] for row, _, _ in found],
            colors=BAR,
            linewidths=ROW_PT,
            capstyle="butt",
            alpha=0.01,  # matplotlib leaves lines with alpha 0 out of the file
            zorder=4,
        )
        areas.set_urls([link(sample.sample_id, genus) for _, sample, _ in found])
        panel.add_collection(areas)
    _draw_percent_axis(panel, widest, panel_in)
    _draw_header(panel, taxon_name(genus), italic=True)


def draw_numbers(panel: Axes, rows: ChartRows, values: Sequence[int | None], name: str, colour: str) -> None:
    """Draw a column of bars with their numbers; a sample whose value is None has neither."""
    most = max((value for value in values if value is not None), default=0) or 1
    panel.set_xlim(0, 1.75 * most)
    panel.spines["left"].set_color(MUTED)
    panel.spines["left"].set_linewidth(0.5)
    for row, value in zip(rows.drawn_pt, values, strict=True):
        if value is not None:
            panel.barh(row, value, height=_BAR_PT, color=PALE, edgecolor=colour, linewidth=0.4)
            panel.text(value + 0.04 * most, row, str(value), fontsize=6, va="center", color=colour)
    _draw_header(panel, name, italic=False)


def draw_guides(panel: Axes, rows: ChartRows) -> None:
    """Draw a line behind all panels for each sample: pale to guide the eye, marked if the sample failed or is barren."""
    panel.set_xlim(0, 1)
    panel.spines["left"].set_visible(False)
    for sample, row in zip(rows.samples, rows.drawn_pt, strict=True):
        if sample.status == "failed":
            panel.plot([0, 1], [row, row], color=FAILED, linewidth=0.9, linestyle=_FAILED_DASHES)
        elif sample.status == "barren":
            panel.plot([0, 1], [row, row], color=MUTED, linewidth=0.7, linestyle=_BARREN_DASHES)
        else:
            panel.plot([0, 1], [row, row], color=PALE, linewidth=0.4)


def legend_handles(samples: Sequence[ChartSample]) -> list[Line2D]:
    """Return the legend's entries: every line and marker that the chart of `samples` uses."""
    handles = []
    for code in sorted({sample.sample_type for sample in samples}):
        sample_type = sample_type_of(code)
        handles.append(
            Line2D([], [], marker=sample_type.marker, linestyle="none", color=INK, markersize=4.5,
                   markerfacecolor=INK if sample_type.in_place else "white",
                   label=f"{code} {sample_type.meaning}".strip())
        )  # fmt: skip
    handles += [
        Line2D([], [], color=BAR, linewidth=5, label="% of fossils counted"),
        Line2D([], [], color=INK, linewidth=0.8, marker="|", markersize=4, label="95 % interval"),
        Line2D([], [], color=INK, marker="+", linestyle="none", markersize=5, label="present, below 1 %"),
        Line2D([], [], color=INK, linewidth=2, label="range of finds"),
    ]
    statuses = {sample.status for sample in samples}
    if "partial" in statuses:
        handles.append(
            Line2D([], [], color=BAR, marker="s", markerfacecolor="white", linestyle="none", label="partly analysed")
        )
    if "failed" in statuses:
        handles.append(Line2D([], [], color=FAILED, linestyle=_FAILED_DASHES, label="failed: not analysed"))
    if "barren" in statuses:
        handles.append(Line2D([], [], color=MUTED, linestyle=_BARREN_DASHES, label="barren: analysed, none found"))
    return handles


def panel_extent(samples: Sequence[ChartSample], cells: Mapping[str, Share]) -> float:
    """Return the percentage at the right edge of a genus's panel."""
    held = [cells[sample.sample_id] for sample in samples if sample.sample_id in cells]
    return max([5.0, *(share.high for share in held if not math.isnan(share.high))]) * 1.04


def row_label(sample: ChartSample) -> str:
    """Return the label of a sample's row: its depth and type, and its status unless that is "ok"."""
    depth = sample.sample_id if sample.depth_m is None else f"{sample.depth_m:.10g}"
    status = "" if sample.status == "ok" else f"  {sample.status}"
    return f"{depth} {sample.sample_type}".strip() + status


def _draw_bars(panel: Axes, found: Sequence[tuple[float, ChartSample, Share]], widest: float) -> None:
    """Draw the bars and intervals of a genus; `found` holds the height, sample and share of each row with a find."""
    in_sum = [(row, sample, share) for row, sample, share in found if not math.isnan(share.percent)]
    whole = [(row, share.percent) for row, sample, share in in_sum if sample.status != "partial"]
    # Collections instead of one patch per bar: a chart of a hundred samples and sixty genera has thousands of bars.
    panel.add_collection(
        LineCollection([[(0, row), (end, row)] for row, end in whole], colors=BAR, linewidths=_BAR_PT, capstyle="butt")
    )
    panel.add_collection(
        LineCollection(
            [[(share.low, row), (share.high, row)] for row, _, share in in_sum], colors=INK, linewidths=0.7, zorder=3
        )
    )
    ends = [(end, row) for row, _, share in in_sum for end in (share.low, share.high)]
    rare = [row for row, _, share in in_sum if share.percent < 1]
    for places, marker, size in ((ends, "|", 3.0), ([(0.03 * widest, row) for row in rare], "+", 4.5)):
        panel.plot(
            [x for x, _ in places], [y for _, y in places], marker=marker, markersize=size, markeredgewidth=0.8,
            color=INK, linestyle="none", zorder=3,
        )  # fmt: skip
    for row, sample, share in found:
        if math.isnan(share.percent):  # the spike is counted but is not part of the sum
            panel.text(0.05 * widest, row, str(share.count), fontsize=6, va="center", color=INK)
        elif sample.status == "partial":
            panel.barh(row, share.percent, height=_BAR_PT, color="white", edgecolor=BAR, linewidth=0.6)


def _draw_percent_axis(panel: Axes, widest: float, panel_in: float) -> None:
    most_ticks = max(1, int(panel_in / 0.2))
    step = next(step for step in (5, 10, 20, 50, 100) if widest / step <= most_ticks + 0.5 or step == 100)
    ticks = list(range(0, int(widest) + 1, step))
    panel.spines["bottom"].set_visible(True)
    panel.spines["bottom"].set_linewidth(0.5)
    panel.tick_params(bottom=True, labelbottom=True)
    # The zero has no label: it would overlap the last label of the panel to the left.
    panel.set_xticks(ticks, ["", *(str(tick) for tick in ticks[1:])])


def _draw_header(panel: Axes, name: str, italic: bool) -> None:
    panel.annotate(
        name,
        (0, 1),
        xytext=(3, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=60,
        fontsize=8,
        ha="left",
        va="bottom",
        rotation_mode="anchor",
        style="italic" if italic else "normal",
        parse_math=False,
        annotation_clip=False,
    )
