"""Make a well of composite scans with known truth from a folder of labelled crops.

    python performance/make_composite.py --crops imagefolder_20 --seed 7 --out WELL [--slides 2] [--hard]

Each crop (folder name = genus) is divided by its own background to get its transmission. It is rotated, scaled to a plausible
size, given a smooth elliptical rim, and multiplied onto a smooth synthetic field with slow changes of illumination and noise.
Drawn brown and black polygons are debris, specks are dust, and some fossils lie in clumps of two or three that touch. All
random choices follow from the seed.

Writes to OUT: tiled pyramidal TIFFs that OpenSlide reads (0.25 um/px); `truth.csv` with one row per object (slide, genus or
`debris`, box in level-0 px, source, clump > 0 for objects that touch); and `reference.txt`, the list of crops that were not
placed. A crop also shows the surroundings of the fossil; the true box is the box of the largest connected piece.
"""

import argparse
import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw
from scipy import ndimage

MPP = 0.25
TILE_PX = 256
FIELDS = ("slide", "genus", "x0", "y0", "x1", "y1", "source", "clump")
FloatImage = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Look:
    """The look of a field: the properties that differ between laboratories and scanners."""

    side_px: int
    fossils: int
    debris: int
    clumps: int
    tint: tuple[float, float, float]
    drift: float
    noise: float
    quality: int


def draw_look(rng: np.random.Generator, hard: bool) -> Look:
    """Return a random look; `hard` ones are denser, more tinted, more uneven and noisier than a common scan."""
    grey = rng.uniform(205, 238)
    tint = rng.normal(0, 7 if hard else 4, 3)
    return Look(
        side_px=5120,
        fossils=int(rng.integers(50, 90 if hard else 70)),
        debris=int(rng.integers(30, 80 if hard else 50)),
        clumps=int(rng.integers(4, 14 if hard else 8)),
        tint=(grey + tint[0], grey + tint[1], grey + tint[2] - 4),
        drift=float(rng.uniform(0.02, 0.10 if hard else 0.04)),
        noise=float(rng.uniform(0.5, 4.0 if hard else 1.5)),
        quality=int(rng.integers(70, 92)),
    )


def field(look: Look, rng: np.random.Generator) -> FloatImage:
    """Return the empty field, float32 (side, side, 3): tint, slow illumination drift and shading towards one corner."""
    knots = max(4, look.side_px // 700)
    slow = ndimage.zoom(rng.normal(0, look.drift / 4, (knots, knots)), look.side_px / knots, order=3)
    ramp = np.linspace(-0.5, 0.5, look.side_px)
    angle = rng.uniform(0, 2 * np.pi)
    shade = look.drift * (np.cos(angle) * ramp[:, None] + np.sin(angle) * ramp[None, :])
    level = (1 + slow[: look.side_px, : look.side_px] + shade).astype(np.float32)
    tinted: FloatImage = level[..., None] * np.asarray(look.tint, np.float32)
    return tinted


def fossil(path: Path, rng: np.random.Generator) -> tuple[FloatImage, npt.NDArray[np.bool_]] | None:
    """Return a crop's transmission, float32 (h, w, 3), and the mask of its largest piece; None if there is none."""
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image, np.float32)
    background = np.percentile(pixels.reshape(-1, 3), 92, axis=0)
    light = np.clip(pixels / background, 0, 1.04).astype(np.float32)
    height, width = light.shape[:2]
    y = (np.arange(height) - (height - 1) / 2)[:, None] / (height / 2)
    x = (np.arange(width) - (width - 1) / 2)[None, :] / (width / 2)
    rim = np.clip((1 - np.hypot(x, y)) / 0.08, 0, 1)[..., None].astype(np.float32)
    light = light * rim + (1 - rim)
    scale = rng.uniform(190, 350) / max(height, width)
    rotated = ndimage.rotate(light, rng.uniform(0, 360), reshape=True, order=1, mode="constant", cval=1.0)
    scaled = Image.fromarray(np.clip(rotated * 200, 0, 255).astype(np.uint8)).resize(
        (max(8, round(rotated.shape[1] * scale)), max(8, round(rotated.shape[0] * scale))), Image.Resampling.LANCZOS
    )
    light = np.asarray(scaled, np.float32) / np.float32(200)
    light[np.abs(light - 1) < 0.004] = 1
    dense = light[..., 1:].min(axis=2) < 0.88
    dense = ndimage.binary_closing(np.pad(dense, 6), iterations=5)[6:-6, 6:-6]
    labels, count = ndimage.label(dense, np.ones((3, 3), bool))
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    mask = labels == largest
    x0, y0, x1, y1 = box_of(mask, 0, 0)
    if max(x1 - x0, y1 - y0) < 80:  # a piece under 20 um is not the fossil of the crop
        return None
    return light, mask


