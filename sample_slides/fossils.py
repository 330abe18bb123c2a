"""Draw palynomorphs of nine genera. Each specimen has its own size, shade, folds, deformation and orientation.

Each function takes a random generator and returns a `sample_slides.optics.Specimen`. Lengths are in micrometres. The shapes
follow published descriptions of the genera; nothing is traced from a photograph.
"""

from collections.abc import Callable

import numpy as np

from sample_slides.optics import Specimen, grain
from sample_slides.sheet import (
    Sheet,
    ball_directions,
    inside,
    line,
    mesh,
    shell,
    smooth_polygon,
    wall_distance,
    wavy_radius,
)


def inaperturopollenites(rng: np.random.Generator) -> Specimen:
    """Smooth thin-walled ball, split open like a mouth, lips folded."""
    radius = rng.uniform(15.5, 23)
    s = Sheet(radius, rng)
    r, angle = s.polar()
    outline = wavy_radius(angle, radius, rng, 0.025)
    gape, apex = np.deg2rad(rng.uniform(38, 80)) / 2, -rng.uniform(0.05, 0.45) * radius
    _, mouth_angle = s.polar(apex, 0)
    bulge = 1 + rng.uniform(-0.1, 0.35) * np.sin(np.clip((s.u - apex) / (1.6 * radius), 0, 1) * np.pi)
    lip = (np.abs(mouth_angle) - gape * bulge) * np.maximum(
        np.hypot(s.u - apex, s.v), 0.5
    )  # distance from the lip in um, above 0 in the wall
    wall = inside(np.maximum(r - outline, -lip))
    depth = rng.uniform(0.5, 0.85)
    s.thickness += depth * wall * (0.8 + 0.25 * shell(r / outline, 0.1)) * (1 + 0.05 * grain(s.shape, 0.8, rng))
    s.thickness += (
        0.5 * depth * wall * (line(lip - 0.5, 0.9) + 0.45 * line(lip - 3, 2.2) + line(r - outline + 0.7, 0.8))
    )
    s.folds(0.75 * radius, int(rng.integers(1, 4)), 0.5 * depth, wall)
    s.litter(0.6 * radius)
    return s.seen((0.17, 0.44, 1.0))


def deltoidospora(rng: np.random.Generator) -> Specimen:
    """Rounded triangular spore with a three-rayed scar."""
    radius = rng.uniform(20, 29)
    s = Sheet(1.1 * radius, rng, squeeze=0.03)
    r, _ = s.polar()
    corner = radius * rng.uniform(0.24, 0.34)
    hollow = rng.uniform(0.0, 0.14)
    bearings = 2 * np.pi / 3 * np.arange(3) + rng.normal(0, 0.04, 3)
    tips = (radius - corner) * np.stack([np.cos(bearings), np.sin(bearings)], 1)
    middles = (tips + np.roll(tips, -1, axis=0)) / 2 * (1 - hollow)
    core = s.outline(smooth_polygon(np.stack([tips, middles], 1).reshape(-1, 2), 0))
    distance = core - corner  # the triangle of the tips, grown by the corner radius
    wall = inside(distance)
    depth = rng.uniform(0.6, 1.0)
    s.thickness += depth * wall * (1 + 0.06 * grain(s.shape, 0.9, rng) + 0.05 * grain(s.shape, 6, rng))
    s.thickness += depth * wall * (0.75 * line(distance + 0.9, 0.9) + 0.15 * line(distance + 3, 2.5))
    ray = np.full(s.shape, 1e3, np.float32)
    length = rng.uniform(0.62, 0.75) * radius
    for bearing in bearings + rng.normal(0, 0.03, 3):
        t, off, _ = s.along((0, 0), (length * np.cos(bearing), length * np.sin(bearing)))
        ray = np.minimum(ray, np.where(t > 0, np.hypot(off, np.maximum(t - 1, 0) * length), r))
    lips = rng.uniform(1.3, 1.8)
    s.thickness += (
        depth * wall * (0.55 * line(ray - lips, 0.75) - 0.45 * line(ray, 0.7) + 0.2 * line(ray - lips - 1.5, 1.8))
    )
    s.litter(0.5 * radius)
    return s.seen((0.20, 0.46, 1.0))


