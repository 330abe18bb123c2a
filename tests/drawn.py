"""Small scans for tests: coloured discs on a pale field, written as real Aperio-style or MIRAX files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sample_slides.scanfiles import encode_jpeg, image_tiles, write_mirax, write_svs

FIELD = (232, 226, 220)
AMBER, BROWN, GREEN = (190, 130, 40), (90, 50, 25), (70, 130, 60)

#: x, y, radius in level-0 pixels, colour.
Disc = tuple[int, int, int, tuple[int, int, int]]


def field(width_px: int, height_px: int, discs: Sequence[Disc] = ()) -> np.ndarray:
    image = Image.new("RGB", (width_px, height_px), FIELD)
    pen = ImageDraw.Draw(image)
    for x, y, radius, colour in discs:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        pen.ellipse(
            (x - radius // 3, y - radius // 3, x + radius // 3, y + radius // 3), fill=tuple(c // 2 for c in colour)
        )
    rng = np.random.default_rng(7)
    noisy = np.asarray(image, np.int16) + rng.integers(-3, 4, (height_px, width_px, 1))
    return noisy.clip(0, 255).astype(np.uint8)


def svs(path: Path, image: np.ndarray, mpp: float | None = 0.25, factors: Sequence[int] = (1, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (image.shape[1], image.shape[0])
    write_svs(path, size, image_tiles(image, factors=factors, quality=90), mpp=mpp, factors=factors)
    return path


def mirax(
    path: Path, image: np.ndarray, offset_tiles: tuple[int, int] = (4, 2), missing: Sequence[tuple[int, int]] = ()
) -> Path:
    """Write `image` inside a larger canvas, `offset_tiles` from its corner; the tiles `missing` are not scanned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = image.shape[0] // 256, image.shape[1] // 256
    grid = (columns + 2 * offset_tiles[0], rows + 2 * offset_tiles[1])
    canvas = np.full((grid[1] * 256, grid[0] * 256, 3), 255, np.uint8)
    x, y = offset_tiles[0] * 256, offset_tiles[1] * 256
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    scanned = np.zeros((grid[1], grid[0]), bool)
    scanned[offset_tiles[1] : offset_tiles[1] + rows, offset_tiles[0] : offset_tiles[0] + columns] = True
    for column, row in missing:
        scanned[offset_tiles[1] + row, offset_tiles[0] + column] = False
    write_mirax(path, grid, image_tiles(canvas, factors=(1, 2, 4), quality=90, scanned=scanned), factors=(1, 2, 4))
    return path


def reference(folder: Path, count: int = 24) -> Path:
    """Write a reference set of amber, brown and green discs: the genera amberina, brunella and viridia."""
    rng = np.random.default_rng(11)
    for genus, colour in (("amberina", AMBER), ("brunella", BROWN), ("viridia", GREEN)):
        (folder / genus).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            radius = int(rng.integers(70, 110))
            side = int(2 * radius * 1.2)
            shade = tuple(int(c) for c in np.clip(np.array(colour) + rng.normal(0, 6, 3), 0, 255))
            crop = field(side, side, [(side // 2, side // 2, radius, shade)])
            (folder / genus / f"{index:03d}.jpg").write_bytes(encode_jpeg(crop, 92))
    return folder


def break_tile(path: Path, number: int) -> None:
    """Overwrite the middle of one stored JPEG of a scan file with zeros, so that reading it fails."""
    data = bytearray(path.read_bytes())
    starts = []
    at = data.find(b"\xff\xd8\xff")
    while at >= 0:
        starts.append(at)
        at = data.find(b"\xff\xd8\xff", at + 3)
    start = starts[number]
    data[start : start + 64] = bytes(64)
    path.write_bytes(bytes(data))