def debris(rng: np.random.Generator) -> tuple[FloatImage, npt.NDArray[np.bool_]]:
    """Draw a phytoclast; return transmission and mask. One fifth are specks under the size limit."""
    side = int(rng.uniform(10, 50) if rng.random() < 0.4 else rng.uniform(60, 260))
    corners = int(rng.integers(4, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = side / 2 * rng.uniform(0.5, 1, corners)
    canvas = Image.new("L", (side + 4, side + 4))
    centre = side / 2 + 2
    points = [(centre + r * np.cos(a), centre + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    rim = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, rng.uniform(0.7, 2.5))
    colours = ((0.06, 0.05, 0.05), (0.35, 0.2, 0.12), (0.6, 0.42, 0.2))
    colour = np.asarray(colours[rng.integers(3)], np.float32) * rng.uniform(0.8, 1.2)
    grain = 1 + rng.normal(0, 0.06, (*rim.shape, 1)).astype(np.float32)
    light = 1 - rim[..., None] * (1 - np.clip(colour * grain, 0.02, 1))
    return light.astype(np.float32), rim > min(0.3, 0.5 * float(rim.max()))  # a thin shape vanishes in the blur


def box_of(mask: npt.NDArray[np.bool_], x: int, y: int) -> Box:
    """Return the half-open box of a mask whose corner lies at x, y."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def place(taken: npt.NDArray[np.bool_], shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int] | None:
    """Return a free corner x, y for an array of `shape`, or None; `taken` is downsampled by 16."""
    for _ in range(200):
        x = int(rng.integers(60, taken.shape[1] * 16 - shape[1] - 60))
        y = int(rng.integers(60, taken.shape[0] * 16 - shape[0] - 60))
        spot = (slice(y // 16 - 2, (y + shape[0]) // 16 + 3), slice(x // 16 - 2, (x + shape[1]) // 16 + 3))
        if not taken[spot].any():
            taken[spot] = True
            return x, y
    return None


def clump(
    members: list[tuple[FloatImage, npt.NDArray[np.bool_]]], rng: np.random.Generator
) -> tuple[FloatImage, list[npt.NDArray[np.bool_]]]:
    """Move fossils together until they touch; return one transmission image and a mask per fossil.

    Half of the clumps form a row, with touching boxes; in the others each fossil is moved towards the rest from a random
    direction.
    """
    in_a_row = rng.random() < 0.5
    side = 2 * sum(max(mask.shape) for _, mask in members)
    light = np.ones((side, side, 3), np.float32)
    union = np.zeros((side, side), bool)
    masks: list[npt.NDArray[np.bool_]] = []
    direction = rng.integers(4) * np.pi / 2 if in_a_row else rng.uniform(0, 2 * np.pi)
    for number, (image, mask) in enumerate(members):
        height, width = mask.shape
        if number and not in_a_row:
            direction += rng.uniform(-1.0, 1.0)
        for distance in range(0 if number == 0 else 8, side // 2, 3):
            x = round(side / 2 - width / 2 + np.cos(direction) * distance)
            y = round(side / 2 - height / 2 + np.sin(direction) * distance)
            spot = (slice(y, y + height), slice(x, x + width))
            if in_a_row and masks:
                boxes = box_of(union, 0, 0), box_of(mask, x, y)
                sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for a, b in [boxes] for i in (0, 1)]
                if min(sides) <= 6:
                    break
            elif (union[spot] & mask).sum() <= 20:  # they just touch
                break
        light[spot] *= image
        union[spot] |= mask
        own = np.zeros((side, side), bool)
        own[spot] = mask
        masks.append(own)
    used = np.flatnonzero((light != 1).any(axis=(1, 2))), np.flatnonzero((light != 1).any(axis=(0, 2)))
    cut = (slice(used[0][0], used[0][-1] + 1), slice(used[1][0], used[1][-1] + 1))
    return light[cut], [mask[cut] for mask in masks]


def compose(
    slide: str, crops: list[Path], look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[dict[str, object]]]:
    """Return one scan, uint8 (side, side, 3), and its truth rows. Removes the crops it uses from the end of `crops`."""
    image = field(look, rng)
    taken = np.zeros((look.side_px // 16, look.side_px // 16), bool)
    truth: list[dict[str, object]] = []

    def add(light: FloatImage, masks: list[npt.NDArray[np.bool_]], names: list[tuple[str, str]], group: int) -> None:
        corner = place(taken, (light.shape[0], light.shape[1]), rng)
        if corner is None:
            return
        x, y = corner
        image[y : y + light.shape[0], x : x + light.shape[1]] *= light
        for mask, (genus, source) in zip(masks, names, strict=True):
            x0, y0, x1, y1 = box_of(mask, x, y)
            values = (slide, genus, x0, y0, x1, y1, source, group)
            truth.append(dict(zip(FIELDS, values, strict=True)))

    def take() -> tuple[tuple[FloatImage, npt.NDArray[np.bool_]], tuple[str, str]]:
        while True:
            path = crops.pop()
            made = fossil(path, rng)
            if made is not None:
                return made, (path.parent.name, f"{path.parent.name}/{path.name}")

    for group in range(1, look.clumps + 1):
        chosen = [take() for _ in range(3 if rng.random() < 0.25 else 2)]
        light, masks = clump([made for made, _ in chosen], rng)
        add(light, masks, [name for _, name in chosen], group)
    for _ in range(look.fossils):
        (light, mask), name = take()
        add(light, [mask], [name], 0)
    for _ in range(look.debris):
        light, mask = debris(rng)
        add(light, [mask], [("debris", "")], 0)
    image += rng.normal(0, look.noise, image.shape).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), truth


def through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Apply the losses of a scanner's JPEG (chroma at half resolution)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Image.open(buffer))


def write_pyramid(path: Path, image: npt.NDArray[np.uint8], quality: int) -> None:
    """Write a tiled TIFF with levels 1, 4 and 16 and the resolution in its tags, as OpenSlide reads it.

    Tiles are compressed with deflate, because tifffile alone writes no JPEG. The pixels already have JPEG losses.
    """
    with tifffile.TiffWriter(path) as tiff:
        for factor in (1, 4, 16):
            height, width = image.shape[0] // factor, image.shape[1] // factor
            level = image.reshape(height, factor, width, factor, 3).mean(axis=(1, 3)).round().astype(np.uint8)
            per_cm = 1e4 / (MPP * factor)
            tiff.write(
                through_jpeg(level, quality), tile=(TILE_PX, TILE_PX), photometric="rgb", compression="zlib", metadata=None,
                subfiletype=0 if factor == 1 else 1, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
            )  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--crops", type=Path, required=True, help="labelled crops, one folder per genus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=2)
    parser.add_argument("--hard", action="store_true", help="denser, more tinted, more uneven and noisier fields")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    crops = sorted(
        path for path in options.crops.glob("*/*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".tif"}
    )
    crops = [crops[i] for i in rng.permutation(len(crops))]
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number in range(options.slides):
        slide = f"9999_9-{options.seed % 99 + 1} {1200 + 10 * number} mDC"
        look = draw_look(rng, options.hard)
        image, truth = compose(slide, crops, look, rng)
        write_pyramid(options.out / f"{slide}.tiff", image, look.quality)
        rows += truth
        print(f"{slide}: {len(truth)} objects, {look}")
    with (options.out / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "reference.txt").write_text("".join(f"{path.parent.name}/{path.name}\n" for path in sorted(crops)))


if __name__ == "__main__":
    main()
