"""Sizes of the measurements: full, or the smallest that test the scripts."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements.

    Attributes:
        repeats: repetitions of measurements that take seconds; the figure is the median.
        slides: scans of each composite well.
        today: whether the published method is measured too, which takes one or two minutes.
        dense_blocks: the dense scan repeats a block of 4096 px with objects this many times in each direction.
        crops: crops to embed.
        copies: copies of the composite wells' scans in the whole run.
        rectangles: columns and rows of blocks of the growing scan.
        dense: numbers of blocks with objects on a scan of fixed size.
        wells: numbers of slides of the growing well.
    """

    repeats: int
    slides: int
    today: bool
    dense_blocks: int
    crops: int
    copies: int
    rectangles: tuple[tuple[int, int], ...]
    dense: tuple[int, ...]
    wells: tuple[int, ...]


FULL = Scale(
    repeats=5,
    slides=3,
    today=True,
    dense_blocks=5,
    crops=32,
    copies=2,
    rectangles=((3, 2), (6, 4), (12, 8), (24, 16)),
    dense=(1, 12, 119),
    wells=(1, 2, 4, 8),
)
TINY = Scale(
    repeats=1,
    slides=1,
    today=False,
    dense_blocks=1,
    crops=2,
    copies=1,
    rectangles=((1, 1), (2, 1)),
    dense=(0, 1),
    wells=(1, 2),
)


def data_folder() -> Path | None:
    """Return the folder of real data that SLIDEPIPE_TEST_DATA names, or None."""
    folder = os.environ.get("SLIDEPIPE_TEST_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


NO_DATA = "SLIDEPIPE_TEST_DATA names no folder of real test data"


def composite_slides(data: Path, count: int) -> list[Path]:
    """Return the first `count` scans of each composite well."""
    return [path for well in ("composite_a", "composite_b") for path in scans(data / "wells" / well)[:count]]


def scans(folder: Path) -> list[Path]:
    """Return the scans of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".svs", ".mrxs"))
