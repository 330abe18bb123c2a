import math
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.counting.counts import SlideCount, by_sample
from slidepipe.counting.diversity import diversity_table, rarefied_richness, shannon, simpson
from tests.made_results import GENERA, slide

assemblages = st.lists(st.integers(0, 400), min_size=1, max_size=20)


@given(assemblages)
def test_rarefied_richness_increases(counts: list[int]) -> None:
    """Rarefied richness increases from one genus to all genera."""
    total = sum(counts)
    if total == 0:
        assert math.isnan(rarefied_richness(counts, 1))
        return
    targets = sorted({1, max(1, total // 7), max(1, total // 2), total})
    values = [rarefied_richness(counts, target) for target in targets]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[-1] == pytest.approx(sum(count > 0 for count in counts), abs=1e-6)
    assert all(a <= b + 1e-6 for a, b in pairwise(values))
    assert all(value <= min(target, values[-1]) + 1e-6 for target, value in zip(targets, values, strict=True))
    assert math.isnan(rarefied_richness(counts, total + 1))


def test_rarefied_richness_is_mean_of_draws() -> None:
    """Rarefied richness is the mean number of genera over all possible draws."""
    fossils = "aaaabbc"
    draws = list(combinations(range(len(fossils)), 3))
    mean = sum(len({fossils[place] for place in draw}) for draw in draws) / len(draws)
    assert rarefied_richness(Counter(fossils).values(), 3) == pytest.approx(mean, rel=1e-9)


@given(assemblages)
def test_diversity_bounds(counts: list[int]) -> None:
    """Indices stay within their bounds and ignore order and absent genera."""
    present = sum(count > 0 for count in counts)
    for index in (shannon, simpson):
        value = index(counts)
        again = index([0, *reversed(counts)])
        assert (math.isnan(value) and math.isnan(again)) or value == pytest.approx(again, abs=1e-12)
    if present:
        assert 0 <= shannon(counts) <= math.log(present) + 1e-9
        assert -1e-12 <= simpson(counts) <= 1 - 1 / present + 1e-9


def test_even_assemblage_is_most_diverse() -> None:
    assert shannon([5, 5, 5, 5]) == pytest.approx(math.log(4))
    assert simpson([5, 5, 5, 5]) == pytest.approx(0.75)
    assert (shannon([9]), simpson([9])) == (0.0, 0.0)


def samples(spike_genus: str | None = None) -> list[dict[str, object]]:
    counts = [
        SlideCount(slide("a", "100"), "ok", 1.0, Counter(azolla=30, deflandrea=10, spiniferites=60)),
        SlideCount(slide("b", "200"), "ok", 1.0, Counter(azolla=20, deflandrea=5)),
        SlideCount(slide("c", "300"), "barren", 1.0),
        SlideCount(slide("d", "400"), "failed", 0.0),
        SlideCount(slide("e", "500"), "ok", 1.0, Counter(azolla=3)),
    ]
    frame = diversity_table(by_sample(counts), GENERA, None, spike_genus)
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def test_diversity_table() -> None:
    """The table rarefies to the smallest sum of at least 20; barren and failed samples differ."""
    rows = samples()
    assert {row["rarefied_to"] for row in rows} == {25}
    assert {row["among"] for row in rows} == {"the 3 trained genera"}
    assert [row["genera"] for row in rows] == [3, 2, 0, "", 1]
    assert rows[1]["rarefied_genera"] == pytest.approx(2.0)
    assert rows[4]["rarefied_genera"] == ""  # 3 fossils cannot be rarefied to 25
    assert [row["shannon"] for row in rows[2:4]] == ["", ""]


def test_spike_is_not_in_diversity() -> None:
    rows = samples("spiniferites")
    assert (rows[0]["fossils"], rows[0]["genera"], rows[0]["among"]) == (40, 2, "the 2 trained genera")
    assert rows[0]["shannon"] == round(shannon([30, 10]), 4)
