"""The depth chart."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.html import taxon_name
from slidepipe.report.chart import draw_chart, write_chart
from slidepipe.report.chart_data import ChartSample, Share, chart_samples, order_genera
from slidepipe.report.chart_rows import spread_rows
from slidepipe.results import Results
from tests.synthetic import make_well

SHARES = {"azolla": {"a": Share(3, 30.0, 11.0, 60.0)}, "rara": {"c": Share(1, 0.5, 0.1, 2.0)}, "absens": {}}


def sample(name: str, depth: float | None, status: str = "ok", sample_type: str = "DC") -> ChartSample:
    analysed = status != "failed"
    return ChartSample(name, depth, sample_type, status, 10 if analysed else None, 4 if analysed else None)


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 (ours)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.floats(0.5, 20))
def test_spread_rows_moves_as_little_as_possible(depths: list[float], least: float) -> None:
    """Rows keep their order and their mean, are `least` apart, and a second call changes nothing."""
    before = np.sort(np.array(depths))
    after = spread_rows(before, least)
    assert (np.diff(after) >= least - 1e-6).all()
    assert after.mean() == pytest.approx(before.mean(), abs=1e-6)
    np.testing.assert_allclose(spread_rows(after, least), after, atol=1e-6)


def test_spread_rows_keeps_distant_rows() -> None:
    rows = np.array([0.0, 10.0, 10.5, 40.0])
    np.testing.assert_allclose(spread_rows(rows, 2), [0.0, 9.25, 11.25, 40.0])


def test_order_genera() -> None:
    """Genera are ordered by highest find, then by lowest find; those that were not found come separately."""
    samples = [sample("a", 1), sample("b", 2), sample("c", 3)]
    share = Share(1, 10.0, 1.0, 40.0)
    shares = {"late": {"c": share}, "long": {"a": share, "c": share}, "short": {"a": share}, "none": {}}
    assert order_genera(samples, shares) == (["short", "long", "late"], ["none"])


def test_chart_statuses(tmp_path: Path) -> None:
    """Each status is written next to its sample, and a failed sample is never drawn as zero."""
    samples = [
        sample("a", 100),
        sample("b", 120, "failed"),
        sample("c", 180.25, "partial", "SWC"),
        sample("d", 200, "barren"),
    ]
    write_chart(draw_chart("Well x", samples, SHARES), tmp_path)
    found = texts(tmp_path / "chart.svg")
    assert {"100 DC", "120 DC  failed", "180.25 SWC  partial", "200 DC  barren", "Azolla", "Rara"} <= set(found)
    # The three samples that were analysed have 10 fossils each; the fourth "10" is a tick of the percent axis of Azolla.
    assert found.count("10") == 4
    assert found.count("4") == 3
    assert "0" not in found
    assert any("not found: Absens" in line for line in found)


def test_depth_axis_scale(tmp_path: Path) -> None:
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
def test_chart_is_reproducible(tmp_path: Path, samples: int, genera: int) -> None:
    """The same data gives the same bytes; each genus found has a panel and each row has room."""
    results = Results(make_well(tmp_path / "r", samples, genera))
    read, shares = chart_samples(results.counts, results.counts_long)
    (tmp_path / "again").mkdir()
    for folder in (tmp_path, tmp_path / "again"):
        write_chart(draw_chart("Well", read, shares), folder)
    for name in ("chart.svg", "chart.pdf"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    found = sum(any(cells.values()) for cells in shares.values())
    assert len(set(texts(tmp_path / "chart.svg")) & {taxon_name(genus) for genus in shares}) == found
    assert draw_chart("Well", read, shares).get_figheight() * 72 > 8.5 * samples


def test_chart_without_depths(tmp_path: Path) -> None:
    write_chart(draw_chart("Well", [sample("a", None)], SHARES), tmp_path)
    assert "no depth" in texts(tmp_path / "chart.svg")
    write_chart(draw_chart("Well", [sample("a", None), sample("c", 3)], SHARES), tmp_path)
    assert any("Without a depth, not shown: a" in line for line in texts(tmp_path / "chart.svg"))


def test_chart_escapes_names(tmp_path: Path) -> None:
    shares = {"$x_1$ <b>": {"a": Share(3, 30.0, 11.0, 60.0)}, "孢粉": {"a": Share(3, 30.0, 11.0, 60.0)}}
    write_chart(draw_chart("Well <i> & $", [sample("a", 1)], shares), tmp_path)
    assert {"$x_1$ <b>", "孢粉", "Well <i> & $"} <= set(texts(tmp_path / "chart.svg"))


def test_chart_spike(tmp_path: Path) -> None:
    """The spike has a count but no percentage."""
    nan = float("nan")
    write_chart(draw_chart("Well", [sample("a", 1)], {"lycopodium": {"a": Share(77, nan, nan, nan)}}), tmp_path)
    assert "77" in texts(tmp_path / "chart.svg")
