"""Drawing tools for specimens: a rotated and warped sheet in micrometres; lines, balls, nets and polygons."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.draw import polygon2mask

from sample_slides.optics import MPP, FloatArray, Specimen, grain, specimen

Points = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


class Sheet:
    """A square of the slide with its own rotated, squeezed and slightly warped coordinates, in micrometres.

    Attributes:
        u, v: float32 (H, W), the specimen's own coordinates of every pixel.
        thickness: float32 (H, W), what has been drawn so far.
        rng: the specimen's random generator.
    """

    def __init__(
        self, reach_um: float, rng: np.random.Generator, *, warp_um: float = 0.8, squeeze: float = 0.05
    ) -> None:
        side = 2 * int((1.15 * reach_um + 6) / MPP)
        axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) * MPP
        x, y = axis[None, :], axis[:, None]
        turn = rng.uniform(0, 2 * np.pi)
        self._turn = turn
        self.shape = (side, side)
        self.rng = rng
        stretch = np.exp(rng.normal(0, squeeze))
        self.u: FloatArray = ((x * np.cos(turn) + y * np.sin(turn)) * stretch).astype(np.float32)
        self.v: FloatArray = ((y * np.cos(turn) - x * np.sin(turn)) / stretch).astype(np.float32)
        if warp_um:
            self.u = self.u + warp_um * grain(self.shape, 16, rng)
            self.v = self.v + warp_um * grain(self.shape, 16, rng)
        self.thickness: FloatArray = np.zeros(self.shape, np.float32)

    def polar(self, cu: float = 0.0, cv: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """Return the distance from a point (um) and the angle around it (radians)."""
        return np.hypot(self.u - cu, self.v - cv), np.arctan2(self.v - cv, self.u - cu)

    def outline(self, points: Points) -> FloatArray:
        """Return the distance to a closed polygon (N, 2) in um, negative inside."""
        scale = 128 / np.abs(points).max()  # the polygon fills the middle half, so distances outside are known too
        corners = (points * scale + 256)[:, ::-1]
        mask = polygon2mask((513, 513), corners)
        distance = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
        at = np.stack([self.v * scale + 256, self.u * scale + 256])
        field = ndimage.map_coordinates(distance.astype(np.float32), at, order=1, mode="nearest") / scale
        result: FloatArray = ndimage.gaussian_filter(field, 0.35 / MPP)
        return result

    def along(self, start: npt.ArrayLike, end: npt.ArrayLike) -> tuple[FloatArray, FloatArray, float]:
        """Return the position along a segment (0 to 1 on it), the distance to its line in um, and its length in um."""
        a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
        length = float(np.hypot(*(b - a))) + 1e-6
        du, dv = (b - a) / length
        t = ((self.u - a[0]) * du + (self.v - a[1]) * dv) / length
        return t, np.abs((self.v - a[1]) * du - (self.u - a[0]) * dv), length

    def stroke(self, points: Points, width_um: float) -> FloatArray:
        """Return a blurred line through points (N, 2), 1 at its centre: float32 (H, W)."""
        line = np.zeros(self.shape, np.float32)
        for a, b in pairwise(points):
            t, across, length = self.along(a, b)
            beyond = np.maximum(np.maximum(-t, t - 1), 0) * length
            np.maximum(line, np.exp(-(across**2 + beyond**2) / width_um**2), out=line)
        return line

    def folds(self, radius_um: float, count: int, strength: float, inside: FloatArray) -> None:
        """Add `count` curved folds within `radius_um`: a dark line with a thinner shadow on one side."""
        for _ in range(count):
            angle, bend = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(-0.5, 0.5)
            offset, half = self.rng.uniform(-0.55, 0.55) * radius_um, self.rng.uniform(0.35, 0.7) * radius_um
            t = np.linspace(-1, 1, 7)
            along, across = t * half, offset + bend * half * (1 - t**2)
            points = np.stack(
                [along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)], 1
            )
            width = self.rng.uniform(0.5, 1.0)
            self.thickness += strength * inside * (self.stroke(points, width) + 0.3 * self.stroke(points, 3.5 * width))

    def litter(self, radius_um: float) -> None:
        """Add a few small dark grains that stick to the specimen."""
        for _ in range(int(self.rng.integers(0, 4))):
            distance, angle = radius_um * self.rng.random() ** 0.5, self.rng.uniform(0, 2 * np.pi)
            r, _ = self.polar(distance * np.cos(angle), distance * np.sin(angle))
            self.thickness += (
                self.rng.uniform(0.3, 1.0) * inside(r - self.rng.uniform(0.5, 1.3), 0.8) * (self.thickness > 0.1)
            )

    def seen(self, pigment: tuple[float, float, float]) -> Specimen:
        """Return the specimen as the microscope shows it, with slightly varied pigment."""
        shade = self.rng.normal(0, 1, 2)
        red, green = pigment[0] * (1 + 0.06 * shade[0]), pigment[1] * (1 + 0.04 * shade[1])
        return specimen(np.maximum(self.thickness, 0), (red, green, pigment[2]), self.rng)


def inside(distance: Floats, edge_um: float = 0.5) -> FloatArray:
    """Return 1 inside and 0 outside, with a blurred edge."""
    result: FloatArray = np.clip(0.5 - distance / edge_um, 0, 1)
    return result


def line(distance: Floats, width_um: float) -> FloatArray:
    """Return a blurred line where `distance` is 0."""
    result: FloatArray = np.exp(-((distance / width_um) ** 2))
    return result


def shell(share: FloatArray, wall: float) -> FloatArray:
    """Return the light path through a flattened hollow ball, 1 in the middle. `share` is distance over radius, 0 to 1."""
    inner = 1 - wall
    path = np.sqrt(np.clip(1 - share**2, 0, None)) - np.sqrt(np.clip(inner**2 - share**2, 0, None))
    result: FloatArray = (path / wall) ** 0.7
    return result


def wavy_radius(angle: FloatArray, radius_um: float, rng: np.random.Generator, waviness: float = 0.02) -> FloatArray:
    """Return a radius in um that varies slowly with the angle."""
    radius = np.full_like(angle, 1.0)
    for order in range(2, 6):
        radius += waviness * rng.normal() / (order - 1) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return (radius * radius_um).astype(np.float32)


def ball_directions(count: int, rng: np.random.Generator, jitter: float = 0.12) -> Points:
    """Return directions (count, 3) spread evenly over the ball (a jittered, rotated Fibonacci lattice)."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - z * z)
    points = np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    points = points @ turn + rng.normal(0, jitter, (count, 3)) * (4 / count) ** 0.5
    unit: Points = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


