"""Measure the default backbone on the labelled crops of the public benchmark.

usage: python performance/default_backbone.py --data IMAGEFOLDER

Prints the 1-NN macro F1 (Euclidean, ten stratified 80/20 splits, random_state 0..9), the same for the default head fitted on
the training part of each split, and the time per crop on this machine.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from slidepipe.embedding.square import to_squares
from slidepipe.heads.knn import KnnHead
from slidepipe.interfaces import Head
from slidepipe_plugins.descriptors import DescriptorBackbone

ALPHA = 0.1


def macro_f1(head: Head, embeddings: np.ndarray, genera: np.ndarray) -> list[float]:
    """Return the macro F1 of the head's best genus (accepted or not) on each of the ten splits."""
    scores = []
    for seed in range(10):
        train, test = train_test_split(np.arange(len(genera)), test_size=0.2, stratify=genera, random_state=seed)
        found = head.fit(embeddings[train], genera[train], ALPHA).predict(embeddings[test]).genus
        scores.append(float(f1_score(genera[test], found, average="macro")))
    return scores


def main() -> None:
    """Read the crops, embed them, print the figures."""
    parser = argparse.ArgumentParser(description="Measure the default backbone on labelled crops")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of images per genus")
    files = sorted(parser.parse_args().data.glob("*/*"))
    genera = np.array([file.parent.name for file in files])
    backbone = DescriptorBackbone().load("cpu")
    crops = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    squares = to_squares(crops, backbone.input_px, backbone.fit)
    started, started_cpu = time.perf_counter(), time.process_time()
    embeddings = backbone.embed(squares)
    wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    print(
        f"images {len(files)}, genera {len(np.unique(genera))}, dimensions {backbone.dim}, {backbone.input_px} px, {backbone.fit}"
    )
    print(f"embed: {1000 * cpu / len(files):.1f} ms of CPU per crop, {1000 * wall / len(files):.1f} ms of wall time")
    heads: dict[str, Head] = {
        "1-NN, Euclidean": KnnHead(KnnHead.Settings(k=1, metric="euclidean")),
        "default head": KnnHead(),
    }
    for title, head in heads.items():
        scores = macro_f1(head, embeddings, genera)
        print(f"{title}: macro F1 {np.mean(scores):.4f} (splits {min(scores):.3f} to {max(scores):.3f})")


if __name__ == "__main__":
    main()
