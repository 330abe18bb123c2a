"""The depth chart of a well, drawn as palynologists draw a range chart: depth downwards at true scale, one panel per genus."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slidepipe.html import taxon_name
from slidepipe.report.chart_data import ChartSample, Link, Share, order_genera
from slidepipe.report.chart_panels import (
    INK,
    MUTED,
    draw_depth_axis,
    draw_genus,
    draw_guides,
    draw_labels,
    draw_numbers,
    legend_handles,
    panel_extent,
    row_label,
)
from slidepipe.report.chart_rows import ChartRows, arrange_rows
from slidepipe.store.files import write_file

_IN_PER_PERCENT, _MIN_PANEL_IN, _MAX_PANELS_IN = 0.026, 0.42, 34.0
_GAP_IN, _MARGIN_IN, _AXIS_LABEL_IN, _AXIS_IN, _NUMBERS_IN = 0.09, 0.9, 0.75, 0.45, 0.62
_TITLE_IN, _IN_PER_LETTER, _IN_PER_NOTE, _LETTERS_PER_IN = 0.55, 0.062, 0.15, 13.5
_MIN_WIDTH_IN, _MAX_HEADER_IN = 6.5, 3.0


def draw_chart(
    title: str,
    samples: Sequence[ChartSample],
    shares: Mapping[str, Mapping[str, Share]],
    link: Link | None = None,
) -> Figure:
    """Draw a depth chart.

    Rows are drawn at their true depth. Rows that would hide one another are moved apart by the smallest distance that
    keeps them readable, and a line leads from the depth axis to each row. A sample that failed or is barren has a line
    and its status, never a zero.

    Args:
        title: title of the figure, for example "Well 6407/6-5".
        samples: in any order.
        shares: by genus and `sample_id`; a genus without an entry for a sample was not found in it.
        link: the URL of each bar; None draws a chart without links.
    """
    rows = arrange_rows(samples)
    found, missing = order_genera(rows.samples, shares)
    layout = _lay_out(rows, found, missing, shares)
    figure = Figure(figsize=(layout.width_in, layout.height_in))
    figure.text(
        0.2 / layout.width_in, 1 - 0.2 / layout.height_in, title, fontsize=13, weight="bold", va="top", parse_math=False
    )
    _draw_panels(figure, layout, rows, {genus: shares[genus] for genus in found}, link)
    _draw_footer(figure, layout, rows)
    return figure


def write_chart(figure: Figure, folder: Path, name: str = "chart") -> None:
    """Write a chart as SVG and PDF. The same figure always gives the same bytes. Text stays text in both files.

    Args:
        figure: from `draw_chart`.
        folder: an existing folder.
        name: file name without suffix.
    """
    with _text_kept():
        write_file(folder / f"{name}.svg", lambda part: _save_svg(figure, part))
        write_file(
            folder / f"{name}.pdf",
            lambda part: figure.savefig(
                part, format="pdf", metadata={"CreationDate": None, "ModDate": None, "Creator": "slidepipe"}
            ),
        )


def chart_svg(figure: Figure) -> str:
    """Return a chart as the text of an SVG file."""
    buffer = io.BytesIO()
    with _text_kept():
        _save_svg(figure, buffer)
    return buffer.getvalue().decode("utf-8")


@dataclass(frozen=True)
class _Layout:
    """Sizes of a chart, in inches, and the notes below it."""

    width_in: float
    height_in: float
    body_in: float
    footer_in: float
    label_in: float
    guides_in: float
    panels_in: list[float]
    notes: list[str]


def _lay_out(
    rows: ChartRows, found: Sequence[str], missing: Sequence[str], shares: Mapping[str, Mapping[str, Share]]
) -> _Layout:
    panels_in = _panel_widths(found, rows.samples, shares)
    header_letters = max((len(name) for name in [*found, "unknown objects"]), default=10)
    header_in = min(_MAX_HEADER_IN, 0.35 + _IN_PER_LETTER * header_letters)
    label_in = 0.35 + _IN_PER_LETTER * max((len(row_label(sample)) for sample in rows.samples), default=8)
    guides_in = 2 * (_NUMBERS_IN + _GAP_IN) + sum(panels_in) + _GAP_IN * len(panels_in)
    width_in = max(_AXIS_LABEL_IN + _AXIS_IN + label_in + guides_in + _MARGIN_IN, _MIN_WIDTH_IN)
    notes = _notes(rows, missing, int(width_in * _LETTERS_PER_IN))
    footer_in = 0.8 + _IN_PER_NOTE * len(notes)
    body_in = (rows.bottom_pt - rows.top_pt) / 72
    return _Layout(
        width_in=width_in,
        height_in=_TITLE_IN + header_in + body_in + footer_in,
        body_in=body_in,
        footer_in=footer_in,
        label_in=label_in,
        guides_in=guides_in,
        panels_in=panels_in,
        notes=notes,
    )


def _draw_panels(
    figure: Figure, layout: _Layout, rows: ChartRows, shares: Mapping[str, Mapping[str, Share]], link: Link | None
) -> None:
    """Draw all panels from left to right; the guides come first because they lie behind the others."""

    def add_panel(left_in: float, width_in: float) -> Axes:
        panel = figure.add_axes(
            (
                left_in / layout.width_in,
                layout.footer_in / layout.height_in,
                width_in / layout.width_in,
                layout.body_in / layout.height_in,
            )
        )
        panel.set_ylim(rows.bottom_pt, rows.top_pt)
        panel.set_facecolor("none")
        panel.spines[["right", "top", "bottom"]].set_visible(False)
        panel.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False, labelsize=6, length=2, pad=1)
        return panel

    left = _AXIS_LABEL_IN + _AXIS_IN
    draw_guides(add_panel(left + layout.label_in, layout.guides_in), rows)
    draw_depth_axis(add_panel(_AXIS_LABEL_IN, _AXIS_IN), rows)
    draw_labels(add_panel(left, layout.label_in), rows)
    left += layout.label_in
    draw_numbers(
        add_panel(left, _NUMBERS_IN), rows, [sample.fossils for sample in rows.samples], "fossils counted", INK
    )
    left += _NUMBERS_IN + _GAP_IN
    for (genus, cells), width_in in zip(shares.items(), layout.panels_in, strict=True):
        draw_genus(add_panel(left, width_in), genus, rows, cells, width_in, link)
        left += width_in + _GAP_IN
    draw_numbers(
        add_panel(left, _NUMBERS_IN), rows, [sample.unknown for sample in rows.samples], "unknown objects", MUTED
    )


def _draw_footer(figure: Figure, layout: _Layout, rows: ChartRows) -> None:
    figure.legend(
        handles=legend_handles(rows.samples),
        loc="lower left",
        bbox_to_anchor=(0.15 / layout.width_in, (0.22 + _IN_PER_NOTE * len(layout.notes)) / layout.height_in),
        ncols=max(2, min(8, int(layout.width_in / 1.6))),
        fontsize=7,
        frameon=False,
        borderpad=0,
        handletextpad=0.8,
    )
    for number, line in enumerate(layout.notes):
        figure.text(
            0.2 / layout.width_in,
            (0.08 + _IN_PER_NOTE * (len(layout.notes) - number)) / layout.height_in,
            line,
            fontsize=7,
            color=MUTED,
            va="top",
            parse_math=False,
        )


def _notes(rows: ChartRows, missing: Sequence[str], letters: int) -> list[str]:
    """Return the notes below a chart, wrapped to lines of `letters` letters."""
    texts = []
    if rows.moved and rows.has_depth:
        texts.append(
            f"{rows.moved} close samples are drawn apart so that each can be read. The lines on the left lead to the true depths."
        )
    texts.append(
        "Counts are detections as classified, not corrected by a review. No bar: none found; if n fossils were counted, up to"
        " 3/n of them could still be of that genus (95 %). Cuttings may have caved, so the lowest find in cuttings is not a base."
    )
    if missing:
        texts.append(f"Looked for and not found: {', '.join(taxon_name(genus) for genus in missing)}.")
    if rows.left_out:
        texts.append(f"Without a depth, not shown: {', '.join(rows.left_out)}.")
    return [line for text in texts for line in textwrap.wrap(text, max(40, letters))]


def _panel_widths(
    genera: Sequence[str], samples: Sequence[ChartSample], shares: Mapping[str, Mapping[str, Share]]
) -> list[float]:
    """Return widths in inches. All panels have the same percent scale, so that their bars can be compared."""
    extents = [panel_extent(samples, shares[genus]) for genus in genera]
    scale = min(_IN_PER_PERCENT, _MAX_PANELS_IN / max(sum(extents), 1.0))
    return [max(_MIN_PANEL_IN, scale * extent) for extent in extents]


def _save_svg(figure: Figure, file: Path | io.BytesIO) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "slidepipe"})


@contextmanager
def _text_kept() -> Iterator[None]:
    settings: dict[Any, Any] = {"svg.hashsalt": "slidepipe", "svg.fonttype": "none", "pdf.fonttype": 42}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # The built-in font lacks some scripts. The SVG names the genus as text, so the viewer's font draws it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield
