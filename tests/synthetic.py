"""Synthetic RESULTS folders without slides: a random well whose tables, crops and embeddings agree with each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from slidepipe.classification.object_table import SCHEMA, ObjectTable, SlideObjects
from slidepipe.counting.counts import SlideCount, count_slide, long_table, sample_table, slide_table
from slidepipe.crops.cut import CropSpec, encode_crop
from slidepipe.crops.quality import RULES
from slidepipe.samples.sample import Sample, WellSlide
from slidepipe.store.arrays import write_embeddings, write_jpegs
from slidepipe.store.files import write_json, write_text
from slidepipe.store.slide_store import SlideStore

DIM = 16
SPEC = CropSpec(0.1, 256, 88)
TYPES = ("DC", "SWC", "C", "CC")
BOUNDS = (512, 256, 20992, 20736)


@dataclass(frozen=True)
class Drawn:
    """Objects of a synthetic slide: the genus of each, or None for an unknown object of one of `kinds` (-1: scattered)."""

    genera: list[str | None]
    kinds: list[int]


def genus_names(count: int) -> list[str]:
    starts = ["alis", "areo", "cleisto", "deflan", "eaton", "glaphyro", "hystricho", "isabel", "palaeo", "spinifer"]
    ends = ["cysta", "sphaeridium", "dinium", "ligera", "ites", "peridinium"]
    return sorted(start + end for end in ends for start in starts)[:count]


def make_well(
    folder: Path,
    samples: int = 3,
    genera: int = 5,
    seed: int = 5,
    statuses: Mapping[int, str] | None = None,
    objects: int = 30,
    well: str = "6407/6-5",
    name: Callable[[str], str] = lambda slide_id: slide_id,
    close: bool = True,
) -> Path:
    """Write a RESULTS folder of one slide per sample.

    The genera change with depth. About a quarter of the objects are unknown, half of these of one frequent kind.
    `statuses` gives "failed", "partial" or "barren" by sample number. With `close`, the second sample is 0.42 m below the first.
    """
    rng = np.random.default_rng(seed)
    names = genus_names(genera)
    depths = np.round(np.sort(rng.uniform(1000, 1000 + 20 * samples, samples)), 1)
    if close and samples > 1:
        depths[1] = round(depths[0] + 0.42, 2)
    statuses = statuses or {}
    middles, widths = rng.uniform(-0.1, 1.1, genera), rng.uniform(0.08, 0.5, genera)
    weights = rng.gamma(0.8, 1.0, genera)
    centres = rng.normal(0, 1, (genera + 2, DIM))
    folder.mkdir(parents=True, exist_ok=True)
    made: list[tuple[WellSlide, SlideObjects]] = []
    counts: list[SlideCount] = []
    entries = []
    failures = []
    for number in range(samples):
        sample = Sample(
            well, Decimal(str(depths[number])), TYPES[0] if rng.random() < 0.6 else TYPES[number % len(TYPES)]
        )
        slide = WellSlide(
            name(f"{well.replace('/', '_')} {depths[number]:g} m{sample.sample_type}"), Path("x.svs"), sample
        )
        status = statuses.get(number, "ok")
        entry = {
            "slide_id": slide.slide_id, "path": f"well/{slide.slide_id}.svs", "sample_id": sample.sample_id, "well": well,
            "depth_m": float(depths[number]), "sample_type": sample.sample_type, "status": "ok" if status == "barren" else status,
        }  # fmt: skip
        entries.append(entry)
        if status == "failed":
            counts.append(SlideCount(slide, "failed", 0.0))
            failures.append([slide.slide_id, "open", "", f"{slide.slide_id}: cannot be opened"])
            continue
        if status == "partial":
            failures.append([slide.slide_id, "detect", "0,0,4096,4096", "a tile cannot be read"])
        chance = weights * np.exp(-(((number / max(samples - 1, 1) - middles) / widths) ** 2))
        drawn = _drawn(rng, names, chance, 0 if status == "barren" else objects, objects // 3)
        table = _write_slide(folder, slide, drawn, names, centres, rng)
        made.append((slide, table))
        counts.append(count_slide(slide, table, 2.5, partial=status == "partial"))
        entry |= {
            "identity": "00" * 32, "vendor": "aperio", "objective_power": 40.0,
            "width_px": 21504, "height_px": 20992, "mpp_x": 0.25, "mpp_y": 0.25, "bounds": list(BOUNDS),
            "objects": len(table.table), "area_mm2": 2.5, "lost_mm2": 0.0, "seconds": {}, "fingerprints": {},
        }  # fmt: skip
    ObjectTable(folder).write(table for _, table in made)
    for file, frame in (
        ("counts.csv", sample_table(counts, names)),
        ("counts_slides.csv", slide_table(counts, names)),
        ("counts_long.csv", long_table(counts, names)),
        ("failures.csv", pd.DataFrame(failures, columns=["slide_id", "stage", "region", "reason"])),
    ):
        write_text(folder / file, frame.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "manifest.json", _manifest(names, entries))
    return folder


def _manifest(names: list[str], entries: list[dict[str, object]]) -> dict[str, object]:
    return {
        "slidepipe": "0.1.0",
        "written": "2026-01-01T00:00:00+00:00",
        "well": "well",
        "settings": {"backbone": {"name": "drawn", "orientations": 8}},
        "backbone": {
            "name": "drawn", "version": "1", "settings": {}, "files": [], "views": 8, "weights_sha256": "ab" * 32,
            "license": "Apache-2.0", "source": "tests",
        },
        "reference": {"folder": "reference", "fingerprint": "cd" * 32, "images": 60 * len(names), "genera": names},
        "objects": sum(int(str(entry.get("objects", 0))) for entry in entries),
        "accepted": 0,
        "slides": entries,
        "tables": "done",
    }  # fmt: skip


def _drawn(rng: np.random.Generator, names: list[str], chance: np.ndarray, fossils: int, others: int) -> Drawn:
    numbers = rng.multinomial(fossils, chance / chance.sum())
    genera: list[str | None] = [name for name, number in zip(names, numbers, strict=True) for _ in range(number)]
    kinds = [names.index(str(name)) for name in genera]
    for other in range(others):
        genera.append(None)
        kinds.append(len(names) if other % 2 else -1)
    return Drawn(genera, kinds)


def _write_slide(
    folder: Path, slide: WellSlide, drawn: Drawn, names: list[str], centres: np.ndarray, rng: np.random.Generator
) -> SlideObjects:
    count = len(drawn.genera)
    x0 = rng.integers(BOUNDS[0], BOUNDS[2] - 400, count)
    y0 = rng.integers(BOUNDS[1], BOUNDS[3] - 400, count)
    sides = rng.integers(80, 260, (count, 2))
    boxes = np.stack([x0, y0, x0 + sides[:, 0], y0 + sides[:, 1]], axis=1).astype(np.int64)
    stored = slide_embeddings(drawn.kinds, centres, rng)
    jpegs = [np.frombuffer(encode_crop(draw_object(kind, rng), SPEC), np.uint8) for kind in drawn.kinds]
    ends = np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64)
    store = SlideStore.in_results(folder, slide.slide_id)

    def write_boxes(group: object) -> None:
        for key, value in (
            ("boxes", boxes), ("area_um2", sides.prod(axis=1) * 0.04), ("score", np.ones(count)), ("cut", np.zeros(count, bool)),
        ):  # fmt: skip
            group.create_array(key, data=value)  # type: ignore[attr-defined]  # a Zarr group

    store.publish("boxes", "made", {"objects": count, "analysed_mm2": 2.5}, write_boxes)
    total = int(ends[-1]) if count else 0
    store.publish("crops", "made", {}, lambda group: write_jpegs(group, iter(jpegs), total, ends))
    store.publish("embeddings", "made", {}, lambda group: write_embeddings(group, stored))
    accepted = [genus is not None for genus in drawn.genera]
    nearest = [
        names[kind] if 0 <= kind < len(names) else names[row % len(names)] for row, kind in enumerate(drawn.kinds)
    ]
    p_values = np.round(np.where(accepted, rng.uniform(0.1, 1, count), rng.uniform(0, 0.1, count)), 3)
    columns = {
        "slide_id": [slide.slide_id] * count,
        "sample_id": [slide.sample.sample_id] * count,
        "well": [slide.sample.well] * count,
        "depth_m": [float(slide.sample.depth_m or 0)] * count,
        "sample_type": [slide.sample.sample_type] * count,
        "object_id": [f"{slide.slide_id}:{row:05d}" for row in range(count)],
        **{edge: boxes[:, index] for index, edge in enumerate(("x0", "y0", "x1", "y1"))},
        "width_um": sides[:, 0] * 0.25,
        "height_um": sides[:, 1] * 0.25,
        "area_um2": sides.prod(axis=1) * 0.04,
        "detect_score": np.ones(count),
        "state": ["accepted" if yes else "unknown" for yes in accepted],
        "genus": drawn.genera,
        "p_value": p_values,
        "distance": np.round(1 - p_values + 0.001 * np.arange(count), 6),
        "nearest": [[{"genus": genus, "reference": f"{genus}/001.jpg", "distance": 0.5}] for genus in nearest],
        "candidate": nearest,
        "reason": [None] * count,
        **{rule.column: [0.0] * count for rule in RULES},
    }
    return SlideObjects(slide.slide_id, pa.table(columns, schema=SCHEMA))


def slide_embeddings(kinds: list[int], centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return embeddings close to the centre of their kind; those of kind -1 are scattered."""
    stored = [(centres[kind] if kind >= 0 else 0) + rng.normal(0, 0.15 if kind >= 0 else 1.0, DIM) for kind in kinds]
    return np.array(stored, np.float32).reshape(len(kinds), DIM)


def draw_object(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Return a small picture whose shape and colour depend on its kind."""
    side = 72
    image = Image.new("RGB", (side, side), (232, 226, 220))
    pen = ImageDraw.Draw(image)
    shade = (90 + 37 * kind % 120, 60 + 53 * kind % 110, 40 + 29 * kind % 120)
    edge = int(rng.integers(8, 16))
    if kind < 0:
        points = [tuple(point) for point in rng.integers(8, side - 8, (5, 2)).tolist()]
        pen.polygon(points, fill=(60, 50, 45))
    elif kind % 3 == 0:
        pen.ellipse((edge, edge, side - edge, side - edge), fill=shade, outline=(50, 40, 30), width=3)
    elif kind % 3 == 1:
        pen.regular_polygon(
            (side // 2, side // 2, side // 2 - edge), 3 + kind % 5, rotation=int(rng.integers(360)), fill=shade
        )
    else:
        pen.ellipse((edge, side // 3, side - edge, 2 * side // 3), fill=shade)
        pen.ellipse((side // 3, edge, 2 * side // 3, side - edge), outline=(50, 40, 30), width=3)
    noisy = np.asarray(image, np.int16) + rng.integers(-4, 5, (side, side, 1))
    return noisy.clip(0, 255).astype(np.uint8)
