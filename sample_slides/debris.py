"""Draw the debris on a palynological slide: wood, black particles, amorphous matter, cuticle and specks.

Each function takes a random generator and the approximate length of the long side in micrometres.
"""

from collections.abc import Callable

import numpy as np

from sample_slides.optics import FloatArray, Specimen, grain
from sample_slides.sheet import Points, Sheet, inside, line, mesh, smooth_polygon


def _shard(rng: np.random.Generator, size_um: float, slenderness: float) -> Points:
    """An angular outline (N, 2): a convex polygon with flat faces, sometimes with a notch."""
    count = int(rng.integers(4, 8))
    angles = np.sort((np.arange(count) + rng.uniform(-0.38, 0.38, count)) * 2 * np.pi / count)
    radii = rng.uniform(0.7, 1.0, count)
    corners = np.stack([np.cos(angles) * radii, np.sin(angles) * radii * slenderness], 1) * size_um / 2
    if rng.random() < 0.4:
        corners[rng.integers(count)] *= rng.uniform(0.3, 0.6)
    return corners


def _rough(sheet: Sheet, corners: Points, rough_um: float) -> FloatArray:
    edge: FloatArray = sheet.outline(corners) + rough_um * grain(sheet.shape, 1.2, sheet.rng)
    return edge


def black_particle(rng: np.random.Generator, size_um: float) -> Specimen:
    """Opaque angular phytoclast (charcoal, oxidised wood): an equal-sided chip or a blade."""
    s = Sheet(0.6 * size_um, rng, warp_um=0.3)
    slender = rng.uniform(0.25, 0.45) if rng.random() < 0.35 else rng.uniform(0.6, 1.0)
    edge = _rough(s, _shard(rng, size_um, slender), 0.35)
    s.thickness += 1.5 * inside(edge, 1.0) * (1 + 0.1 * grain(s.shape, 3, rng)) - 0.25 * line(edge + 0.4, 0.8)
    return s.seen((0.86, 0.94, 1.0))


def brown_wood(rng: np.random.Generator, size_um: float) -> Specimen:
    """Brown translucent wood: a splinter with straight fibres along it and ragged ends."""
    s = Sheet(0.6 * size_um, rng, warp_um=0.4)
    slender = rng.uniform(0.3, 0.7)
    edge = _rough(s, _shard(rng, size_um, slender), 0.4) + 0.8 * grain(s.shape, 0.8, rng) * (
        np.abs(s.u) > 0.35 * size_um
    )
    fibre = np.sin(s.v * 2 * np.pi / rng.uniform(2.4, 4.0) + 0.5 * grain(s.shape, 8, rng))
    depth = rng.uniform(0.7, 1.2)
    s.thickness += (
        depth * inside(edge, 0.8) * (1 + 0.28 * fibre + 0.15 * grain(s.shape, 5, rng) + 0.07 * grain(s.shape, 0.8, rng))
    )
    return s.seen((0.50, 0.72, 1.0))


def amorphous_matter(rng: np.random.Generator, size_um: float) -> Specimen:
    """Amorphous organic matter: a fluffy pale grey-brown flake without an outline, with dark grains in it."""
    s = Sheet(0.6 * size_um, rng, warp_um=0)
    r, _ = s.polar()
    flake = 1 - r / (0.45 * size_um) + 0.35 * grain(s.shape, size_um / 9, rng) + 0.16 * grain(s.shape, 1.6, rng)
    flake *= np.clip(4 * (1 - r / (0.58 * size_um)), 0, 1)
    body = np.clip(1.6 * flake, 0, 1)
    lumps = 1 + 0.4 * grain(s.shape, 2.2, rng) + 0.28 * grain(s.shape, 0.8, rng)
    s.thickness += rng.uniform(0.3, 0.55) * body * np.clip(lumps, 0.1, None)
    s.thickness += 0.5 * body * np.clip(grain(s.shape, 0.7, rng) - 2.1, 0, 1)
    return s.seen((0.50, 0.68, 1.0))


def cuticle(rng: np.random.Generator, size_um: float) -> Specimen:
    """Leaf cuticle: a thin pale sheet with the brick-like print of cells, torn on all sides."""
    s = Sheet(0.62 * size_um, rng, warp_um=1.5)
    count = int(rng.integers(7, 12))
    angles = np.sort((np.arange(count) + rng.uniform(-0.4, 0.4, count)) * 2 * np.pi / count)
    radii = rng.uniform(0.55, 1.0, count) * size_um / 2
    torn = np.stack([np.cos(angles) * radii, 0.75 * np.sin(angles) * radii], 1)
    edge = _rough(s, smooth_polygon(torn, 1), 0.9)
    cells = mesh(s.u / 2.2, s.v, rng.uniform(6.5, 9), rng)
    depth = rng.uniform(0.13, 0.2)
    sheet = inside(edge, 0.8)
    s.thickness += (
        depth * sheet * (1 + 0.08 * grain(s.shape, 1, rng) + 1.1 * line(cells, 0.9) + 0.8 * line(edge + 0.5, 0.7))
    )
    return s.seen((0.37, 0.52, 1.0))


def speck(rng: np.random.Generator, size_um: float) -> Specimen:
    """Dust: a chip, a pyrite ball or a crumb of amber matter."""
    s = Sheet(0.7 * size_um, rng, warp_um=0.2)
    kind = rng.integers(3)
    if kind == 0:
        edge = _rough(s, _shard(rng, size_um, rng.uniform(0.4, 1.0)), 0.2)
    else:
        r, _ = s.polar()
        edge = r - 0.5 * size_um * (1 + 0.1 * grain(s.shape, 1.2, rng))
    s.thickness += rng.uniform(0.6, 1.3) * inside(edge, 0.8)
    return s.seen(((0.9, 0.95, 1.0), (0.9, 0.95, 1.0), (0.25, 0.5, 1.0))[kind])


DEBRIS: dict[str, tuple[Callable[[np.random.Generator, float], Specimen], float, tuple[float, float]]] = {
    "black_particle": (black_particle, 0.27, (14, 80)),
    "brown_wood": (brown_wood, 0.25, (20, 95)),
    "amorphous_matter": (amorphous_matter, 0.20, (25, 90)),
    "cuticle": (cuticle, 0.08, (60, 130)),
    "speck": (speck, 0.20, (3, 11)),
}
"""Drawing function, share of all debris, and range of sizes in micrometres, of each kind."""


def draw_debris(rng: np.random.Generator) -> Specimen:
    """Draw one piece of debris of a random kind. Small pieces are more frequent than large ones."""
    kinds = list(DEBRIS)
    draw, _, (small, large) = DEBRIS[kinds[rng.choice(len(kinds), p=[DEBRIS[kind][1] for kind in kinds])]]
    return draw(rng, small * (large / small) ** rng.random())