def cymatiosphaera(rng: np.random.Generator) -> Specimen:
    """Ball divided into polygonal fields by high thin crests, which stand out round the edge as a membrane."""
    radius = rng.uniform(18, 27)
    crest = rng.uniform(2.6, 4.0)
    s = Sheet(radius + crest, rng)
    r, angle = s.polar()
    outline = wavy_radius(angle, radius, rng, 0.015)
    share = np.clip(r / outline, 0, 0.999)
    fields = ball_directions(int(rng.integers(34, 50)), rng)
    height = np.sqrt(1 - share**2)
    flat = np.stack([np.cos(angle) * share, np.sin(angle) * share], -1)
    near = wall_distance(np.concatenate([flat, height[..., None]], -1), fields) * radius
    far = wall_distance(np.concatenate([flat, -height[..., None]], -1), fields) * radius
    depth = rng.uniform(0.4, 0.62)
    wall = inside(r - outline)
    s.thickness += depth * wall * (0.6 + 0.4 * shell(share, 0.12)) * (1 + 0.05 * grain(s.shape, 0.8, rng))
    s.thickness += depth * wall * (1.5 * line(near, 0.75) + 0.5 * line(far, 0.95) + 0.9 * line(r - outline + 0.6, 0.8))
    rim = r - outline - crest * (1 - 0.25 * np.clip(near / 4, 0, 1))
    film = inside(rim) * (1 - wall)
    s.thickness += depth * (film * (0.35 + 1.0 * line(near, 0.8)) + 0.55 * line(rim + 0.3, 0.5))
    s.litter(0.8 * radius)
    return s.seen((0.19, 0.36, 1.0))


def tasmanites(rng: np.random.Generator) -> Specimen:
    """Large thick-walled disc, red-brown, dotted with fine pores, often cracked or folded."""
    radius = rng.uniform(31, 50)
    s = Sheet(radius, rng, squeeze=0.06)
    r, angle = s.polar()
    outline = wavy_radius(angle, radius, rng, 0.02)
    wall_um = rng.uniform(4.5, 7.5)
    wall = inside(r - outline)
    depth = rng.uniform(0.85, 1.25)
    s.thickness += depth * wall * (0.8 + 0.04 * grain(s.shape, 1.0, rng) + 0.07 * grain(s.shape, 9, rng))
    s.thickness += 0.55 * depth * wall * (inside(outline - wall_um - r, 1.5) + 0.5 * line(r - outline + wall_um, 0.8))
    pores = grain(s.shape, 0.55, rng)
    s.thickness -= 0.4 * depth * wall * np.clip(pores - 1.5, 0, 1)
    s.folds(0.8 * radius, int(rng.integers(1, 4)), 0.3 * depth, wall)
    s.litter(0.9 * radius)
    return s.seen((0.30, 0.62, 1.0))


def operculodinium(rng: np.random.Generator) -> Specimen:
    """Granular cyst thickly set with short thin spines."""
    radius, spine = rng.uniform(21, 29), rng.uniform(6, 9)
    s = Sheet(radius + spine, rng, squeeze=0.06)
    r, angle = s.polar()
    outline = wavy_radius(angle, radius, rng, 0.02)
    wall = inside(r - outline)
    depth = rng.uniform(0.42, 0.72)
    s.thickness += (
        depth * wall * (0.65 + 0.35 * shell(np.clip(r / outline, 0, 1), 0.1) + 0.13 * grain(s.shape, 0.7, rng))
    )
    s.thickness += 0.8 * depth * wall * line(r - outline + 0.8, 0.9)
    spines = ball_directions(int(rng.integers(190, 250)), rng, 0.3)
    for du, dv, dz in spines:
        foot, tip = radius * np.array([du, dv]), (radius + spine * rng.uniform(0.85, 1.1)) * np.array([du, dv])
        if np.hypot(du, dv) > 0.55:
            t, off, length = s.along(foot, tip)
            width = 0.38 + 0.45 * np.exp(-np.clip(t, 0, 1) * 6) + 0.35 * np.exp(-(((t - 1) * length / 0.6) ** 2))
            shaft = (
                np.exp(-((off / width) ** 2)) * np.clip(0.5 + t * length, 0, 1) * np.clip(0.5 + (1 - t) * length, 0, 1)
            )
            s.thickness += depth * shaft * (0.8 if dz > -0.2 else 0.5)
        elif dz > 0:
            s.thickness += 0.7 * depth * line(s.polar(*tip)[0], 0.75)
    if rng.random() < 0.5:  # a plate has dropped out: the hole through which the cell left
        bearing = rng.uniform(0, 2 * np.pi)
        plate = smooth_polygon(
            [(0.25 * radius * np.cos(a), 0.25 * radius * np.sin(a)) for a in np.arange(6) * np.pi / 3], 1
        )
        hole = s.outline(plate + 0.5 * radius * np.array([np.cos(bearing), np.sin(bearing)]))
        s.thickness *= 1 - 0.4 * inside(hole)
        s.thickness += 0.4 * depth * line(hole, 0.7)
    s.litter(0.8 * radius)
    return s.seen((0.13, 0.38, 1.0))


