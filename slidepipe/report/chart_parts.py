"""What a depth chart is drawn from, and how each of its parts is drawn. Rows are in points, downwards."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from slidepipe.samples.sample import sample_type_of

INK, SOFT, BAR, PALE, FAILED = "#1c2126", "#5b6670", "#5b9abf", "#d9dee3", "#a3181f"
ROW_PT = 8.5  # least distance of two rows, in points: a line of the smallest text
BAR_PT = 4.7

#: Where a genus in a sample leads to: a URL from its ``sample_id`` and genus.
Link = Callable[[str, str], str]


@dataclass(frozen=True)
class ChartSample:
    """One sample of a chart. ``fossils`` and ``unknown`` are None where nothing was analysed."""

    sample_id: str
    depth_m: float | None
    sample_type: str
    status: str
    fossils: int | None
    unknown: int | None


@dataclass(frozen=True)
class Share:
    """A genus in a sample: specimens, and their percentage of the sample's fossils with its 95 % interval."""

    count: int
    percent: float
    low: float
    high: float


def draw_scale(
    panel: Axes,
    rows: npt.NDArray[np.float64],
    true_pt: npt.NDArray[np.float64],
    scaled: bool,
    origin: float,
    per_m: float,
    body_pt: float,
) -> None:
    """The depth scale, and the lines that lead from it to the rows."""
    panel.set_xlim(0, 1)
    panel.plot(
        np.array([[0.0], [0.15], [0.85], [1.0]]).repeat(len(rows), axis=1),
        np.array([true_pt, true_pt, rows, rows]),
        color=SOFT,
        linewidth=0.5,
    )
    if not scaled:
        panel.spines["left"].set_visible(False)
        panel.set_title("no depth", fontsize=8, loc="left")
        return
    deepest = origin + body_pt / per_m
    wanted = MaxNLocator(nbins=max(2, int(body_pt / 40)), steps=[1, 2, 2.5, 5, 10]).tick_values(origin, deepest)
    ticks = [depth for depth in wanted if origin <= depth <= deepest] or [origin]
    panel.tick_params(left=True, labelleft=True, labelsize=7, length=3)
    panel.set_yticks([(depth - origin) * per_m for depth in ticks], [f"{depth:g}" for depth in ticks])
    panel.set_ylabel("depth (m)", fontsize=8)


def draw_labels(panel: Axes, samples: Sequence[ChartSample], rows: npt.NDArray[np.float64]) -> None:
    """The symbol of each sample's type, and its depth and type in words."""
    panel.set_xlim(0, 1)
    panel.spines["left"].set_visible(False)
    width_pt = panel.get_position().width * panel.figure.get_figwidth() * 72  # type: ignore[union-attr]  # always a Figure here
    for sample, row in zip(samples, rows, strict=True):
        kind = sample_type_of(sample.sample_type)
        colour = FAILED if sample.status == "failed" else INK
        panel.plot(
            [5 / width_pt],
            [row],
            marker=kind.marker,
            markersize=4.2,
            color=colour,
            linestyle="none",
            markerfacecolor=colour if kind.in_place else "white",
            markeredgewidth=0.8,
        )
        panel.text(
            11 / width_pt,
            row,
            label(sample),
            fontsize=6.5,
            va="center",
            color=colour,
            parse_math=False,
        )


