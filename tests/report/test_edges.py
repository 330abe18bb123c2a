"""Reports of unusual results: almost nothing found, no depth, two wells, corrected counts."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from slidepipe.exports.formats import FORMATS, export
from slidepipe.report import write_report
from slidepipe.results import Results
from slidepipe.search.index import open_index
from tests.synthetic import make_well


@pytest.mark.parametrize(
    ("statuses", "objects"),
    [({0: "failed", 1: "failed"}, 30), ({0: "barren", 1: "barren"}, 0), ({0: "failed", 1: "barren"}, 0), ({}, 3)],
)
def test_report_of_nearly_empty_results(tmp_path: Path, statuses: Mapping[int, str], objects: int) -> None:
    folder = make_well(tmp_path / "r", 2, 3, statuses=statuses, objects=objects)
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("cannot be opened") == list(statuses.values()).count("failed")
    assert ">nan" not in page
    for form in [form.name for form in FORMATS]:
        for path in export(folder, form):
            assert path.exists()
    assert len(open_index(Results(folder)).lengths) == len(Results(folder).objects)


def test_report_without_depth(tmp_path: Path) -> None:
    folder = make_well(tmp_path / "r", 1, 3)
    for name in ("counts.csv", "counts_slides.csv"):
        table = getattr(Results(folder), name.removesuffix(".csv"))
        table["depth_m"] = float("nan")
        table["sample_type"] = float("nan")
        table.to_csv(folder / name, index=False)
    write_report(folder)
    assert "1 samples" in (folder / "report.html").read_text(encoding="utf-8")


def test_report_of_two_wells(tmp_path: Path) -> None:
    folder = make_well(tmp_path / "r", 3, 3)
    for name in ("counts.csv", "counts_slides.csv"):
        table = getattr(Results(folder), name.removesuffix(".csv"))
        table.loc[2, "well"] = "15/9-19 A"
        table.to_csv(folder / name, index=False)
    write_report(folder)
    assert "15/9-19 A" in (folder / "chart-2.svg").read_text(encoding="utf-8")
    assert "15/9-19 A" not in (folder / "chart.svg").read_text(encoding="utf-8")
    assert (folder / "report.html").read_text(encoding="utf-8").count("data:image/svg+xml") == 2


def test_report_corrected_counts(tmp_path: Path) -> None:
    """The table of corrected counts is shown only if a correction was made."""
    folder = make_well(tmp_path / "r", 2, 3)
    header = "sample_id,well,depth_m,sample_type,genus,count,corrected,corrected_low,corrected_high,correction\n"
    whole = "(whole well),6407/6-5,,,aliscysta,37,31.5,27.1,36.2,corrected\n"
    (folder / "corrected.csv").write_text(header + whole + "a,6407/6-5,1000,DC,aliscysta,9,,,,uncorrected detections\n")
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("corrected by review</h2>") == 1
    assert "<td>31.5</td><td>27.1</td><td>36.2</td>" in page
    (folder / "corrected.csv").write_text(
        header + whole.replace("31.5,27.1,36.2,corrected", ",,,uncorrected detections")
    )
    write_report(folder)
    assert "corrected by review</h2>" not in (folder / "report.html").read_text(encoding="utf-8")