def hystrichosphaeridium(rng: np.random.Generator) -> Specimen:
    """Small round body with two dozen long hollow processes that open like trumpets."""
    radius, length_um = rng.uniform(15.5, 20), rng.uniform(16, 22)
    s = Sheet(radius + 1.1 * length_um, rng, warp_um=1.0)
    r, angle = s.polar()
    outline = wavy_radius(angle, radius, rng, 0.03)
    wall = inside(r - outline)
    depth = rng.uniform(0.45, 0.8)
    s.thickness += (
        depth * wall * (0.7 + 0.3 * shell(np.clip(r / outline, 0, 1), 0.12) + 0.08 * grain(s.shape, 1.0, rng))
    )
    s.thickness += 0.8 * depth * wall * line(r - outline + 0.7, 0.9)
    shaft_um, mouth_um = rng.uniform(1.2, 1.7), rng.uniform(3.4, 4.6)
    for du, dv, dz in ball_directions(int(rng.integers(22, 27)), rng, 0.25):
        flat = np.array([du, dv])
        tip = (radius + length_um * rng.uniform(0.9, 1.1)) * flat + rng.normal(0, 1.2, 2)
        t, off, length = s.along(0.96 * radius * flat, tip)
        shown = np.clip(0.5 + t * length, 0, 1) * np.clip(0.5 + (1 - t) * length, 0, 1)
        flare = np.clip(t, 0, 1)
        half = shaft_um * (1 + 0.5 * np.exp(-flare * 8)) + (mouth_um - shaft_um) * flare**5
        tube = shown * (0.28 * inside(off - half) + 0.85 * line(off - half + 0.2, 0.5))
        rim = line((t - 1) * length, 0.55) * inside(off - mouth_um)
        mouth = line(s.polar(*tip)[0] - 0.75 * mouth_um, 0.55) if np.hypot(du, dv) < 0.5 else np.float32(0)
        s.thickness += depth * (0.75 if dz > -0.3 else 0.45) * np.maximum(np.maximum(tube, rim), 0.7 * mouth)
    s.folds(0.8 * radius, int(rng.integers(0, 2)), 0.4 * depth, wall)
    s.litter(0.7 * radius)
    return s.seen((0.15, 0.43, 1.0))


def palaeocystodinium(rng: np.random.Generator) -> Specimen:
    """Spindle with a slender horn at each end and a long inner body."""
    half, width = rng.uniform(42, 54), rng.uniform(10, 14)
    s = Sheet(half, rng, warp_um=1.3, squeeze=0.03)
    bend = rng.uniform(-0.0025, 0.0025)
    v = s.v + bend * s.u**2
    along = np.clip(np.abs(s.u) / half, 0, 1)
    profile = width * np.clip(1 - (along / 0.78) ** 2, 0, None) ** 1.25 + 1.6 * (1 - along) ** 0.5
    distance = np.maximum(np.abs(v) - profile, np.abs(s.u) - half)
    wall = inside(distance)
    depth = rng.uniform(0.28, 0.42)
    s.thickness += depth * wall * (1 + 0.09 * grain(s.shape, 1.0, rng) + 0.08 * grain(s.shape, 6, rng))
    s.thickness += 0.85 * depth * wall * line(distance + 0.5, 0.75)
    body = np.hypot(s.u / (0.55 * half), v / (0.86 * width)) - 1
    body_um = (body * 0.8 * width).astype(np.float32)
    s.thickness += depth * (0.5 * inside(body_um) + 0.75 * line(body_um + 0.4, 0.8))
    if rng.random() < 0.7:  # the spur next to the antapical horn
        t, off, length = s.along((0.56 * half, 0.3 * width), (0.7 * half, 0.62 * width))
        s.thickness += (
            depth * 1.2 * np.exp(-((off / 0.9) ** 2)) * np.clip(t * length, 0, 1) * np.clip((1 - t) * length, 0, 1)
        )
    for _ in range(int(rng.integers(1, 4))):
        start, offset = rng.uniform(-0.5, 0.1) * half, rng.uniform(-0.5, 0.5) * width
        fold = np.array(
            [
                (start + i * 0.1 * half, offset + rng.normal(0, 0.6) - bend * (start + i * 0.1 * half) ** 2)
                for i in range(5)
            ]
        )
        s.thickness += 0.7 * depth * wall * s.stroke(fold, 0.8)
    s.litter(0.7 * width)
    return s.seen((0.13, 0.34, 1.0))


