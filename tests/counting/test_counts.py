import csv
import io
import math
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from performance.coverage import percentage_coverage
from slidepipe.counting.counts import (
    LONG_COLUMNS,
    RESERVED_COLUMNS,
    SlideCount,
    by_sample,
    long_table,
    sample_table,
    slide_table,
)
from slidepipe.counting.intervals import (
    Estimate,
    jeffreys_interval,
    mover_share,
    mover_sum,
    wilson_interval,
)
from tests.made_results import GENERA, make, slide, table


def rows(frame: pd.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(frame.to_csv(index=False, lineterminator="\n"))))


answers = st.lists(st.sampled_from([*GENERA, None, "unusable"]), max_size=30)
wells = st.lists(
    st.tuples(
        st.sampled_from(["100", "100.0", "200.5", "9", None]),
        st.sampled_from(["DC", "C"]),
        st.one_of(st.none(), answers),
    ),
    min_size=1,
    max_size=6,
)


def counted(well: list[tuple[str | None, str, list[str | None] | None]]) -> list[SlideCount]:
    counts = []
    for number, (depth, sample_type, found) in enumerate(well):
        of = slide(
            f"slide{number}", depth, sample_type if depth else ""
        )  # a file name holds both depth and type, or neither
        if found is None:
            counts.append(SlideCount(of, "failed", 0.0))
            continue
        count = SlideCount(of, "ok" if set(found) & set(GENERA) else "barren", 1.5)
        count.genera.update(answer for answer in found if answer in GENERA)
        count.states.update(
            "unknown" if answer is None else "unusable" if answer == "unusable" else "accepted" for answer in found
        )
        counts.append(count)
    return counts


@given(wells)
def test_tables_agree(well: list[tuple[str | None, str, list[str | None] | None]]) -> None:
    """The sums of the three count tables agree with each other."""
    counts = counted(well)
    samples, slides, long = (rows(make_table(counts, GENERA)) for make_table in (sample_table, slide_table, long_table))
    named = ["sample_id", "well", "depth_m", "sample_type", "slides", "status", "area_mm2"]
    assert list(samples[0]) == [*named, *GENERA, "unknown", "unusable", "total", "fossils", "fossils_per_mm2"]
    assert len(slides) == len(well)
    assert sum(int(row["slides"]) for row in samples) == len(well)
    for row in samples:
        parts = [part for part in slides if part["sample_id"] == row["sample_id"]]
        read = [part for part in parts if part["status"] != "failed"]
        if not read:
            assert row["status"] == "failed"
            assert {row[name] for name in (*GENERA, "unknown", "unusable", "total", "area_mm2")} == {""}
            assert not [part for part in long if part["sample_id"] == row["sample_id"]]
            continue
        for name in (*GENERA, "unknown", "unusable", "total", "fossils"):
            assert int(row[name]) == sum(int(part[name]) for part in read)
        assert float(row["area_mm2"]) == 1.5 * len(read)
        assert int(row["total"]) == int(row["fossils"]) + int(row["unknown"]) + int(row["unusable"])
        assert int(row["fossils"]) == sum(int(row[genus]) for genus in GENERA)
        mine = [part for part in long if part["sample_id"] == row["sample_id"]]
        assert [(part["genus"], part["count"]) for part in mine] == [(genus, row[genus]) for genus in GENERA]
        assert {part["fossils"] for part in mine} == {row["fossils"]}
        if int(row["fossils"]):
            assert sum(float(part["percent"]) for part in mine) == pytest.approx(100, abs=0.01)
            assert all(0 <= float(part["low"]) <= float(part["percent"]) <= float(part["high"]) <= 100 for part in mine)
        else:
            assert {part[name] for part in mine for name in ("percent", "low", "high")} == {""}
        assert {part["zero_upper"] for part in mine if part["count"] == "0"} <= {"3.0"}
        assert {part["zero_upper"] for part in mine if part["count"] != "0"} <= {""}


@given(wells, st.randoms(use_true_random=False))
def test_tables_do_not_depend_on_slide_order(
    well: list[tuple[str | None, str, list[str | None] | None]], shuffler: random.Random
) -> None:
    counts = counted(well)
    shuffled = list(counts)
    shuffler.shuffle(shuffled)
    for make_table in (sample_table, slide_table, long_table):
        assert make_table(counts, GENERA).to_csv(index=False) == make_table(shuffled, GENERA).to_csv(index=False)


def test_samples_sorted_by_depth() -> None:
    """Depths are sorted as numbers, and a sample without a depth comes last."""
    counts = [
        SlideCount(slide(name, depth), "barren", 1.0) for name, depth in (("a", "1000"), ("b", None), ("c", "980.5"))
    ]
    assert [row["depth_m"] for row in rows(sample_table(counts, GENERA))] == ["980.5", "1000", ""]
    assert [row["sample_id"] for row in rows(long_table(counts, GENERA))][-1] == "1/2-3"


def test_all_slides_failed() -> None:
    """A well whose slides all failed has rows with empty cells."""
    counts = [SlideCount(slide("a"), "failed", 0.0), SlideCount(slide("b", "200"), "failed", 0.0)]
    table = rows(sample_table(counts, GENERA))
    assert [row["status"] for row in table] == ["failed", "failed"]
    assert {row[name] for row in table for name in (*GENERA, "area_mm2", "total", "fossils_per_mm2")} == {""}
    assert long_table(counts, GENERA).to_csv(index=False, lineterminator="\n") == ",".join(LONG_COLUMNS) + "\n"


def test_barren_failed_and_partial_samples(tmp_path: Path) -> None:
    """A barren sample has zeros, a failed one empty cells; one failed slide makes its sample partial."""
    make(
        tmp_path / "r",
        {
            slide("a 100"): [None, None],
            slide("b 200", "200"): None,
            slide("c 300", "300"): ["azolla"],
            slide("d 300", "300"): None,
            slide("e 400", "400"): [],
        },
    )
    counts = table(tmp_path / "r", "counts.csv").set_index("depth_m")
    assert dict(counts["status"]) == {"100": "barren", "200": "failed", "300": "partial", "400": "barren"}
    assert dict(counts["azolla"]) == {"100": "0", "200": "", "300": "1", "400": "0"}
    assert dict(counts["area_mm2"]) == {"100": "2.0", "200": "", "300": "2.0", "400": "2.0"}
    assert dict(counts["fossils_per_mm2"]) == {"100": "0.0", "200": "", "300": "0.5", "400": "0.0"}


def test_same_file_name_in_two_folders(tmp_path: Path) -> None:
    """Two files of the same name in two folders are two slides of one sample."""
    name = "1_2-3 100 mDC"
    make(tmp_path / "r", {slide(name): ["azolla", None], slide(f"second/{name}"): ["azolla", "deflandrea"]})
    slides = table(tmp_path / "r", "counts_slides.csv")
    assert list(slides["slide_id"]) == [name, f"second/{name}"]
    assert list(slides["azolla"]) == ["1", "1"]
    counts = table(tmp_path / "r", "counts.csv").iloc[0]
    assert (counts["slides"], counts["azolla"], counts["deflandrea"], counts["unknown"]) == ("2", "2", "1", "1")


def test_spike_is_not_in_sum() -> None:
    """The spike is counted but is no part of the sum of fossils."""
    count = SlideCount(slide("a"), "ok", 1.0, Counter(azolla=30, deflandrea=10, spiniferites=60))
    long = {row["genus"]: row for row in rows(long_table([count], GENERA, "spiniferites"))}
    assert (long["azolla"]["percent"], long["deflandrea"]["percent"]) == ("75.0", "25.0")
    assert (long["spiniferites"]["count"], long["spiniferites"]["percent"], long["azolla"]["fossils"]) == (
        "60",
        "",
        "40",
    )
    assert rows(sample_table([count], GENERA, "spiniferites"))[0]["fossils"] == "40"


