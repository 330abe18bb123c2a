"""Coverage of the 95 % intervals of the count tables over simulated wells.

    python performance/coverage.py [--wells 1000] [--seed 1]

Percentages: each well has a true composition, and its samples are random draws of it; the interval of a percentage should
contain the true percentage. Corrected counts: each well has fossils and debris, a head that misses, confuses and invents
fossils, and a review that slidepipe draws; the intervals should contain the true number of each genus among the detected
objects, and the true precision and recall. Wells differ in size, number of genera, debris, quality of the head, and number of
labels.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from slidepipe.counting.counts import SlideCount, long_table
from slidepipe.counting.intervals import Estimate
from slidepipe.review.audit import audit_genus
from slidepipe.review.corrected_counts import take_audit
from slidepipe.review.draw import By, draw_objects
from slidepipe.samples.sample import Sample, WellSlide
from slidepipe.store.object_id import ObjectId


@dataclass
class Tally:
    """Number of intervals, number that contain the truth, and the summed error of the estimates."""

    held: int = 0
    all: int = 0
    error: float = 0.0
    truth: float = 0.0

    def add(self, estimate: Estimate, truth: float) -> None:
        """Add one interval; an estimate or truth that is NaN is ignored."""
        if np.isnan(estimate.value) or np.isnan(truth):
            return
        self.held += estimate.low - 1e-9 <= truth <= estimate.high + 1e-9
        self.all += 1
        self.error += estimate.value - truth
        self.truth += truth

    @property
    def coverage(self) -> float:
        """Fraction of intervals that contain the truth."""
        return self.held / self.all if self.all else float("nan")


def percentage_coverage(wells: int, seed: int) -> Tally:
    """Return the coverage of the percentages of `counts_long.csv`.

    Wells have 2 to 6 samples, 20 to 500 fossils per sample and 5 to 40 genera.
    """
    rng = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(wells):
        genera = [f"genus{number:02d}" for number in range(rng.integers(5, 41))]
        counts, shares = [], {}
        for depth in range(rng.integers(2, 7)):
            sample = Sample("1/2-3", Decimal(100 + depth), "DC")
            shares[sample.sample_id] = rng.dirichlet(np.full(len(genera), 1.0))
            numbers = rng.multinomial(rng.integers(20, 501), shares[sample.sample_id])
            count = SlideCount(WellSlide(str(depth), Path("none"), sample), "ok", 1.0)
            count.genera.update(dict(zip(genera, numbers.tolist(), strict=True)))
            count.states["accepted"] = int(numbers.sum())
            counts.append(count)
        for row in long_table(counts, genera).to_dict("records"):
            share = 100 * shares[row["sample_id"]][genera.index(row["genus"])]
            tally.add(Estimate(row["percent"], row["low"], row["high"]), share)
    return tally


def simulated_well(rng: np.random.Generator, objects: int, genera: int, debris: float, quality: float) -> pd.DataFrame:
    """Return objects with the columns that a draw needs, and the true genus in `truth` ("" for debris).

    A fossil is accepted as its own genus with probability `quality`, and as a similar genus with probability `(1 - quality) /
    3`. Debris is accepted as a random genus with probability `0.05 * (1 - quality)`. Unknown fossils are on average closer to
    the reference set than debris.
    """
    names = np.array([*(f"genus{number:02d}" for number in range(genera)), ""])
    samples = int(rng.integers(2, 5))
    sample = rng.integers(0, samples, objects)
    composition = rng.dirichlet(np.full(genera, 1.0), samples)
    fossil = rng.random(objects) >= debris
    below = np.cumsum(composition, axis=1)[sample] < rng.random((objects, 1))
    truth = np.minimum(below.sum(axis=1), genera - 1)
    chance = rng.random(objects)
    answer = np.where(chance < quality, truth, -1)
    answer = np.where((chance >= quality) & (chance < quality + (1 - quality) / 3), (truth + 1) % genera, answer)
    invented = rng.random(objects) < 0.05 * (1 - quality)
    answer = np.where(fossil, answer, np.where(invented, rng.integers(0, genera, objects), -1))
    distance = np.where(fossil, rng.normal(1.0, 0.3, objects), rng.normal(1.6, 0.4, objects))
    slide = [f"slide{place}" for place in sample]
    return pd.DataFrame(
        {
            "object_id": [str(ObjectId(name, row)) for row, name in enumerate(slide)],
            "slide_id": slide,
            "sample_id": [f"sample{place}" for place in sample],
            **dict.fromkeys(("x0", "y0", "x1", "y1"), 0),
            "state": np.where(answer >= 0, "accepted", "unknown"),
            "genus": pd.Series(names[answer]).where(answer >= 0, None),
            "candidate": names[truth % genera],
            "p_value": 0.04,
            "distance": distance,
            "truth": np.where(fossil, names[truth], ""),
        }
    )


def correction_coverage(wells: int, seed: int, labels: int | None = None, by: By = "genus") -> dict[str, Tally]:
    """Return the coverage of corrected counts (per well; per sample if drawn by sample), precision and recall.

    Args:
        wells: number of wells to simulate.
        seed: random seed.
        labels: number of reviewed objects per well; None for a random number from 50 to 400.
        by: strata of the draw.
    """
    rng = np.random.default_rng(seed)
    tallies: dict[str, Tally] = defaultdict(Tally)
    for well in range(wells):
        genera = int(rng.integers(4, 21))
        frame = simulated_well(
            rng, int(rng.integers(500, 4001)), genera, float(rng.uniform(0.3, 0.95)), float(rng.uniform(0.5, 0.95))
        )
        names = [f"genus{number:02d}" for number in range(genera)]
        strata = frame.groupby(["genus"] if by == "genus" else ["sample_id", "genus"]).ngroups
        unknown = 2 * (1 if by == "genus" else frame["sample_id"].nunique())
        count = max(labels or int(rng.integers(50, 401)), strata + unknown)
        review = draw_objects(frame, count, seed + well, by)
        truth = dict(zip(frame["object_id"], frame["truth"], strict=True))
        audit = take_audit(frame, review, {name: truth[name] for name in review["object_id"]}, names)
        if audit.problem:
            raise RuntimeError(audit.problem)
        for genus in names:
            estimate = audit_genus(audit.strata, genus)
            accepted, true = frame["genus"] == genus, frame["truth"] == genus
            both = int((accepted & true).sum())
            tallies["corrected count, well"].add(estimate.total, int(true.sum()))
            tallies["precision"].add(estimate.precision, both / accepted.sum() if accepted.any() else np.nan)
            tallies["recall"].add(estimate.recall, both / true.sum() if true.any() else np.nan)
            if audit.by_sample:
                for sample_id in sorted(frame["sample_id"].unique()):
                    here = audit_genus(audit.strata_of(sample_id), genus)
                    tallies["corrected count, sample"].add(
                        here.total, int((true & (frame["sample_id"] == sample_id)).sum())
                    )
    return tallies


def main() -> None:
    """Print the coverage of each kind of interval."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wells", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.wells} wells each; coverage of 95 % intervals; error: mean of estimate - truth, truth: its mean")

    def show(name: str, tally: Tally) -> None:
        print(
            f"{name:58} {100 * tally.coverage:5.1f} %  of {tally.all:7}  "
            f"error {tally.error / tally.all:8.3f}  truth {tally.truth / tally.all:8.2f}"
        )

    started = time.perf_counter()
    show("percentage (Wilson)", percentage_coverage(options.wells, options.seed))
    draws: tuple[tuple[int | None, By], ...] = (
        (None, "genus"),
        (50, "genus"),
        (100, "genus"),
        (400, "genus"),
        (None, "sample"),
    )
    for labels, by in draws:
        for name, tally in correction_coverage(options.wells, options.seed, labels, by).items():
            show(f"{name}, {labels or '50 to 400'} labels by {by}", tally)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
