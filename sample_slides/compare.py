"""Print the counts of a run next to the true counts: `python sample_slides/compare.py RESULTS`.

The exit status is 1 if the count of a genus in the well differs by more than 10 % and by more than one specimen, or if more than
5 % of the debris was counted as a fossil.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of one box (4,) with others (N, 4): float64 (N,)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = width.clip(0) * height.clip(0)
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return np.asarray(shared / ((box[2] - box[0]) * (box[3] - box[1]) + area - shared))


def debris_counted(objects: pd.DataFrame, truth: pd.DataFrame) -> tuple[int, int]:
    """Return how many pieces of debris were detected, and how many of them were accepted as a genus."""
    sides = ["x0", "y0", "x1", "y1"]
    detected = accepted = 0
    for slide, found in objects.groupby("slide_id"):
        drawn = truth[truth["slide"] == slide]
        boxes = drawn[sides].to_numpy(float)
        for box, state in zip(found[sides].to_numpy(float), found["state"], strict=True):
            shares = overlap(box, boxes)
            best = int(shares.argmax())
            if shares[best] >= 0.3 and drawn["genus"].iloc[best] == "debris":
                detected += 1
                accepted += state == "accepted"
    return detected, accepted


def main() -> int:
    """Print the comparison, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    counts = pd.read_csv(results / "counts.csv")
    truth = pd.read_csv(HERE / "truth_counts.csv")
    genera = [column for column in truth.columns if column not in ("well", "depth_m", "sample_type", "slides")]
    objects = pd.read_parquet(results / "objects.parquet")
    drawn = pd.read_csv(HERE / "truth.csv")

    print("counted / true specimens\n")
    depths = [f"{depth:g} m" for depth in truth["depth_m"]]
    print(f"{'genus':22}" + "".join(f"{depth:>14}" for depth in depths) + f"{'well':>14}")
    wrong = []
    for genus in genera:
        counted, true = counts[genus].fillna(0).astype(int), truth[genus]
        cells = [f"{a} / {b}" for a, b in zip(counted, true, strict=True)]
        print(f"{genus:22}" + "".join(f"{cell:>14}" for cell in cells) + f"{counted.sum():>7} / {true.sum()}")
        if abs(int(counted.sum()) - int(true.sum())) > max(1.0, 0.1 * int(true.sum())):
            wrong.append(genus)
    print(
        f"\n{'unknown':22}" + "".join(f"{number:>14}" for number in counts["unknown"]) + f"{counts['unknown'].sum():>7}"
    )
    detected, accepted = debris_counted(objects, drawn)
    print(f"debris counted as a fossil: {accepted} of {detected}")
    if wrong:
        print(f"more than 10 % off: {', '.join(wrong)}")
    return 1 if wrong or accepted > 0.05 * detected else 0


if __name__ == "__main__":
    sys.exit(main())
