import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.report.chart import chart_samples, draw_chart, order_genera, spread_rows, write_chart
from slidepipe.report.chart_parts import ChartSample, Share
from slidepipe.results import Results
from tests.synthetic import make_well

SHARES = {"azolla": {"a": Share(3, 30.0, 11.0, 60.0)}, "rara": {"c": Share(1, 0.5, 0.1, 2.0)}, "absens": {}}


def sample(name: str, depth: float | None, status: str = "ok", sample_type: str = "DC") -> ChartSample:
    analysed = status != "failed"
    return ChartSample(name, depth, sample_type, status, 10 if analysed else None, 4 if analysed else None)


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 (ours)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.floats(0.5, 20))
def test_rows_come_apart_in_order_and_no_further_than_they_must(depths: list[float], least: float) -> None:
    before = np.sort(np.array(depths))
    after = spread_rows(before, least)
    assert (np.diff(after) >= least - 1e-6).all()
    assert after.mean() == pytest.approx(before.mean(), abs=1e-6)
    np.testing.assert_allclose(spread_rows(after, least), after, atol=1e-6)


def test_rows_that_are_apart_stay_at_their_true_depth() -> None:
    rows = np.array([0.0, 10.0, 10.5, 40.0])
    np.testing.assert_allclose(spread_rows(rows, 2), [0.0, 9.25, 11.25, 40.0])


def test_genera_are_in_the_order_of_a_range_chart() -> None:
    samples = [sample("a", 1), sample("b", 2), sample("c", 3)]
    share = Share(1, 10.0, 1.0, 40.0)
    shares = {"late": {"c": share}, "long": {"a": share, "c": share}, "short": {"a": share}, "none": {}}
    assert order_genera(samples, shares) == (["short", "long", "late"], ["none"])


def test_chart_tells_statuses_and_never_draws_a_failed_sample_as_zero(tmp_path: Path) -> None:
    samples = [
        sample("a", 100),
        sample("b", 120, "failed"),
        sample("c", 180.25, "partial", "SWC"),
        sample("d", 200, "barren"),
    ]
    write_chart(draw_chart("Well x", samples, SHARES), tmp_path)
    said = texts(tmp_path / "chart.svg")
    assert {"100 DC", "120 DC  failed", "180.25 SWC  partial", "200 DC  barren", "azolla", "rara"} <= set(said)
    assert said.count("10") >= 3  # fossils counted, of the three samples that were analysed
    assert said.count("4") == 3
    assert "0" not in said
    assert any("not found: absens" in line for line in said)


def test_true_scale_unless_samples_hide_one_another(tmp_path: Path) -> None:
    samples = [sample("a", 100), sample("b", 100.4), sample("c", 300), sample("d", 500)]
    write_chart(draw_chart("Well x", samples, SHARES), tmp_path)
    nodes = ET.parse(tmp_path / "chart.svg").iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 (ours)
    place = {}
    for node in nodes:
        label = "".join(node.itertext())
        if label.endswith(" DC"):
            match = re.search(r"translate\([\d.]+ ([\d.]+)\)", node.attrib.get("transform", "")) or re.search(
                r"([\d.]+)$", node.attrib["y"]
            )
            assert match is not None
            place[label] = float(match[1])
    assert place["100.4 DC"] - place["100 DC"] > 8
    assert place["500 DC"] - place["300 DC"] == pytest.approx(
        place["300 DC"] - np.mean([place["100 DC"], place["100.4 DC"]]), rel=0.02
    )


@pytest.mark.parametrize(("samples", "genera"), [(2, 5), (12, 8)])
def test_same_bytes_again_and_room_for_every_row(tmp_path: Path, samples: int, genera: int) -> None:
    results = Results(make_well(tmp_path / "r", samples, genera))
    read, shares = chart_samples(results.counts, results.counts_long)
    (tmp_path / "again").mkdir()
    for folder in (tmp_path, tmp_path / "again"):
        write_chart(draw_chart("Well", read, shares), folder)
    for name in ("chart.svg", "chart.pdf"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    found = sum(any(cells.values()) for cells in shares.values())
    assert len(set(texts(tmp_path / "chart.svg")) & set(shares)) == found
    assert draw_chart("Well", read, shares).get_figheight() * 72 > 8.5 * samples


def test_samples_without_depth(tmp_path: Path) -> None:
    write_chart(draw_chart("Well", [sample("a", None)], SHARES), tmp_path)
    assert "no depth" in texts(tmp_path / "chart.svg")
    write_chart(draw_chart("Well", [sample("a", None), sample("c", 3)], SHARES), tmp_path)
    assert any("Without a depth, not shown: a" in line for line in texts(tmp_path / "chart.svg"))


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    shares = {"$x_1$ <b>": {"a": Share(3, 30.0, 11.0, 60.0)}, "孢粉": {"a": Share(3, 30.0, 11.0, 60.0)}}
    write_chart(draw_chart("Well <i> & $", [sample("a", 1)], shares), tmp_path)
    assert {"$x_1$ <b>", "孢粉", "Well <i> & $"} <= set(texts(tmp_path / "chart.svg"))


def test_the_spike_is_counted_without_a_percentage(tmp_path: Path) -> None:
    nan = float("nan")
    write_chart(draw_chart("Well", [sample("a", 1)], {"lycopodium": {"a": Share(77, nan, nan, nan)}}), tmp_path)
    assert "77" in texts(tmp_path / "chart.svg")
