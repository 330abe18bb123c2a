"""Measure the heads: published splits, a hidden genus, and the composite wells at their true boxes.

usage: python benchmarks/heads.py --data DIR [--weights mobilenet|deit|descriptors] [--head knn|logistic] [--alpha A ...]
                                  [--views 8] [--fit squeeze|pad] [--margin 0 ...] [--turned] [--isolate] [--cache DIR]

DIR holds scampi-benchmark/, weights/ and wells/. The networks are built with timm directly on 256 px crops, of which
the centre 224 px are embedded. Embeddings are kept in --cache, since they take most of the time.
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
from scipy import ndimage
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from slidepipe.classify import KnnHead, LogisticHead
from slidepipe.interfaces import Fit, Head
from slidepipe.isolate import BACKGROUND_PERCENT, isolate
from slidepipe.present import present, views
from slidepipe_descriptors import DescriptorBackbone

STORED_PX = 256
SMALL_DEBRIS_PX = 60
"""Debris below this long side counts for nothing, as in the wells' own scoring."""

NETWORKS = {
    "mobilenet": ("mobilenetv1_100", "mobilenetv1_100_coral.pth", {"pad_type": "same"}, (0.5,) * 3, (0.5,) * 3),
    "deit": ("vit_tiny_patch16_224", "deit_tiny_patch16_224.pth", {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
Embed = Callable[[list[np.ndarray]], np.ndarray]


def network(name: str, folder: Path, n_views: int, fit: Fit) -> Embed:
    """The mean embedding over ``n_views`` flips and turns by one of NETWORKS."""
    import timm

    model_name, file, options, mean, std = NETWORKS[name]
    model = timm.create_model(model_name, num_classes=0, **options)
    state = torch.load(folder / file, weights_only=True)
    state = state.get("model", state)
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")}, strict=True)
    model.eval()
    centre, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    @torch.inference_mode()
    def embed(crops: list[np.ndarray]) -> np.ndarray:
        rows = []
        for start in range(0, len(crops), 32):
            squares = present(crops[start : start + 32], 256, fit)[:, 16:240, 16:240]
            batches = [torch.from_numpy(view).permute(0, 3, 1, 2) / 255 for view in views(squares, n_views)]
            rows.append(torch.stack([model((batch - centre) / spread) for batch in batches]).mean(0).numpy())
        return np.concatenate(rows)

    return embed


def descriptors(crops: list[np.ndarray]) -> np.ndarray:
    """The default backbone, as a run uses it; it does not change under flips and turns, so one view does."""
    backbone = DescriptorBackbone().load("cpu")
    return backbone.embed(present(crops, backbone.input_px, backbone.fit))


def well_rows(well: Path) -> list[dict[str, str]]:
    """The objects of a well's truth.csv without small debris."""
    with (well / "truth.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row for row in rows if row["genus"] != "debris" or max(box_size(row)) >= SMALL_DEBRIS_PX]


def box_size(row: dict[str, str]) -> tuple[int, int]:
    """Width and height of a truth box in level-0 pixels."""
    return int(row["x1"]) - int(row["x0"]), int(row["y1"]) - int(row["y0"])


def well_crops(well: Path, margin: float) -> Iterator[np.ndarray]:
    """Crops at the true boxes, ``margin`` of the long side added all round, stored at STORED_PX at most."""
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


DARK = 0.04
"""The optical density over a crop's background that belongs to the object."""


def turned(crop: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3): ``crop`` turned by 45 degrees on its own background and boxed anew, as a detector would."""
    bare = tuple(np.percentile(crop.reshape(-1, 3), BACKGROUND_PERCENT, axis=0).astype(int).tolist())
    image = Image.fromarray(crop).rotate(45, Image.Resampling.BICUBIC, expand=True, fillcolor=bare)
    pixels = np.asarray(image)
    light = np.percentile(pixels.reshape(-1, 3), BACKGROUND_PERCENT, axis=0).mean()
    density = -np.log10(np.clip(pixels.astype(np.float32).mean(axis=2) / light, 0.01, 2.0))
    reach_px = max(1, round(max(pixels.shape[:2]) / 250))
    edge_px = 4 * reach_px  # so that the closing does not eat an object that touches the edge
    dark = np.pad(ndimage.gaussian_filter(density, reach_px) > DARK, edge_px)
    closed = ndimage.binary_closing(dark, iterations=2 * reach_px)[edge_px:-edge_px, edge_px:-edge_px]
    parts, count = ndimage.label(closed, np.ones((3, 3)))
    if not count:
        return pixels
    largest = np.asarray(parts) == 1 + np.bincount(parts.ravel())[1:].argmax()
    rows, columns = np.flatnonzero(largest.any(axis=1)), np.flatnonzero(largest.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


PUBLISHED, OTHER = range(10), range(100, 120)


def splits(
    make: Callable[[], Head], embeddings: np.ndarray, genera: np.ndarray, alpha: float, seeds: Iterable[int]
) -> str:
    """Stratified 80/20 splits by these seeds: macro F1 of the forced answer, and what is accepted."""
    scores, coverage, right = [], [], []
    for seed in seeds:
        train, test = train_test_split(np.arange(len(genera)), test_size=0.2, stratify=genera, random_state=seed)
        said = make().fit(embeddings[train], genera[train], alpha).predict(embeddings[test])
        scores.append(f1_score(genera[test], said.genus, average="macro"))
        coverage.append(said.accepted.mean())
        right.append((said.genus == genera[test])[said.accepted].mean())
    return f"macro F1 {np.mean(scores):.4f}, accepted {np.mean(coverage):.3f}, of these right {np.mean(right):.3f}"


def hidden_genus(make: Callable[[], Head], embeddings: np.ndarray, genera: np.ndarray, alpha: float) -> str:
    """Each genus in turn left out of the reference set: how often is it taken for another?"""
    taken = {}
    for genus in np.unique(genera):
        known = genera != genus
        head = make().fit(embeddings[known], genera[known], alpha)
        taken[genus] = head.predict(embeddings[~known]).accepted.mean()
    worst = max(taken, key=lambda genus: taken[genus])
    return f"accepted as another {np.mean(list(taken.values())):.3f} (worst {worst} {taken[worst]:.2f})"


def on_well(head: Head, embeddings: np.ndarray, rows: list[dict[str, str]]) -> str:
    """The figures of a composite well, as its scoring script defines them, at the true boxes."""
    truth = np.array([row["genus"] for row in rows])
    fossil = truth != "debris"
    said = head.predict(embeddings)
    counted = Counter(np.where(said.accepted, said.genus, "unknown").tolist())
    true = Counter(np.where(fossil, truth, "unknown").tolist())
    apart = sum(abs(counted[name] - true[name]) for name in counted | true) / (2 * len(rows))
    right = said.genus == truth
    return (
        f"accepted right {right[said.accepted].mean():.3f}, fossils accepted {said.accepted[fossil].mean():.3f}, "
        f"debris accepted {said.accepted[~fossil].mean():.3f}, forced right {right[fossil].mean():.3f}, "
        f"Bray-Curtis {apart:.3f}"
    )


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description="Measure the heads")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", choices=[*NETWORKS, "descriptors"], default="mobilenet")
    parser.add_argument("--head", choices=["knn", "logistic"], default="knn")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.2])
    parser.add_argument("--views", type=int, choices=[1, 8], default=8)
    parser.add_argument("--fit", choices=["squeeze", "pad"], default="squeeze")
    parser.add_argument("--margin", type=float, nargs="+", default=[0.0])
    parser.add_argument("--turned", action="store_true", help="splits again with the mean over turned crops too")
    parser.add_argument(
        "--isolate", action="store_true", help="the object of each crop alone, as a run shows it to a network"
    )
    parser.add_argument("--cache", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.data / "scampi-benchmark" / "imagefolder_20"
    files = sorted(folder.glob("*/*"))
    genera = np.array([file.parent.name for file in files])
    if options.weights == "descriptors":
        embed: Embed = descriptors
    else:
        embed = network(options.weights, options.data / "weights", options.views, options.fit)
    make = {"knn": KnnHead, "logistic": LogisticHead}[options.head]

    def cached(what: str, crops: Iterator[np.ndarray]) -> np.ndarray:
        if options.isolate:
            crops = map(isolate, crops)
        if options.cache is None:
            return embed(list(crops))
        alone = "_alone" if options.isolate else ""
        kept = options.cache / f"{options.weights}_{options.views}_{options.fit}{alone}_{what}.npy"
        if not kept.exists():
            options.cache.mkdir(parents=True, exist_ok=True)
            np.save(kept, embed(list(crops)))
        return np.load(kept)

    def images() -> Iterator[np.ndarray]:
        return (np.asarray(Image.open(file).convert("RGB")) for file in files)

    references = cached("references", images())
    print(f"{options.weights}, {options.views} views, {options.fit}, head {options.head}")
    if options.turned:
        both = (references + cached("turned", map(turned, images()))) / 2
        for alpha in options.alpha:
            for seeds in (PUBLISHED, OTHER):
                print(f"alpha {alpha:g}, turned too, {len(seeds)} splits: {splits(make, both, genera, alpha, seeds)}")
            print(f"alpha {alpha:g}, turned too, hidden genus: {hidden_genus(make, both, genera, alpha)}")
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
                said = on_well(head, cached(f"{well.name}_{margin:g}", well_crops(well, margin)), rows)
                print(f"alpha {alpha:g}, {well.name}, margin {margin:g}: {said}")


if __name__ == "__main__":
    main()
