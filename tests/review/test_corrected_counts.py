import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from performance.coverage import correction_coverage
from slidepipe.config import parse_config
from slidepipe.errors import ResultsError
from slidepipe.pipeline.flow import run_well
from slidepipe.results import Results
from slidepipe.review.audit import FAR, NEAR, Stratum, audit_genus, pooled_total
from slidepipe.review.corrected_counts import CORRECTED, UNCORRECTED, WHOLE_WELL, renew_corrected_tables
from slidepipe.review.draw import By, sample_review
from tests.made_results import GENERA, make, slide, table

ANSWERS = ["azolla"] * 20 + ["deflandrea"] * 10 + [None] * 30 + ["unusable"] * 3


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make(tmp_path / "r", {slide("a"): ANSWERS, slide("b", "200"): ANSWERS[:40], slide("c", "300"): None})
    return tmp_path / "r"


def label(results: Path, truth: dict[str, str], only: int | None = None) -> None:
    drawn = table(results, "review.csv")["object_id"][:only]
    lines = [f"{name},{truth[name]}" for name in drawn]
    (results / "labels.csv").write_text("\n".join(["object_id,genus", *lines]) + "\n", encoding="utf-8")


def truth_of(results: Path) -> dict[str, str]:
    """Every fourth accepted azolla is debris, every fifth unknown is a deflandrea, each tenth a genus of no reference."""
    objects = pd.read_parquet(results / "objects.parquet")
    truth = {}
    for number, (name, genus) in enumerate(zip(objects["object_id"], objects["genus"], strict=True)):
        known = genus if isinstance(genus, str) else ""
        truth[name] = "" if known == "azolla" and number % 4 == 0 else known
        if not known and number % 5 == 0:
            truth[name] = "Deflandrea" if number % 10 else "Apteodinium"
    return truth


def whole_well(results: Path) -> pd.DataFrame:
    rows = table(results, "corrected.csv")
    return rows[rows["sample_id"] == WHOLE_WELL].set_index("genus")


def test_no_labels(results: Path) -> None:
    """Without labels, counts are uncorrected detections."""
    long = table(results, "counts_long.csv")
    assert set(long["correction"]) == {UNCORRECTED}
    assert set(long["corrected"]) == {""}
    assert set(table(results, "accuracy.csv")["correction"]) == {UNCORRECTED}
    rows = whole_well(results)
    assert dict(rows["count"]) == {"azolla": "40", "deflandrea": "20", "spiniferites": "0"}
    assert set(rows["correction"]) == {UNCORRECTED}


def test_all_objects_labelled(results: Path) -> None:
    """Labels of all objects give the true counts with intervals of width zero."""
    truth = truth_of(results)
    sample_review(results, 1000)
    label(results, truth)
    renew_corrected_tables(results)
    objects = pd.read_parquet(results / "objects.parquet")
    usable = [truth[name] for name in objects.loc[objects["state"] != "unusable", "object_id"]]
    rows = whole_well(results)
    assert list(rows.index) == [*GENERA, "Apteodinium"]
    for genus, row in rows.iterrows():
        expected = sum(name.lower() == str(genus).lower() for name in usable)
        assert [float(row[name]) for name in ("corrected", "corrected_low", "corrected_high")] == [expected] * 3
    accuracy = table(results, "accuracy.csv").set_index("genus")
    right = sum(truth[name] == "azolla" for name in objects.loc[objects["genus"] == "azolla", "object_id"])
    assert float(accuracy.loc["azolla", "precision"]) == right / 40
    assert float(accuracy.loc["azolla", "recall"]) == 1.0
    assert float(accuracy.loc["deflandrea", "recall"]) == pytest.approx(
        20 / float(rows.loc["deflandrea", "corrected"]), abs=1e-4
    )
    assert dict(accuracy.loc["spiniferites", ["precision", "recall"]]) == {"precision": "", "recall": ""}


