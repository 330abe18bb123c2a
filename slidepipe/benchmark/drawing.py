"""Small SVG charts of the benchmark page: curves on the unit square, and points in the colours of their classes."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from slidepipe.html import render
from slidepipe.interfaces import FloatArray, IntArray

_PACKAGE = "slidepipe.benchmark"
_CURVE_COLOURS = ("#0b6e99", "#c2571a", "#4c7a34", "#7a3b8f")
_SQUARE_PX, _LEFT_PX, _BOTTOM_PX, _TOP_PX, _LEGEND_PX = 300, 46, 42, 12, 18
_SCATTER_PX = 720


@dataclass(frozen=True)
class Curve:
    """A curve with its name in the legend; `x` and `y` are from 0 to 1 and have the same length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_curves(curves: Sequence[Curve], x_label: str, y_label: str, diagonal: bool = False) -> Markup:
    """Draw curves on axes from 0 to 1.

    Args:
        curves: in the order of the legend.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        diagonal: draw the line x = y, dashed.

    Returns:
        An `svg` element.
    """
    return render(
        _PACKAGE,
        "curves.svg",
        width=_LEFT_PX + _SQUARE_PX + 14,
        height=_TOP_PX + _SQUARE_PX + _BOTTOM_PX + _LEGEND_PX * len(curves),
        left=_LEFT_PX,
        right=_LEFT_PX + _SQUARE_PX,
        top=_TOP_PX,
        bottom=_TOP_PX + _SQUARE_PX,
        ticks=[(f"{step / 5:g}", *_place(step / 5, step / 5)) for step in range(6)],
        curves=[
            {
                "name": curve.name,
                "colour": _CURVE_COLOURS[number % len(_CURVE_COLOURS)],
                "points": [_place(x, y) for x, y in zip(curve.x, curve.y, strict=True)],
                "legend_y": _TOP_PX + _SQUARE_PX + _BOTTOM_PX + _LEGEND_PX * number + 6,
            }
            for number, curve in enumerate(curves)
        ],
        x_label=x_label,
        y_label=y_label,
        diagonal=diagonal,
    )


def draw_scatter(points: FloatArray, labels: IntArray, names: Sequence[str], titles: Sequence[str]) -> Markup:
    """Draw points in the colours of their classes, with the name of each class at its centre.

    Args:
        points: float64 (N, 2).
        labels: int64 (N,), index into `names`.
        names: the classes.
        titles: text of each point, shown under the pointer.

    Returns:
        An `svg` element.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = 20 + (points - low) / np.maximum(high - low, 1e-9) * (_SCATTER_PX - 40)
    colours = class_colours(len(names))
    centres = []
    for index, name in enumerate(names):
        x, y = np.median(scaled[labels == index], axis=0)
        # A name near the edge is moved so that it stays inside the picture.
        centres.append((name, colours[index], min(max(x, 85), _SCATTER_PX - 85), y))
    return render(
        _PACKAGE,
        "scatter.svg",
        side=_SCATTER_PX,
        points=[(x, y, colours[label], title) for (x, y), label, title in zip(scaled, labels, titles, strict=True)],
        names=centres,
    )


def class_colours(count: int) -> list[str]:
    """Return `count` colours, as "#rrggbb"; neighbours in the list are easy to tell apart."""
    colours = []
    for index in range(count):
        # The golden ratio spreads the hues; three lightnesses separate hues that are close.
        red, green, blue = colorsys.hls_to_rgb(index * 0.381966 % 1, (0.38, 0.55, 0.46)[index % 3], 0.65)
        colours.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return colours


def _place(x: float, y: float) -> tuple[float, float]:
    """Return the position in the picture of a point on the unit square."""
    return _LEFT_PX + x * _SQUARE_PX, _TOP_PX + (1 - y) * _SQUARE_PX
