import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.counting.counts import SlideCount, by_sample
from slidepipe.counting.spike import ALL_FOSSILS, check_spike, concentration, relative_error, spike_table
from slidepipe.errors import SettingsError, WellError
from slidepipe.samples.discover import discover
from slidepipe.samples.sample import Spike
from tests.made_results import GENERA, slide

SPIKE = Spike(tablets=2, spores_per_tablet=10_000, spores_sd=400, grams=5)


def test_concentration_formula() -> None:
    """The concentration and its error follow Stockmarr (1971)."""
    estimate = concentration(300, 100, SPIKE)
    assert estimate.value == pytest.approx(300 * 2 * 10_000 / (100 * 5))
    assert relative_error(300, 100, SPIKE) == pytest.approx(math.sqrt(1 / 300 + 1 / 100 + 0.04**2 / 2))


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_concentration_is_in_interval(fossils: int, spikes: int) -> None:
    estimate = concentration(fossils, spikes, SPIKE)
    assert 0 <= estimate.low <= estimate.value <= estimate.high < math.inf
    exact = concentration(fossils, spikes, replace(SPIKE, spores_sd=0))
    assert exact.value == estimate.value
    assert exact.high <= estimate.high
    if fossils:
        assert exact.low >= estimate.low > 0


def test_concentration_coverage() -> None:
    """The interval covers the true concentration in about 95 % of cases."""
    rng = np.random.default_rng(2)
    held = total = 0
    for _ in range(1500):
        truth = float(rng.uniform(0.2, 5))
        spikes = int(rng.integers(20, 300))
        tablets = rng.normal(SPIKE.spores_per_tablet, SPIKE.spores_sd, int(SPIKE.tablets)).sum() / 20_000
        m = int(rng.poisson(spikes * tablets))
        x = int(rng.poisson(spikes * truth))
        if m:
            estimate = concentration(x, m, SPIKE)
            held += estimate.low <= truth * 20_000 / SPIKE.grams <= estimate.high
            total += 1
    assert 0.93 <= held / total <= 0.98


def test_spike_table() -> None:
    """The slides of a sample are summed; where no spike was counted, the cell is empty and a note says so."""
    first, second = (replace(slide(name, "100"), spike=spike) for name, spike in (("a", SPIKE), ("b", None)))
    counts = [
        SlideCount(first, "ok", 1.0, Counter(azolla=10, spiniferites=30)),
        SlideCount(second, "ok", 1.0, Counter(azolla=5, deflandrea=15, spiniferites=20)),
        SlideCount(replace(slide("c", "200"), spike=SPIKE), "ok", 1.0, Counter(azolla=4)),
        SlideCount(slide("d", "300"), "ok", 1.0, Counter(azolla=4, spiniferites=9)),
        SlideCount(replace(slide("e", "400"), spike=SPIKE), "failed", 0.0),
    ]
    rows = spike_table(by_sample(counts), GENERA, "spiniferites").to_dict("records")
    assert [(row["sample_id"], row["genus"]) for row in rows] == [
        (f"1/2-3 {depth} mDC", genus) for depth in (100, 200) for genus in (ALL_FOSSILS, "azolla", "deflandrea")
    ]
    assert (rows[0]["count"], rows[0]["spike_count"], rows[0]["per_gram"]) == (30, 50, 2400.0)
    assert rows[1]["per_gram"] + rows[2]["per_gram"] == rows[0]["per_gram"]
    assert (rows[3]["per_gram"], rows[3]["note"]) == ("", "no spike was counted")
    assert spike_table(by_sample(counts), GENERA, None).empty


def test_unusable_spike_is_an_error() -> None:
    """A spike that cannot be used is an error before any work starts."""
    with pytest.raises(SettingsError, match="'lycopodium', which the reference set does not have"):
        check_spike([slide("a")], GENERA, "lycopodium")
    with pytest.raises(SettingsError, match=r"samples\.csv: a has tablets, but counting\.spike_genus is not set"):
        check_spike([replace(slide("a"), spike=SPIKE)], GENERA, None)
    check_spike([replace(slide("a"), spike=SPIKE)], GENERA, "azolla")


def well(folder: Path, samples: str) -> Path:
    for name in ("1_2-3 100 mDC", "1_2-3 100 mDC (2)", "1_2-3 200 mDC"):
        (folder / f"{name}.svs").touch()
    (folder / "samples.csv").write_text(samples, encoding="utf-8")
    return folder


def test_spike_from_samples_csv(tmp_path: Path) -> None:
    text = 'slide;tablets;spores_per_tablet;spores_sd;grams\n1_2-3 100 mDC;2;"9666,5";671;5,25\n'
    spikes = {found.slide_id: found.spike for found in discover(well(tmp_path, text))}
    assert spikes == {"1_2-3 100 mDC": Spike(2, 9666.5, 671, 5.25), "1_2-3 100 mDC (2)": None, "1_2-3 200 mDC": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,tablets,grams\n1_2-3 100 mDC,2,5\n", "has tablets but no spores_per_tablet"),
        (
            "slide,tablets,spores_per_tablet,grams\n1_2-3 100 mDC,2,9000,0\n",
            "grams '0' of 1_2-3 100 mDC must be above 0",
        ),
        (
            "slide,tablets,spores_per_tablet,grams\n1_2-3 100 mDC,2,many,5\n",
            "spores_per_tablet 'many' .* is not a number",
        ),
        (
            "slide,tablets,spores_per_tablet,grams\n1_2-3 100 mDC,2,9000,5\n1_2-3 100 mDC (2),3,9000,5\n",
            "are of one sample but have different tablets or grams",
        ),
    ],
)
def test_incomplete_spike_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    """An incomplete spike is an error that names the slide."""
    with pytest.raises(WellError, match=message):
        discover(well(tmp_path, text))