def smooth_polygon(points: npt.ArrayLike, rounds: int = 2) -> Points:
    """Cut the corners of a closed polygon (Chaikin), `rounds` times."""
    polygon = np.asarray(points, float)
    for _ in range(rounds):
        after = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.75 * polygon + 0.25 * after, 0.25 * polygon + 0.75 * after], 1).reshape(-1, 2)
    return polygon


def mesh(u: FloatArray, v: FloatArray, cell_um: float, rng: np.random.Generator) -> FloatArray:
    """Return the distance in um to the nearest wall of a net of irregular cells of about `cell_um`."""
    reach = float(max(np.abs(u).max(), np.abs(v).max())) + cell_um
    ticks = np.arange(-reach, reach, cell_um)
    seeds = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    seeds[:, 0] += 0.5 * cell_um * (np.arange(len(seeds)) // len(ticks) % 2)
    seeds += rng.uniform(-0.3, 0.3, seeds.shape) * cell_um
    return wall_distance(np.stack([u, v], -1), seeds)


def wall_distance(points: FloatArray, seeds: Points) -> FloatArray:
    """Return half the difference between the distances to the nearest two seeds: 0 on the walls between their cells.

    Args:
        points: float32 (H, W, D).
        seeds: float64 (N, D).
    """
    distances, _ = cKDTree(seeds).query(points.reshape(-1, points.shape[-1]), k=2)
    gap: FloatArray = ((distances[:, 1] - distances[:, 0]) / 2).reshape(points.shape[:-1]).astype(np.float32)
    return gap