def test_recount_from_object_table(tmp_path: Path) -> None:
    """Every number of the count tables can be recomputed from the object table."""
    names = [*GENERA, None, "unusable"]
    picked = random.Random(5)
    slides = {slide(f"s{n}", str(100 + n // 2)): [picked.choice(names) for _ in range(40)] for n in range(5)}
    make(tmp_path / "r", slides)
    objects = pd.read_parquet(tmp_path / "r" / "objects.parquet")
    for name, key in (("counts.csv", "sample_id"), ("counts_slides.csv", "slide_id")):
        for _, row in table(tmp_path / "r", name).iterrows():
            mine = objects[objects[key] == row[key]]
            assert {genus: int(row[genus]) for genus in GENERA} == {g: int((mine["genus"] == g).sum()) for g in GENERA}
            assert (int(row["unknown"]), int(row["unusable"])) == tuple(
                (mine["state"] == s).sum() for s in ("unknown", "unusable")
            )
            assert int(row["total"]) == len(mine)
    for _, row in table(tmp_path / "r", "counts_long.csv").iterrows():
        accepted = objects[(objects["sample_id"] == row["sample_id"]) & (objects["state"] == "accepted")]
        number = int((accepted["genus"] == row["genus"]).sum())
        low, high = wilson_interval(number, len(accepted))
        assert int(row["count"]) == number
        assert float(row["percent"]) == pytest.approx(100 * number / len(accepted), abs=6e-4)
        assert (float(row["low"]), float(row["high"])) == (round(100 * low, 3), round(100 * high, 3))


def test_tables_are_reproducible(tmp_path: Path) -> None:
    """The same objects give the same bytes."""
    slides = {slide("b", "200"): ["azolla", None] * 9, slide("a", "100"): ["deflandrea", "unusable", None] * 5}
    for name in ("one", "two"):
        make(tmp_path / name, slides)
    for name in ("counts.csv", "counts_slides.csv", "counts_long.csv", "accuracy.csv", "corrected.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert b"\r" not in (tmp_path / "one" / name).read_bytes()


def test_reserved_columns() -> None:
    """Every column that is not a genus is a reserved name."""
    count = [SlideCount(slide("a"), "barren", 1.0)]
    for make_table in (sample_table, slide_table):
        assert set(make_table(count, []).columns) <= RESERVED_COLUMNS


def test_equal_depths_are_one_sample() -> None:
    """1430.50 and 1430.5 are the same depth."""
    counts = [SlideCount(slide("a", "1430.50"), "barren", 1.0), SlideCount(slide("b", "1430.5"), "barren", 1.0)]
    assert [(s.sample.depth_m, len(s.slides)) for s in by_sample(counts)] == [(Decimal("1430.5"), 2)]


@given(st.integers(1, 100_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_proportion_intervals_are_valid(case: tuple[int, int]) -> None:
    """The intervals contain the proportion, stay between 0 and 1, and are symmetric in successes and failures."""
    successes, trials = case
    for interval in (wilson_interval, jeffreys_interval):
        low, high = interval(successes, trials)
        assert 0 <= low <= successes / trials <= high <= 1
        mirrored = interval(trials - successes, trials)
        assert mirrored == (pytest.approx(1 - high, abs=1e-9), pytest.approx(1 - low, abs=1e-9))


def test_wilson_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263 and 15/148.
    assert wilson_interval(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson_interval(15, 148) == (pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))
    assert all(math.isnan(limit) for limit in wilson_interval(0, 0))


estimates = st.tuples(st.floats(0, 1e4), st.floats(0, 1e3), st.floats(0, 1e3)).map(
    lambda t: Estimate(t[0], max(0.0, t[0] - t[1]), t[0] + t[2])
)


@given(st.lists(estimates, min_size=1, max_size=5))
def test_mover_sum_width(parts: list[Estimate]) -> None:
    """The interval of a sum is wider than that of each part and narrower than all of them added."""
    total = mover_sum(parts)
    slack = 1e-6 * (1 + total.high)
    widest = max(part.high - part.value for part in parts)
    assert widest - slack <= total.high - total.value <= sum(part.high - part.value for part in parts) + slack
    assert total.low <= total.value == pytest.approx(sum(part.value for part in parts))


@given(estimates, estimates)
def test_mover_share_is_valid(part: Estimate, rest: Estimate) -> None:
    """The share lies in its interval, and the interval between 0 and 1."""
    share = mover_share(part, rest)
    if part.value + rest.value == 0:
        assert math.isnan(share.value)
    else:
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_percentage_coverage() -> None:
    """The intervals of percentages cover the true value in about 95 % of cases."""
    assert 0.93 <= percentage_coverage(wells=60, seed=3).coverage <= 0.98
