"""Small charts as SVG text: curves on the unit square, and points in classes."""

import colorsys
from collections.abc import Sequence
from html import escape

import numpy as np

from slidepipe.interfaces import FloatArray, IntArray

_SIDE, _LEFT, _BOTTOM, _TOP = 300, 46, 42, 12
INKS = ("#0b6e99", "#c2571a", "#4c7a34", "#7a3b8f")

Curve = tuple[str, Sequence[float], Sequence[float]]


def unit_chart(curves: Sequence[Curve], x_label: str, y_label: str, diagonal: bool = False) -> str:
    """Curves (name, x, y) with both axes from 0 to 1; ``diagonal`` draws x = y as a dashed line."""
    width, height = _LEFT + _SIDE + 14, _TOP + _SIDE + _BOTTOM + 18 * len(curves)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}" font-size="12" fill="#1c2126">'
    ]
    for step in range(6):
        value = step / 5
        x, y = _place(value, value)
        parts.append(
            f'<path d="M{x:.1f} {_TOP}V{_TOP + _SIDE}M{_LEFT} {y:.1f}H{_LEFT + _SIDE}" stroke="#d9dee3"/>'
            f'<text x="{x:.1f}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{value:g}</text>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    if diagonal:
        (x0, y0), (x1, y1) = _place(0, 0), _place(1, 1)
        parts.append(f'<path d="M{x0} {y0}L{x1} {y1}" stroke="#5b6670" stroke-dasharray="4 4"/>')
    for number, (name, xs, ys) in enumerate(curves):
        ink = INKS[number % len(INKS)]
        points = [_place(x, y) for x, y in zip(xs, ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        legend_y = _TOP + _SIDE + _BOTTOM + 18 * number + 6
        parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{ink}"/>' for x, y in points]
        parts.append(
            f'<path d="M{_LEFT} {legend_y - 4}h18" stroke="{ink}" stroke-width="3"/>'
            f'<text x="{_LEFT + 24}" y="{legend_y}">{escape(name)}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 32}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def class_colours(count: int) -> list[str]:
    """So many colours that neighbours in the list differ well."""
    inks = []
    for index in range(count):
        red, green, blue = colorsys.hls_to_rgb(index * 0.381966 % 1, (0.38, 0.55, 0.46)[index % 3], 0.65)
        inks.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return inks


def scatter(points: FloatArray, labels: IntArray, names: Sequence[str], titles: Sequence[str]) -> str:
    """Points (N, 2) in the colour of their class, each class named at its middle; ``titles`` show under the pointer."""
    side = 720
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = 20 + (points - low) / np.maximum(high - low, 1e-9) * (side - 40)
    inks = class_colours(len(names))
    parts = [f'<svg viewBox="0 0 {side} {side}" width="{side}" role="img" aria-label="t-SNE of the embeddings">']
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{inks[label]}" fill-opacity=".75">'
        f"<title>{escape(title)}</title></circle>"
        for (x, y), label, title in zip(scaled, labels, titles, strict=True)
    ]
    for index, name in enumerate(names):
        x, y = np.median(scaled[labels == index], axis=0)
        x = min(max(x, 85), side - 85)  # a name at the rim stays inside the picture
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="13" font-weight="600" fill="{inks[index]}" '
            f'stroke="#fff" stroke-width="3" paint-order="stroke">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + x * _SIDE, _TOP + (1 - y) * _SIDE