def draw_genus(
    panel: Axes,
    genus: str,
    samples: Sequence[ChartSample],
    rows: npt.NDArray[np.float64],
    cells: Mapping[str, Share],
    panel_in: float,
    link: Link | None = None,
) -> None:
    """Bars of percent with their intervals, and the range line from the highest to the lowest find.

    With ``link`` each find, as wide as the panel so that a short bar can be hit too, leads there.
    """
    widest = extent(samples, cells)
    panel.set_xlim(0, widest)
    panel.spines["left"].set_color(SOFT)
    panel.spines["left"].set_linewidth(0.5)
    at = [
        (row, sample, cells[sample.sample_id])
        for sample, row in zip(samples, rows, strict=True)
        if sample.sample_id in cells
    ]
    panel.plot([0, 0], [at[0][0], at[-1][0]], color=INK, linewidth=2.0, solid_capstyle="butt", clip_on=False)
    counted = [(row, sample, share) for row, sample, share in at if not math.isnan(share.percent)]
    whole = [(row, share.percent) for row, sample, share in counted if sample.status != "partial"]
    # Collections, not a patch a bar: a chart of a hundred samples and sixty genera has thousands.
    panel.add_collection(
        LineCollection([[(0, row), (end, row)] for row, end in whole], colors=BAR, linewidths=BAR_PT, capstyle="butt")
    )
    panel.add_collection(
        LineCollection(
            [[(share.low, row), (share.high, row)] for row, _, share in counted], colors=INK, linewidths=0.7, zorder=3
        )
    )
    ends = [(end, row) for row, _, share in counted for end in (share.low, share.high)]
    rare = [row for row, _, share in counted if share.percent < 1]
    for places, marker, size in ((ends, "|", 3.0), ([(0.03 * widest, row) for row in rare], "+", 4.5)):
        panel.plot(
            [x for x, _ in places], [y for _, y in places], marker=marker, markersize=size, markeredgewidth=0.8,
            color=INK, linestyle="none", zorder=3,
        )  # fmt: skip
    for row, sample, share in at:
        if math.isnan(share.percent):  # the spike: counted, no part of the sum
            panel.text(0.05 * widest, row, str(share.count), fontsize=6, va="center", color=INK)
        elif sample.status == "partial":
            panel.barh(row, share.percent, height=BAR_PT, color="white", edgecolor=BAR, linewidth=0.6)
    if link is not None:
        hits = LineCollection(
            [[(0, row), (widest, row)] for row, _, _ in at],
            colors=BAR,
            linewidths=ROW_PT,
            capstyle="butt",
            alpha=0.01,  # 0 would be left out of the file
            zorder=4,
        )
        hits.set_urls([link(sample.sample_id, genus) for _, sample, _ in at])
        panel.add_collection(hits)
    most = max(1, int(panel_in / 0.2))
    step = next(step for step in (5, 10, 20, 50, 100) if widest / step <= most + 0.5 or step == 100)
    ticks = list(range(0, int(widest) + 1, step))
    panel.spines["bottom"].set_visible(True)
    panel.spines["bottom"].set_linewidth(0.5)
    panel.tick_params(bottom=True, labelbottom=True)
    # The zero of one panel would run into the last number of the one before.
    panel.set_xticks(ticks, ["", *(str(tick) for tick in ticks[1:])])
    _head(panel, genus, italic=True)


def draw_numbers(
    panel: Axes, rows: npt.NDArray[np.float64], values: Sequence[int | None], name: str, colour: str
) -> None:
    """A column of bars that say their number; a sample that was not analysed has neither."""
    most = max((value for value in values if value is not None), default=0) or 1
    panel.set_xlim(0, 1.75 * most)
    panel.spines["left"].set_color(SOFT)
    panel.spines["left"].set_linewidth(0.5)
    for row, value in zip(rows, values, strict=True):
        if value is not None:
            panel.barh(row, value, height=BAR_PT, color=PALE, edgecolor=colour, linewidth=0.4)
            panel.text(value + 0.04 * most, row, str(value), fontsize=6, va="center", color=colour)
    _head(panel, name, italic=False)


def draw_guides(panel: Axes, samples: Sequence[ChartSample], rows: npt.NDArray[np.float64]) -> None:
    """A line behind all panels for each sample: faint to lead the eye, marked where the sample failed or is barren."""
    panel.set_xlim(0, 1)
    panel.spines["left"].set_visible(False)
    for sample, row in zip(samples, rows, strict=True):
        if sample.status == "failed":
            panel.plot([0, 1], [row, row], color=FAILED, linewidth=0.9, linestyle=(0, (1, 2)))
        elif sample.status == "barren":
            panel.plot([0, 1], [row, row], color=SOFT, linewidth=0.7, linestyle=(0, (6, 4)))
        else:
            panel.plot([0, 1], [row, row], color=PALE, linewidth=0.4)


def _head(panel: Axes, name: str, italic: bool) -> None:
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


def legend(samples: Sequence[ChartSample]) -> list[Line2D]:
    """Line and marker of everything that the chart of ``samples`` uses."""
    handles = []
    for code in sorted({sample.sample_type for sample in samples}):
        kind = sample_type_of(code)
        handles.append(
            Line2D([], [], marker=kind.marker, linestyle="none", color=INK, markersize=4.5,
                   markerfacecolor=INK if kind.in_place else "white", label=f"{code} {kind.meaning}".strip())
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
        handles.append(Line2D([], [], color=FAILED, linestyle=(0, (1, 2)), label="failed: not analysed"))
    if "barren" in statuses:
        handles.append(Line2D([], [], color=SOFT, linestyle=(0, (6, 4)), label="barren: analysed, none found"))
    return handles


def extent(samples: Sequence[ChartSample], cells: Mapping[str, Share]) -> float:
    """Percent that a panel reaches to."""
    held = [cells[sample.sample_id] for sample in samples if sample.sample_id in cells]
    return max([5.0, *(share.high for share in held if not math.isnan(share.high))]) * 1.04


def label(sample: ChartSample) -> str:
    """How a sample is named beside its row: depth, type, and its status where that is not ok."""
    depth = sample.sample_id if sample.depth_m is None else f"{sample.depth_m:.10g}"
    status = "" if sample.status == "ok" else f"  {sample.status}"
    return f"{depth} {sample.sample_type}".strip() + status