@pytest.mark.parametrize("by", ["sample", "slide"])
def test_draw_by_sample(results: Path, by: By) -> None:
    """A draw within samples corrects each sample and counts_long.csv."""
    sample_review(results, 60, seed=1, by=by)
    label(results, truth_of(results))
    renew_corrected_tables(results)
    rows = table(results, "corrected.csv")
    assert set(rows["correction"]) == {CORRECTED}
    assert list(rows["sample_id"].unique()) == [WHOLE_WELL, "1/2-3 100 mDC", "1/2-3 200 mDC"]
    numbers = rows[["corrected", "corrected_low", "corrected_high"]].astype(float)
    assert (numbers["corrected_low"] <= numbers["corrected"]).all()
    assert (numbers["corrected"] <= numbers["corrected_high"]).all()
    whole = rows["sample_id"] == WHOLE_WELL
    summed = numbers[~whole].groupby(rows["genus"])["corrected"].sum()
    assert np.allclose(numbers.loc[whole, "corrected"], summed[rows.loc[whole, "genus"]], atol=0.02)
    long = table(results, "counts_long.csv").merge(rows, on=["sample_id", "genus"], suffixes=("", "_there"))
    assert len(long) == 2 * len(GENERA)
    for name in ("count", "corrected", "corrected_low", "corrected_high", "correction"):
        assert (long[name] == long[f"{name}_there"]).all()


def test_draw_by_genus(results: Path) -> None:
    """A draw over the well corrects the well, and the samples refer to it."""
    sample_review(results, 30, seed=1)
    label(results, truth_of(results))
    renew_corrected_tables(results)
    assert set(whole_well(results)["correction"]) == {CORRECTED}
    corrections = set(table(results, "counts_long.csv")["correction"])
    assert len(corrections) == 1
    assert corrections.pop().startswith(f"{UNCORRECTED} (reviewed over the whole well")


def test_partly_labelled_draw(results: Path) -> None:
    """A partly labelled draw reports how many objects are labelled."""
    sample_review(results, 30, seed=1)
    label(results, truth_of(results), only=1)
    renew_corrected_tables(results)
    corrections = set(whole_well(results)["correction"])
    assert len(corrections) == 1
    assert corrections.pop().startswith(f"{UNCORRECTED} (1 of 30 drawn objects have labels, none in stratum '")
    label(results, truth_of(results), only=25)
    renew_corrected_tables(results)
    assert set(whole_well(results)["correction"]) == {f"{CORRECTED} (25 of 30 labelled)"}


def test_labels_outside_draw(results: Path) -> None:
    """Labels of objects outside the draw correct nothing."""
    (results / "labels.csv").write_text("object_id,genus\na:00001,azolla\n", encoding="utf-8")
    renew_corrected_tables(results)
    assert "labels.csv alone is no random draw" in whole_well(results)["correction"].iloc[0]
    sample_review(results, 60, seed=1)
    label(results, truth_of(results))
    renew_corrected_tables(results)
    before = whole_well(results)
    undrawn = sorted(set(truth_of(results)) - set(table(results, "review.csv")["object_id"]))
    with (results / "labels.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{name},spiniferites\n" for name in undrawn)
    renew_corrected_tables(results)
    pd.testing.assert_frame_equal(whole_well(results), before)


def test_draw_from_other_detections(results: Path, tmp_path: Path) -> None:
    """A draw from other detections corrects nothing."""
    sample_review(results, 30, seed=1)
    label(results, truth_of(results))
    make(tmp_path / "other", {slide("a"): [*ANSWERS, None], slide("b", "200"): ANSWERS[:40]})
    for name in ("review.csv", "labels.csv"):
        (tmp_path / "other" / name).write_bytes((results / name).read_bytes())
    renew_corrected_tables(tmp_path / "other")
    assert set(whole_well(tmp_path / "other")["correction"]) == {
        f"{UNCORRECTED} (review.csv was drawn from other detections: move it away and draw again)"
    }


def test_head_changed_since_draw(results: Path, tmp_path: Path) -> None:
    """After a change of the head the counts are still corrected, but accuracy is not known."""
    sample_review(results, 60, seed=1)
    label(results, truth_of(results))
    renew_corrected_tables(results)
    other = ["spiniferites" if answer == "azolla" else answer for answer in ANSWERS]
    make(tmp_path / "other", {slide("a"): other, slide("b", "200"): other[:40], slide("c", "300"): None})
    for name in ("review.csv", "labels.csv"):
        (tmp_path / "other" / name).write_bytes((results / name).read_bytes())
    renew_corrected_tables(tmp_path / "other")
    columns = ["corrected", "corrected_low", "corrected_high"]
    pd.testing.assert_frame_equal(whole_well(tmp_path / "other")[columns], whole_well(results)[columns])
    accuracy = table(tmp_path / "other", "accuracy.csv")
    assert set(accuracy["correction"]) == {"the head was changed since the draw"}
    assert set(accuracy["precision"]) == {""}


