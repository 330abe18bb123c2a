import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from performance.coverage import simulated_well
from slidepipe.cli import main
from slidepipe.errors import ResultsError, SettingsError
from slidepipe.review.audit import FAR, NEAR
from slidepipe.review.draw import (
    BY,
    By,
    allocate,
    draw_objects,
    labels_sha256,
    sample_review,
    usable_objects,
)
from slidepipe.review.labels import read_labels
from tests.made_results import make, slide, table

ANSWERS = ["azolla"] * 12 + ["deflandrea"] * 5 + [None] * 30 + ["unusable"] * 6


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make(tmp_path / "r", {slide("a"): ANSWERS, slide("b", "200"): ANSWERS[:20], slide("c", "300"): []})
    return tmp_path / "r"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return simulated_well(np.random.default_rng(4), objects=900, genera=6, debris=0.7, quality=0.7)


@pytest.mark.parametrize("by", BY)
def test_draw_records_design(frame: pd.DataFrame, by: By) -> None:
    rows = draw_objects(frame, 120, seed=3, by=by)
    assert len(rows) == rows["object_id"].nunique() == 120
    for _, stratum in rows.groupby("stratum"):
        assert set(stratum["stratum_drawn"]) == {len(stratum)}
        assert set(stratum["weight"]) == {round(stratum["stratum_size"].iloc[0] / len(stratum), 6)}
    sizes = rows.drop_duplicates("stratum")["stratum_size"]
    assert sizes.sum() == len(frame)  # every usable object belongs to a stratum
    assert rows["weight"].sum() == pytest.approx(len(frame), abs=1e-3)
    merged = rows.merge(frame[["object_id", "state", "genus"]].rename(columns={"genus": "answer"}), on="object_id")
    accepted = merged["state"] == "accepted"
    assert (merged.loc[accepted, "stratum_kind"] == merged.loc[accepted, "answer"]).all()
    assert set(merged.loc[~accepted, "stratum_kind"]) == {NEAR, FAR}
    if by == "genus":
        assert 50 <= accepted.sum() <= 70
    else:
        assert (rows["stratum_sample"] == rows["sample_id"]).all()


def test_objects_of_stratum_equally_likely() -> None:
    small = simulated_well(np.random.default_rng(5), objects=60, genera=2, debris=0.5, quality=0.7)
    seeds = 100
    times = Counter(name for seed in range(seeds) for name in draw_objects(small, 20, seed, "genus")["object_id"])
    rows = draw_objects(small, 60, 0, "genus").set_index("object_id")
    chance = {
        stratum: part["stratum_drawn"].iloc[0] / part["stratum_size"].iloc[0]
        for stratum, part in draw_objects(small, 20, 0, "genus").groupby("stratum")
    }
    # A tolerance of five standard deviations detects a wrong probability, but allows for chance.
    for name, stratum in rows["stratum"].items():
        expected = seeds * chance[stratum]
        assert abs(times[str(name)] - expected) <= 5 * np.sqrt(seeds * chance[stratum] * (1 - chance[stratum])) + 1e-9


def test_larger_draw_contains_smaller(frame: pd.DataFrame) -> None:
    """A larger draw contains the smaller one; another seed gives another draw."""
    draws = [set(draw_objects(frame, count, 1, "genus")["object_id"]) for count in (20, 60, 61, 200, 900)]
    assert all(a < b for a, b in pairwise(draws))
    assert draws[-1] == set(frame["object_id"])
    assert len(draw_objects(frame, 5000, 1, "genus")) == len(frame)
    assert set(draw_objects(frame, 60, 2, "genus")["object_id"]) != draws[1]


def test_draw_does_not_depend_on_order(frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(draw_objects(frame, 60, 1, "sample"), draw_objects(shuffled, 60, 1, "sample"))


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), max_size=8),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 300),
)
def test_allocate(genera: dict[str, int], near: int, far: int, extra: int) -> None:
    """Each stratum gives at most its size, and no fewer objects when more are drawn."""
    sizes = genera | {name: size for name, size in ((NEAR, near), (FAR, far)) if size}
    kinds = {name: name for name in sizes}
    if not sizes:
        return
    with pytest.raises(SettingsError, match=f"Use --n {len(sizes)} or more"):
        allocate(sizes, kinds, len(sizes) - 1)
    count = len(sizes) + extra
    taken, more = allocate(sizes, kinds, count), allocate(sizes, kinds, count + 1)
    assert sum(taken.values()) == min(count, sum(sizes.values()))
    assert all(1 <= taken[name] <= sizes[name] and taken[name] <= more[name] for name in sizes)


