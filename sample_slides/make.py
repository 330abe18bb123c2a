"""Draw the sample well: `python -m sample_slides.make [--out FOLDER]`.

The same versions of numpy, scipy, scikit-image and Pillow give the same bytes every time. This script wrote the slides in the
repository; nothing in them comes from a real slide.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sample_slides.debris import draw_debris
from sample_slides.fossils import FOSSILS
from sample_slides.optics import MPP, VISIBLE_DENSITY, BoolArray, FloatArray, Specimen, draw_light, expose, visible_box
from sample_slides.scanfiles import encode_jpeg, image_tiles, write_mirax, write_svs

SEED = 20261124
TILE_PX = 256
GAP_PX = 28  # objects are at least 7 um apart, unless they are drawn as a clump
SLIDE_QUALITY = 80
SLIDE_LIGHT_SPREAD = 0.5  # one well is scanned on one scanner; reference crops come from many
REFERENCES_PER_GENUS = 56
REFERENCE_LONG_SIDE_PX = 256
REFERENCE_MARGIN = 0.1  # of the long side, on each side
BOX_PLAY_PX = 6  # neither people nor detectors draw boxes exact to the pixel
BACKGROUND = (232, 228, 224)  # colour that a MIRAX viewer shows where nothing was scanned

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SlidePlan:
    """The content of one slide.

    Attributes:
        name: file name with suffix, below the well.
        fossils: how many whole specimens of each genus.
        debris: how many pieces of debris.
        clumps: pairs of genera that touch; they are part of `fossils`.
        cut: genera of extra specimens that the scan's edge cuts.
        canvas: columns and rows of tiles of the whole canvas.
        scan: first column, first row, columns and rows of the scanned part.
        gaps: tiles of the scanned part (column, row in it) that were not scanned.
    """

    name: str
    fossils: dict[str, int]
    debris: int
    clumps: tuple[tuple[str, str], ...]
    cut: tuple[str, ...]
    canvas: tuple[int, int]
    scan: tuple[int, int, int, int]
    gaps: tuple[tuple[int, int], ...] = ()

    def scanned(self) -> BoolArray:
        """Return which tiles of the canvas were scanned: bool (rows, columns)."""
        column, row, columns, rows = self.scan
        tiles = np.zeros((self.canvas[1], self.canvas[0]), bool)
        tiles[row : row + rows, column : column + columns] = True
        for gap_column, gap_row in self.gaps:
            tiles[row + gap_row, column + gap_column] = False
        return tiles


@dataclass(frozen=True)
class Sample:
    """One sample of the well: depth in metres, type, and its slides."""

    depth_m: float
    sample_type: str
    slides: tuple[SlidePlan, ...]


WELL = "6407/6-5"
SAMPLES = (
    Sample(
        1200.0,
        "DC",
        (
            SlidePlan(
                "6407_6-5 1200 mDC.svs",
                {
                    "deflandrea": 18,
                    "deltoidospora": 3,
                    "hystrichosphaeridium": 6,
                    "inaperturopollenites": 15,
                    "operculodinium": 19,
                    "palaeocystodinium": 4,
                    "pityosporites": 10,
                },
                debris=66,
                clumps=(("inaperturopollenites", "operculodinium"),),
                cut=("operculodinium", "deflandrea"),
                canvas=(20, 20),
                scan=(0, 0, 20, 20),
            ),
        ),
    ),
    Sample(
        1430.43,
        "C",
        (
            SlidePlan(
                "6407_6-5 1430.43 mC.mrxs",
                {
                    "cymatiosphaera": 8,
                    "deflandrea": 12,
                    "deltoidospora": 8,
                    "hystrichosphaeridium": 11,
                    "inaperturopollenites": 11,
                    "operculodinium": 11,
                    "palaeocystodinium": 18,
                    "pityosporites": 9,
                    "tasmanites": 6,
                },
                debris=78,
                clumps=(("cymatiosphaera", "pityosporites"),),
                cut=("pityosporites", "palaeocystodinium"),
                canvas=(31, 27),
                scan=(4, 2, 22, 22),
                gaps=((0, 0), (1, 0), (0, 1), (21, 20), (20, 21), (21, 21), (12, 8)),
            ),
        ),
    ),
    Sample(
        1715.5,
        "SWC",
        (
            SlidePlan(
                "6407_6-5 1715,5 mSWC.svs",
                {
                    "cymatiosphaera": 12,
                    "deltoidospora": 9,
                    "hystrichosphaeridium": 7,
                    "inaperturopollenites": 3,
                    "palaeocystodinium": 5,
                    "pityosporites": 6,
                    "tasmanites": 12,
                },
                debris=54,
                clumps=(("cymatiosphaera", "deltoidospora"),),
                cut=("tasmanites",),
                canvas=(18, 18),
                scan=(0, 0, 18, 18),
            ),
            SlidePlan(
                "slide 2/6407_6-5 1715,5 mSWC.svs",
                {
                    "cymatiosphaera": 10,
                    "deltoidospora": 10,
                    "hystrichosphaeridium": 6,
                    "inaperturopollenites": 2,
                    "palaeocystodinium": 4,
                    "pityosporites": 5,
                    "tasmanites": 12,
                },
                debris=54,
                clumps=(("palaeocystodinium", "hystrichosphaeridium"),),
                cut=("cymatiosphaera",),
                canvas=(18, 18),
                scan=(0, 0, 18, 18),
            ),
        ),
    ),
)


@dataclass(frozen=True)
class TruthRow:
    """One object: slide, genus or `debris`, box (level-0 px of the canvas), clump (0: alone), cut by the edge."""

    slide: str
    genus: str
    box: Box
    clump: int
    cut: bool


@dataclass
class Group:
    """A specimen, or specimens that touch, placed together."""

    density: FloatArray
    members: list[tuple[str, Box]] = field(default_factory=list)
    cut: bool = False

    @property
    def box(self) -> Box:
        """The box around all members, in pixels of `density`."""
        boxes = np.array([box for _, box in self.members])
        return int(boxes[:, 0].min()), int(boxes[:, 1].min()), int(boxes[:, 2].max()), int(boxes[:, 3].max())


def visible(density: FloatArray) -> BoolArray:
    """Return the pixels darker than the field: bool (H, W) of float32 (H, W, 3)."""
    result: BoolArray = density[..., 1:].max(axis=-1) > VISIBLE_DENSITY
    return result


def touching(first: tuple[str, Specimen], second: tuple[str, Specimen], rng: np.random.Generator) -> Group:
    """Push the second specimen against the first from a random side until they just touch."""
    a, b = first[1].density, second[1].density
    reach = max(b.shape[:2])
    density = np.zeros((a.shape[0] + 2 * reach, a.shape[1] + 2 * reach, 3), np.float32)
    density[reach : reach + a.shape[0], reach : reach + a.shape[1]] = a
    seen_a, seen_b = visible(density), visible(b)
    bearing = rng.uniform(0, 2 * np.pi)
    x = y = 0
    for distance in np.arange(1.5 * reach + max(a.shape[:2]), 0, -1):
        x = int(reach + a.shape[1] / 2 + distance * np.cos(bearing) - b.shape[1] / 2)
        y = int(reach + a.shape[0] / 2 + distance * np.sin(bearing) - b.shape[0] / 2)
        if x < 0 or y < 0 or x + b.shape[1] > density.shape[1] or y + b.shape[0] > density.shape[0]:
            continue
        if (seen_a[y : y + b.shape[0], x : x + b.shape[1]] & seen_b).sum() >= 30:
            break
    density[y : y + b.shape[0], x : x + b.shape[1]] += b
    boxes = [(reach, reach, first[1].box), (x, y, second[1].box)]
    members = [
        (genus, (left + box[0], top + box[1], left + box[2], top + box[3]))
        for genus, (left, top, box) in zip((first[0], second[0]), boxes, strict=True)
    ]
    return Group(density, members)


def draw_groups(plan: SlidePlan, seed: Sequence[int]) -> list[Group]:
    """Draw all objects of a slide, each from its own random stream."""
    count = 0

    def stream() -> np.random.Generator:
        nonlocal count
        count += 1
        return np.random.default_rng([*seed, count])

    left = dict(plan.fossils)
    groups = []
    for first, second in plan.clumps:
        left[first] -= 1
        left[second] -= 1
        pair = (first, FOSSILS[first](stream())), (second, FOSSILS[second](stream()))
        groups.append(touching(*pair, stream()))
    for genus, number in left.items():
        for _ in range(number):
            fossil = FOSSILS[genus](stream())
            groups.append(Group(fossil.density, [(genus, fossil.box)]))
    for genus in plan.cut:
        fossil = FOSSILS[genus](stream())
        groups.append(Group(fossil.density, [(genus, fossil.box)], cut=True))
    for _ in range(plan.debris):
        piece = draw_debris(stream())
        groups.append(Group(piece.density, [("debris", piece.box)]))
    return groups


def place(groups: list[Group], scanned: BoolArray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Find a free place for every group.

    Args:
        groups: what to place.
        scanned: bool (H, W), pixels of the canvas that were scanned.
        rng: draws the places.

    Returns:
        For every group the x, y of its density's corner, in pixels of the canvas (negative if cut there).

    Raises:
        ValueError: the slide is too crowded.
    """
    taken: list[Box] = []
    places: dict[int, tuple[int, int]] = {}
    rows, columns = np.nonzero(scanned.any(axis=1))[0], np.nonzero(scanned.any(axis=0))[0]
    # Cut specimens have the fewest possible places, then large ones.
    order = sorted(range(len(groups)), key=lambda i: (not groups[i].cut, -groups[i].density.size))
    for i in order:
        box = groups[i].box
        width, height = box[2] - box[0], box[3] - box[1]
        for _ in range(20000):
            x = int(rng.integers(columns[0] - width // 2, columns[-1] + 1 - width // 2))
            y = int(rng.integers(rows[0] - height // 2, rows[-1] + 1 - height // 2))
            if any(
                x < b[2] + GAP_PX and b[0] < x + width + GAP_PX and y < b[3] + GAP_PX and b[1] < y + height + GAP_PX
                for b in taken
            ):
                continue
            around = 0 if groups[i].cut else GAP_PX
            window = scanned[max(y - around, 0) : y + height + around, max(x - around, 0) : x + width + around]
            share = window.sum() / ((width + 2 * around) * (height + 2 * around))
            if (0.5 < share < 0.8) if groups[i].cut else share == 1:
                taken.append((x, y, x + width, y + height))
                places[i] = (x - box[0], y - box[1])
                break
        else:
            raise ValueError("the slide is too crowded: lower the counts or enlarge the scan")
    return [places[i] for i in range(len(groups))]


def slide_id(plan: SlidePlan) -> str:
    """Return the path below the well without its suffix."""
    return plan.name.rsplit(".", 1)[0]


def make_slide(well: Path, plan: SlidePlan, seed: Sequence[int]) -> list[TruthRow]:
    """Draw one slide, write it below `well`, and return its objects."""
    tiles = plan.scanned()
    scanned = np.kron(tiles, np.ones((TILE_PX, TILE_PX), bool))
    rng = np.random.default_rng([*seed, 0])
    groups = draw_groups(plan, seed)
    density = np.zeros((*scanned.shape, 3), np.float32)
    rows, clump = [], 0
    for group, (x, y) in zip(groups, place(groups, scanned, rng), strict=True):
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + group.density.shape[1], scanned.shape[1]), min(y + group.density.shape[0], scanned.shape[0])
        part = group.density[y0 - y : y1 - y, x0 - x : x1 - x]
        density[y0:y1, x0:x1] += part
        clump += len(group.members) > 1
        for genus, box in group.members:
            spot = (x + box[0], y + box[1], x + box[2], y + box[3])
            if group.cut:  # the box of the visible part
                left, top, right, bottom = visible_box(visible(part) & scanned[y0:y1, x0:x1])
                spot = (x0 + left, y0 + top, x0 + right, y0 + bottom)
            rows.append(TruthRow(slide_id(plan), genus, spot, clump if len(group.members) > 1 else 0, group.cut))
    picture = expose(density, draw_light(rng, SLIDE_LIGHT_SPREAD), rng)
    path = well / plan.name
    path.parent.mkdir(parents=True, exist_ok=True)
    served = image_tiles(picture, tile_px=TILE_PX, quality=SLIDE_QUALITY, scanned=tiles, fill=BACKGROUND)
    if path.suffix == ".mrxs":
        write_mirax(path, plan.canvas, served, mpp=MPP, tile_px=TILE_PX, fill=BACKGROUND)
    else:
        write_svs(path, (picture.shape[1], picture.shape[0]), served, mpp=MPP, tile_px=TILE_PX)
    return rows


def make_reference(genus: str, seed: Sequence[int]) -> Image.Image:
    """Draw one reference crop: a specimen with a margin, through the same light, lens and JPEG as the slides.

    The long side is at most `REFERENCE_LONG_SIDE_PX`. A smaller specimen is not enlarged, like a crop from a slide.
    """
    rng = np.random.default_rng(seed)
    fossil = FOSSILS[genus](rng)
    margin = round(REFERENCE_MARGIN * max(fossil.size_px))
    around = margin + 2 * BOX_PLAY_PX
    density = np.pad(fossil.density, ((around, around), (around, around), (0, 0)))
    window = (rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.8), 0.08)
    seen = Image.open(io.BytesIO(encode_jpeg(expose(density, draw_light(rng), rng, window), SLIDE_QUALITY)))
    play = rng.integers(-BOX_PLAY_PX, BOX_PLAY_PX + 1, 4)
    x0, y0, x1, y1 = (int(edge + around + by) for edge, by in zip(fossil.box, play, strict=True))
    crop = seen.crop((x0 - margin, y0 - margin, x1 + margin, y1 + margin))
    scale = min(1.0, REFERENCE_LONG_SIDE_PX / max(crop.size))
    return crop.resize((round(crop.width * scale), round(crop.height * scale)), Image.Resampling.BICUBIC)


def write_truth(out: Path, rows: list[TruthRow]) -> None:
    """Write `truth.csv` (one row per object) and `truth_counts.csv` (one row per sample, whole specimens only)."""
    with (out / "truth.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["slide", "genus", "x0", "y0", "x1", "y1", "clump", "cut"])
        table.writerows([row.slide, row.genus, *row.box, row.clump, int(row.cut)] for row in rows)
    with (out / "truth_counts.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["well", "depth_m", "sample_type", "slides", *FOSSILS])
        for sample in SAMPLES:
            ids = {slide_id(plan) for plan in sample.slides}
            whole = [row.genus for row in rows if row.slide in ids and not row.cut]
            counts = [whole.count(genus) for genus in FOSSILS]
            table.writerow([WELL, sample.depth_m, sample.sample_type, len(ids), *counts])


def main() -> None:
    """Write the well, the reference crops and the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="output folder [default: the folder of this script]"
    )
    out: Path = parser.parse_args().out
    plans = [plan for sample in SAMPLES for plan in sample.slides]
    rows = []
    for number, plan in enumerate(plans):
        rows += make_slide(out / "well", plan, (SEED, number))
        print(plan.name)
    write_truth(out, rows)
    for number, genus in enumerate(FOSSILS):
        folder = out / "reference" / genus
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(REFERENCES_PER_GENUS):
            crop = make_reference(genus, (SEED, 1000 + number, i))
            crop.save(folder / f"{i:03d}.jpg", quality=86, subsampling="4:4:4", optimize=True)
        print(f"reference/{genus}")


if __name__ == "__main__":
    main()