labels = st.lists(st.sampled_from(["azolla", "deflandrea", ""]), min_size=1, max_size=12)
strata = st.lists(
    st.tuples(st.sampled_from(["azolla", "deflandrea", NEAR, FAR]), labels, st.integers(0, 200)), min_size=1, max_size=8
).map(lambda drawn: [Stratum(kind, "", len(given) + rest, given) for kind, given, rest in drawn])


@given(strata)
def test_estimates_are_valid(drawn: list[Stratum]) -> None:
    """Each estimate lies in its interval, and the interval within the possible range."""
    size = sum(stratum.size for stratum in drawn)
    totals = {genus: audit_genus(drawn, genus) for genus in ("azolla", "deflandrea", "", "none")}
    for genus, result in totals.items():
        seen = sum(stratum.labels.count(genus) for stratum in drawn)
        assert seen - 1e-9 <= result.total.low <= result.total.value <= result.total.high <= size + 1e-9
        for share in (result.precision, result.recall):
            assert math.isnan(share.value) or 0 <= share.low <= share.value <= share.high <= 1
    # There are no other labels than azolla, deflandrea and debris, so their totals add up to all objects.
    assert sum(result.total.value for result in totals.values()) == pytest.approx(size)
    assert totals["none"].total.value == 0


def test_more_labels_narrow_interval() -> None:
    """More labels make the interval narrower; with all labels its width is zero."""
    widths = []
    for count in (8, 40, 160, 200):
        given = ["azolla", "azolla", "azolla", ""] * (count // 4)
        total = pooled_total([Stratum("azolla", "", 200, given)], "azolla")
        assert total.value == 150
        widths.append(total.high - total.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 0


@pytest.mark.parametrize("by", ["genus", "sample"])
def test_corrected_counts_coverage(by: By) -> None:
    """Corrected counts are unbiased, and their intervals cover the true values."""
    tallies = correction_coverage(wells=30, seed=6, by=by)
    assert set(tallies) >= {"corrected count, well", "precision", "recall"}
    assert ("corrected count, sample" in tallies) == (by == "sample")
    for name, tally in tallies.items():
        assert 0.92 <= tally.coverage <= 0.99, name  # few wells here; performance/coverage.py simulates a thousand
        if name.startswith("corrected"):
            assert abs(tally.error / tally.truth) < 0.05, name


def test_run_uses_labels(colour_well: Path, test_plugins: Path, tmp_path: Path) -> None:
    """A run uses new labels, and the tables made again are the same bytes."""
    config = parse_config(
        {
            "reference": colour_well / "reference",
            "plugins": [test_plugins, Path(__file__).parents[1].joinpath("counting_plugins.py")],
            "backbone": {"name": "mean-colour", "orientations": 1},
            "head": {"name": "nearest-mean"},
            "run": {"scheduler": "threads", "workers": 1},
        },
        "test",
    )
    out = tmp_path / "results"
    assert run_well(colour_well / "well", out, config).redone
    results = Results(out)
    assert set(results.corrected["correction"]) == {UNCORRECTED}
    assert len(results.diversity) == 3
    assert len(results.ranges) == 3
    assert results.spike.empty
    assert results.counts["total"].sum() == len(results.objects) > 10
    rows = sample_review(out, 12)
    (out / "labels.csv").write_text(
        rows[["object_id", "candidate"]].set_axis(["object_id", "genus"], axis=1).to_csv(index=False), encoding="utf-8"
    )
    assert run_well(colour_well / "well", out, config).redone
    assert set(whole_well(out)["correction"]) == {CORRECTED}
    assert Results(out).accuracy["precision"].dropna().eq(1).all()
    written = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    assert not run_well(colour_well / "well", out, config).redone
    renew_corrected_tables(out)
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == written


def test_damaged_object_table(results: Path) -> None:
    (results / "objects.parquet").write_bytes(b"not parquet")
    for act in (renew_corrected_tables, lambda folder: sample_review(folder, 30)):
        with pytest.raises(ResultsError, match=r"objects\.parquet: cannot be read .* Run the same command again"):
            act(results)
