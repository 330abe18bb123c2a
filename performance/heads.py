"""Accuracy of the heads: published splits, a hidden genus, and the composite wells at their true boxes.

usage: python performance/heads.py --data DIR [--weights mobilenet|deit|descriptors] [--head knn|logistic] [--alpha A ...]
                                  [--orientations 8] [--fit squeeze|pad] [--margin 0 ...] [--isolate] [--cache DIR]

DIR contains scampi-benchmark/, weights/ and wells/. Crops are embedded as in a run, by one backbone without a companion.
Embeddings are stored in --cache, because they take most of the time.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import openslide
import torch
from PIL import Image
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from slidepipe import plugins
from slidepipe.config import HeadConfig
from slidepipe.embedding.embed import embed_crops
from slidepipe.heads.knn import KnnHead
from slidepipe.heads.logistic import LogisticHead
from slidepipe.interfaces import Backbone, Fit, Head
from slidepipe_plugins.descriptors import DescriptorBackbone

STORED_PX = 256
SMALL_DEBRIS_PX = 60
"""Debris below this long side counts for nothing, as in the wells' own scoring."""

NETWORKS: dict[str, tuple[str, str, dict[str, object]]] = {
    "mobilenet": (
        "timm:mobilenetv1_100",
        "mobilenetv1_100_coral.pth",
        {"model_kwargs": {"pad_type": "same"}, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    ),
    "deit": ("timm:vit_tiny_patch16_224", "deit_tiny_patch16_224.pth", {}),
}


def loaded_backbone(weights: str, folder: Path, fit: Fit) -> Backbone:
    """Load one of NETWORKS, or the built-in descriptors, on the CPU."""
    if weights not in NETWORKS:
        return DescriptorBackbone().load("cpu")
    name, file, settings = NETWORKS[weights]
    return plugins.create("backbone", name, {**settings, "fit": fit}, folder / file).load("cpu")


def well_rows(well: Path) -> list[dict[str, str]]:
    """Return the objects of a well's truth.csv without small debris."""
    with (well / "truth.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row for row in rows if row["genus"] != "debris" or max(box_size(row)) >= SMALL_DEBRIS_PX]


def box_size(row: dict[str, str]) -> tuple[int, int]:
    """Return width and height of a truth box in level-0 pixels."""
    return int(row["x1"]) - int(row["x0"]), int(row["y1"]) - int(row["y0"])


def well_crops(well: Path, margin: float) -> Iterator[np.ndarray]:
    """Return crops at the true boxes, enlarged by `margin` of the long side, with a long side of at most STORED_PX."""
    slides = {path.stem: openslide.OpenSlide(path) for path in [*well.glob("*.svs"), *well.glob("*.mrxs")]}
    for row in well_rows(well):
        slide, (width, height) = slides[row["slide"]], box_size(row)
        extra = round(margin * max(width, height))
        seen = slide.read_region(
            (int(row["x0"]) - extra, int(row["y0"]) - extra), 0, (width + 2 * extra, height + 2 * extra)
        )
        behind = Image.new("RGBA", seen.size, "#" + slide.properties.get("openslide.background-color", "ffffff"))
        crop = Image.alpha_composite(behind, seen).convert("RGB")
        scale = min(1.0, STORED_PX / max(crop.size))
        size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
        yield np.asarray(crop.resize(size, Image.Resampling.BICUBIC))


PUBLISHED, OTHER = range(10), range(100, 120)


def splits(
    make: Callable[[], Head], embeddings: np.ndarray, genera: np.ndarray, alpha: float, seeds: Iterable[int]
) -> str:
    """Measure stratified 80/20 splits: macro F1 of the best genus, and the accepted fraction."""
    scores, coverage, right = [], [], []
    for seed in seeds:
        train, test = train_test_split(np.arange(len(genera)), test_size=0.2, stratify=genera, random_state=seed)
        answer = make().fit(embeddings[train], genera[train], alpha).predict(embeddings[test])
        scores.append(f1_score(genera[test], answer.genus, average="macro"))
        coverage.append(answer.accepted.mean())
        right.append((answer.genus == genera[test])[answer.accepted].mean())
    return f"macro F1 {np.mean(scores):.4f}, accepted {np.mean(coverage):.3f}, of these right {np.mean(right):.3f}"


def hidden_genus(make: Callable[[], Head], embeddings: np.ndarray, genera: np.ndarray, alpha: float) -> str:
    """Leave each genus out of the reference set in turn; measure how often its crops are accepted as another genus."""
    taken = {}
    for genus in np.unique(genera):
        known = genera != genus
        head = make().fit(embeddings[known], genera[known], alpha)
        taken[genus] = head.predict(embeddings[~known]).accepted.mean()
    worst = max(taken, key=lambda genus: taken[genus])
    return f"accepted as another {np.mean(list(taken.values())):.3f} (worst {worst} {taken[worst]:.2f})"


def on_well(head: Head, embeddings: np.ndarray, rows: list[dict[str, str]]) -> str:
    """Measure a composite well at its true boxes, with the definitions of its scoring script."""
    truth = np.array([row["genus"] for row in rows])
    fossil = truth != "debris"
    answer = head.predict(embeddings)
    counted = Counter(np.where(answer.accepted, answer.genus, "unknown").tolist())
    true = Counter(np.where(fossil, truth, "unknown").tolist())
    apart = sum(abs(counted[name] - true[name]) for name in counted | true) / (2 * len(rows))
    right = answer.genus == truth
    return (
        f"accepted right {right[answer.accepted].mean():.3f}, fossils accepted {answer.accepted[fossil].mean():.3f}, "
        f"debris accepted {answer.accepted[~fossil].mean():.3f}, forced right {right[fossil].mean():.3f}, "
        f"Bray-Curtis {apart:.3f}"
    )


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description="Measure the heads")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", choices=[*NETWORKS, "descriptors"], default="mobilenet")
    parser.add_argument("--head", choices=["knn", "logistic"], default="knn")
    parser.add_argument("--alpha", type=float, nargs="+", default=[HeadConfig().alpha])
    parser.add_argument("--orientations", type=int, choices=[1, 8], default=8)
    parser.add_argument("--fit", choices=["squeeze", "pad"], default="squeeze")
    parser.add_argument("--margin", type=float, nargs="+", default=[0.0])
    parser.add_argument(
        "--isolate", action="store_true", help="the object of each crop alone, as a run shows it to a network"
    )
    parser.add_argument("--cache", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.data / "scampi-benchmark" / "imagefolder_20"
    files = sorted(folder.glob("*/*"))
    genera = np.array([file.parent.name for file in files])
    backbone = loaded_backbone(options.weights, options.data / "weights", options.fit)
    orientations = 1 if backbone.orientation_invariant else options.orientations
    make = {"knn": KnnHead, "logistic": LogisticHead}[options.head]

    def cached(what: str, pictures: Iterator[np.ndarray]) -> np.ndarray:
        alone = "_alone_posed" if options.isolate else ""
        kept = (options.cache or Path()) / f"{options.weights}_{options.orientations}_{options.fit}{alone}_{what}.npy"
        if options.cache is not None and kept.exists():
            return np.load(kept)
        crops = list(pictures)
        names = [f"{what} {number}" for number in range(len(crops))]
        embedded = embed_crops(backbone, crops, names, orientations, 32, options.isolate)
        if options.cache is not None:
            options.cache.mkdir(parents=True, exist_ok=True)
            np.save(kept, embedded)
        return embedded

    images = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    references = cached("references", images)
    print(f"{options.weights}, {options.orientations} orientations, {options.fit}, head {options.head}")
    for alpha in options.alpha:
        print(f"alpha {alpha:g}, ten published splits: {splits(make, references, genera, alpha, PUBLISHED)}")
        print(f"alpha {alpha:g}, twenty other splits: {splits(make, references, genera, alpha, OTHER)}")
        print(f"alpha {alpha:g}, hidden genus: {hidden_genus(make, references, genera, alpha)}")
        for well in sorted((options.data / "wells").glob("composite_*")):
            given = set((well / "reference.txt").read_text().split())
            known = np.array([f"{file.parent.name}/{file.name}" in given for file in files])
            head = make().fit(references[known], genera[known], alpha)
            for margin in options.margin:
                rows = well_rows(well)
                answer = on_well(head, cached(f"{well.name}_{margin:g}", well_crops(well, margin)), rows)
                print(f"alpha {alpha:g}, {well.name}, margin {margin:g}: {answer}")


if __name__ == "__main__":
    main()