def test_review_sample_files(results: Path) -> None:
    """review.csv, crops and contact sheets are written with the same numbers."""
    done = CliRunner().invoke(main, ["review", "sample", str(results), "--n", "40", "--seed", "5"])
    assert done.exit_code == 0, done.output
    rows = table(results, "review.csv")
    assert len(rows) == 40
    assert set(rows["genus"]) == {""}
    objects = pd.read_parquet(results / "objects.parquet").set_index("object_id")
    for _, row in rows.iterrows():
        there = objects.loc[row["object_id"]]
        assert [int(row[edge]) for edge in ("x0", "y0", "x1", "y1")] == [
            there[edge] for edge in ("x0", "y0", "x1", "y1")
        ]
        assert (row["slide_id"], row["candidate"]) == (there["slide_id"], there["candidate"])
        assert there["state"] != "unusable"
        with Image.open(results / row["crop"]) as crop:
            grey = np.asarray(crop).mean()
        assert grey == pytest.approx(40 + int(row["object_id"][-5:]) % 200, abs=2)  # the crop of this object
    assert len(list((results / "review").glob("sheet_*.jpg"))) == 2


def test_draw_again_and_extend(results: Path) -> None:
    """The same draw gives the same bytes; a larger one keeps rows and labels."""

    def digests() -> list[str]:
        files = sorted([results / "review.csv", *(results / "review").iterdir()])
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    sample_review(results, 20, 1)
    first = digests()
    sample_review(results, 20, 1)
    assert digests() == first
    rows = table(results, "review.csv")
    rows.loc[3, "genus"] = "azolla"
    rows.to_csv(results / "review.csv", index=False)
    sample_review(results, 35, 1)
    grown = table(results, "review.csv")
    assert len(grown) == 35
    kept = ["object_id", "crop", "stratum", "genus"]
    pd.testing.assert_frame_equal(grown.loc[:19, kept], rows[kept])


@pytest.mark.parametrize(("count", "seed", "by"), [(35, 2, "genus"), (35, 1, "sample"), (10, 1, "genus")])
def test_other_draw_is_not_overwritten(results: Path, count: int, seed: int, by: By) -> None:
    sample_review(results, 20, 1)
    before = (results / "review.csv").read_bytes()
    with pytest.raises(ResultsError, match="holds another draw"):
        sample_review(results, count, seed, by)
    assert (results / "review.csv").read_bytes() == before


def test_nothing_to_review(tmp_path: Path) -> None:
    make(tmp_path / "r", {slide("a"): ["unusable"], slide("b", "200"): []})
    with pytest.raises(SettingsError, match="contain no usable object"):
        sample_review(tmp_path / "r", 5)
    with pytest.raises(ResultsError, match="no results here"):
        sample_review(tmp_path / "elsewhere", 5)


def test_read_labels(results: Path) -> None:
    """Labels are read in the different ways in which people write them."""
    sample_review(results, 20, 1)
    rows = table(results, "review.csv")
    rows.loc[0, "genus"], rows.loc[1, "genus"] = "Azolla ", "not a fossil"
    rows.to_csv(results / "review.csv", index=False, sep=";", encoding="utf-8-sig")
    first, second, third, fourth, fifth = rows["object_id"][:5]
    assert read_labels(results) == {first: "Azolla", second: ""}  # the others have not been reviewed
    (results / "labels.csv").write_text(
        f"object_id,genus\n{first},deflandrea\n{third},\n{fourth},_debris\n", encoding="utf-8"
    )
    assert read_labels(results) == {first: "deflandrea", second: "", third: "", fourth: ""}
    (results / "labels.csv").write_text(f"object_id,stratum,genus\n{third},x,\n{fifth},x,Debris\n", encoding="utf-8")
    assert read_labels(results) == {first: "Azolla", second: "", fifth: ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"object,genus\n", "the column 'object_id' is missing"),
        (b"object_id,genus\na:1,azolla\na:1,deflandrea\n", "a:1 has two labels"),
        (b"object_id,genus\na:1,\xff\xfe\n", "Save it as CSV, UTF-8"),
        (b"", "the column 'object_id' is missing"),
    ],
)
def test_unreadable_labels(results: Path, content: bytes, message: str) -> None:
    (results / "labels.csv").write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        labels_sha256(results)


def test_labels_sha256(results: Path) -> None:
    """A change of the labels changes the hash that the tables depend on."""
    seen = {labels_sha256(results)}
    sample_review(results, 20, 1)
    seen.add(labels_sha256(results))
    (results / "labels.csv").write_text("object_id,genus\na:00001,azolla\n", encoding="utf-8")
    seen.add(labels_sha256(results))
    assert len(seen) == 3
    (results / "review.csv").write_text((results / "review.csv").read_text().replace(",24,", ",many,"))
    with pytest.raises(ResultsError, match="a number is missing or damaged"):
        labels_sha256(results)


def test_usable_objects(results: Path) -> None:
    frame = usable_objects(pd.read_parquet(results / "objects.parquet"))
    assert len(frame) == 47 + 20
    assert set(frame["state"]) == {"accepted", "unknown"}