def deflandrea(rng: np.random.Generator) -> Specimen:
    """Pale five-cornered outer wall with one horn above and two below, round a large dark inner body."""
    length, width = rng.uniform(42, 52), rng.uniform(31, 38)
    s = Sheet(length * 1.05, rng, squeeze=0.04)
    horn, skew = rng.uniform(0.13, 0.17) * width, rng.normal(0, 0.05)
    left, right = rng.uniform(0.85, 1.0, 2)
    outline = smooth_polygon(
        [
            (-length, -horn * 0.6), (-length, horn * 0.6), (-0.78 * length, 1.5 * horn),
            (-0.45 * length, 0.8 * width), (-0.05 * length, (1 + skew) * width), (0.08 * length, (1 + skew) * width),
            (0.5 * length, 0.78 * width), (0.8 * length, 0.62 * width), (right * length, 0.56 * width),
            (right * length, 0.47 * width), (0.76 * length, 0.3 * width), (0.68 * length, 0),
            (0.76 * length, -0.3 * width), (left * length, -0.47 * width), (left * length, -0.56 * width),
            (0.8 * length, -0.62 * width), (0.5 * length, -0.78 * width), (0.08 * length, -(1 - skew) * width),
            (-0.05 * length, -(1 - skew) * width), (-0.45 * length, -0.8 * width), (-0.78 * length, -1.5 * horn),
        ]
    )  # fmt: skip
    distance = s.outline(outline)
    outer = inside(distance)
    depth = rng.uniform(0.17, 0.26)
    s.thickness += depth * outer * (0.9 + 0.1 * grain(s.shape, 0.9, rng)) + 1.3 * depth * line(distance + 0.5, 0.7)
    centre = -0.02 * length
    r, angle = s.polar(centre, 0.0)
    body = r - wavy_radius(angle, rng.uniform(0.76, 0.86) * width, rng, 0.02)
    core = rng.uniform(0.45, 0.8)
    within = inside(body)
    s.thickness += core * within * (0.85 + 0.05 * grain(s.shape, 0.9, rng) + 0.05 * grain(s.shape, 5, rng))
    s.thickness += 0.8 * core * line(body + 0.7, 1.0)
    for offset in (-0.09, 0.09):  # the girdle
        s.thickness += 0.3 * core * outer * line(s.u - (0.12 + offset) * length - 0.001 * s.v**2, 0.6)
    if rng.random() < 0.65:
        w = 0.34 * width
        plate = smooth_polygon(
            [
                (-0.48 * length, -0.6 * w),
                (-0.48 * length, 0.6 * w),
                (-0.2 * length, w),
                (-0.1 * length, 0.6 * w),
                (-0.1 * length, -0.6 * w),
                (-0.2 * length, -w),
            ],
            1,
        )
        hole = s.outline(plate)
        s.thickness -= 0.45 * core * within * inside(hole)
        s.thickness += 0.35 * core * line(hole, 0.6)
    s.litter(0.7 * width)
    return s.seen((0.15, 0.42, 1.0))


def pityosporites(rng: np.random.Generator) -> Specimen:
    """Pollen of a conifer: a granular body between two air sacs with a net inside."""
    body_u, body_v = rng.uniform(19, 25), rng.uniform(20, 25)
    sac = rng.uniform(15, 19)
    apart = body_u * rng.uniform(0.92, 1.08)
    s = Sheet(apart + 1.1 * sac, rng, warp_um=1.0)
    droop = np.deg2rad(rng.uniform(0, 26))
    depth = rng.uniform(0.38, 0.68)
    body = (np.hypot(s.u / body_u, s.v / body_v) - 1) * min(body_u, body_v)
    within = inside(body)
    sacs = np.zeros(s.shape, np.float32)
    for side in (-1, 1):
        cu, cv = side * apart * np.cos(droop), apart * np.sin(droop)
        bearing = np.arctan2(cv, cu)
        du, dv = s.u - cu, s.v - cv
        a, b = du * np.cos(bearing) + dv * np.sin(bearing), dv * np.cos(bearing) - du * np.sin(bearing)
        bag = (np.hypot(a / sac, b / (1.28 * sac)) - 1) * sac
        full = inside(bag)
        behind = 1 - 0.6 * within  # what lies under the body is out of focus
        net = mesh(a, b, rng.uniform(3.2, 4.4), rng)
        s.thickness += depth * full * behind * (0.55 + 0.75 * line(net, 0.7) + 0.8 * line(bag + 0.6, 0.8))
        s.thickness += 0.35 * depth * full * within * line(bag + 2.5, 3.0)
        sacs = np.maximum(sacs, full)
    s.thickness += depth * within * (0.95 + 0.17 * grain(s.shape, 0.8, rng) + 0.2 * (1 - sacs))
    cap = within * line(body + 1.5, 1.8) * np.clip(0.6 - s.v / body_v, 0.15, 1.2)
    s.thickness += 0.9 * depth * cap
    s.litter(body_u)
    return s.seen((0.16, 0.41, 1.0))


FOSSILS: dict[str, Callable[[np.random.Generator], Specimen]] = {
    function.__name__: function
    for function in (
        cymatiosphaera,
        deflandrea,
        deltoidospora,
        hystrichosphaeridium,
        inaperturopollenites,
        operculodinium,
        palaeocystodinium,
        pityosporites,
        tasmanites,
    )
}
"""One drawing function per genus."""
