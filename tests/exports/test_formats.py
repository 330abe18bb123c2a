import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from slidepipe.cli import main
from slidepipe.errors import SettingsError
from slidepipe.exports.formats import FORMATS, export
from slidepipe.results import Results
from tests.synthetic import genus_names, make_well


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_well(tmp_path_factory.mktemp("exports") / "r", 6, 4, statuses={1: "failed", 3: "partial", 4: "barren"})


def test_wide_csv_for_rioja(well: Path, tmp_path: Path) -> None:
    export(well, "csv", tmp_path)
    wide = pd.read_csv(tmp_path / "counts_wide.csv")
    assert wide.columns.tolist() == ["sample_id", "well", "depth_m", "sample_type", "status", *genus_names(4)]
    assert wide["depth_m"].is_monotonic_increasing
    taxa = wide.iloc[:, 5:]
    assert taxa.notna().all(axis=None)  # strat.plot(d[, -(1:5)], yvar = d$depth_m) draws numbers only
    assert all(pd.api.types.is_integer_dtype(kind) for kind in taxa.dtypes)
    counts = Results(well).counts
    assert set(wide["sample_id"]) == set(counts.loc[counts["status"] != "failed", "sample_id"])
    assert len(wide) == 5
    accepted = Results(well).objects.query("state == 'accepted'")
    assert taxa.to_numpy().sum() == len(accepted)


def test_tidy_csv_for_tidypaleo(well: Path, tmp_path: Path) -> None:
    export(well, "csv", tmp_path)
    long = pd.read_csv(tmp_path / "counts_tidy.csv")
    assert long.columns.tolist()[:3] == ["location", "param", "depth"]
    assert not long.duplicated(["location", "param", "depth", "sample_type"]).any()
    assert set(long["location"]) == {"6407/6-5"}
    assert len(long) == 5 * 4
    wide = pd.read_csv(tmp_path / "counts_wide.csv").set_index("sample_id")
    for row in long.itertuples():
        assert row.count == wide.loc[row.sample_id, row.param]
        assert row.depth == wide.loc[row.sample_id, "depth_m"]
    barren = long[long["status"] == "barren"]
    assert len(barren) == 4
    assert barren["rel_abund"].isna().all()
    sums = long.dropna(subset="rel_abund").groupby("sample_id")["rel_abund"].sum()
    assert sums.round(1).eq(100).all()


def test_parquet_column_types(well: Path, tmp_path: Path) -> None:
    written = export(well, "parquet", tmp_path)
    assert {path.name for path in written} == {"counts.parquet", "counts_long.parquet", "objects.parquet"}
    counts = pd.read_parquet(tmp_path / "counts.parquet")
    assert counts["total"].dtype == "Int64"
    assert counts["depth_m"].dtype == "float64"
    assert counts["total"].isna().tolist() == (counts["status"] == "failed").tolist()
    assert pq.read_table(tmp_path / "objects.parquet").equals(pq.read_table(well / "objects.parquet"))


def test_coco(well: Path, tmp_path: Path) -> None:
    """The file follows the rules of COCO."""
    (path,) = export(well, "coco", tmp_path)
    record = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image for image in record["images"]}
    categories = {category["id"]: category["name"] for category in record["categories"]}
    assert len(images) == len(record["images"]) == 5
    assert len(categories) == len(record["categories"]) == 4 + 2
    assert all(isinstance(image["file_name"], str) and image["width"] > 0 for image in images.values())
    ids = [annotation["id"] for annotation in record["annotations"]]
    assert len(ids) == len(set(ids)) == len(Results(well).objects)
    assert min(ids) >= 1
    objects = Results(well).objects.set_index("object_id")
    for annotation in record["annotations"]:
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        row = objects.loc[annotation["object_id"]]
        assert [x, y, x + width, y + height] == row[["x0", "y0", "x1", "y1"]].tolist()
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert image["slide_id"] == row["slide_id"]
        assert annotation["iscrowd"] == 0
        assert 0 < annotation["area"] <= width * height * 1.01
        (polygon,) = annotation["segmentation"]
        assert len(polygon) == 8
        assert (min(polygon[::2]), max(polygon[1::2])) == (x, y + height)
        assert categories[annotation["category_id"]] == (row["genus"] if row["state"] == "accepted" else row["state"])


def test_export_several_formats(well: Path, tmp_path: Path) -> None:
    forms = [option for form in FORMATS for option in ("--format", form.name)]
    done = CliRunner().invoke(main, ["export", str(well), *forms, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    written = [Path(line) for line in done.output.splitlines()]
    by_suffix = Counter(path.suffix for path in written)
    assert by_suffix == {".geojson": 5, ".csv": 2, ".parquet": 3, ".json": 1}
    assert all(path.is_file() for path in written)
    assert {path.parent for path in export(well, "csv")} == {well / "exports"}


def test_unknown_format(well: Path) -> None:
    with pytest.raises(SettingsError, match=r"'xls' does not exist\. Use one of geojson, csv, parquet, coco"):
        export(well, "xls")
