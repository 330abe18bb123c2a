import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from slidepipe.cli import main
from slidepipe.errors import WellError
from slidepipe.wells import find_wells
from tests import drawn


@pytest.fixture
def config(colour_well: Path, test_plugins: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "reference": str(colour_well / "reference"),
                "plugins": [str(test_plugins)],
                "backbone": {"name": "mean-colour", "views": 1},
                "head": {"alpha": 0.05, "settings": {"metric": "euclidean"}},
                "run": {"scheduler": "threads", "workers": 1},
            }
        )
    )
    return path


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A good well, one with a bad scan, and one without scans."""
    root = tmp_path / "survey"
    disc = [(300, 300, 90, drawn.BROWN)]
    drawn.svs(root / "1_2-3" / "1_2-3 5 mC.svs", drawn.field(1024, 1024, disc))
    drawn.svs(root / "4_5-6" / "4_5-6 5 mC.svs", drawn.field(1024, 1024, disc))
    (root / "4_5-6" / "4_5-6 9 mC.svs").write_bytes(b"no scan")
    (root / "7_8-9").mkdir()
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_well_gets_its_own_results_and_one_row(survey: Path, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "results"
    done = CliRunner().invoke(main, ["run", str(survey), "--each", "--out", str(out), "--config", str(config)])
    assert done.exit_code == 1, done.output
    assert "3 wells: 1 incomplete, 1 ok, 1 refused" in done.stdout
    table = rows(out / "wells.csv")
    assert [(Path(row["well"]).name, row["status"], row["objects"]) for row in table] == [
        ("1_2-3", "ok", "1"),
        ("4_5-6", "incomplete", "1"),
        ("7_8-9", "refused", ""),
    ]
    assert [row["failed"] for row in table] == ["0", "1", ""]
    assert "not a slide" in table[1]["reason"]
    assert "no slides in this folder" in table[2]["reason"]
    assert (out / "1_2-3" / "report.html").exists()
    assert (out / "4_5-6" / "counts.csv").exists()
    assert not (out / "7_8-9" / "counts.csv").exists()
    # Again: what is finished is passed over, and mended wells are done.
    (survey / "4_5-6" / "4_5-6 9 mC.svs").unlink()
    shutil.copytree(survey / "1_2-3", survey / "7_8-9", dirs_exist_ok=True)
    again = CliRunner().invoke(main, ["run", str(survey), "--each", "--out", str(out), "--config", str(config)])
    assert again.exit_code == 0, again.output
    assert [row["status"] for row in rows(out / "wells.csv")] == ["ok", "ok", "ok"]


def test_a_list_names_the_wells_and_on_error_stop_stops(survey: Path, tmp_path: Path, config: Path) -> None:
    wells = tmp_path / "wells.txt"
    wells.write_text("# two wells\nsurvey/7_8-9\nsurvey/1_2-3\n")
    assert [well.name for well in find_wells(wells)] == ["7_8-9", "1_2-3"]
    command = ["run", str(wells), "--each", "--out", str(tmp_path / "r"), "--config", str(config), "--on-error", "stop"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "no slides in this folder" in done.stderr
    assert not (tmp_path / "r" / "1_2-3").exists()


def test_wells_that_cannot_be_told_apart_or_are_not_there_are_refused(tmp_path: Path) -> None:
    for folder in ("a/w", "b/w", "none"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "list.txt").write_text("a/w\nb/w\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for source, message in (
        (tmp_path / "list.txt", "the same folder of results"),
        (tmp_path / "empty.txt", "no wells in this list"),
        (tmp_path / "none", "no folders in it"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        with pytest.raises(WellError, match=message):
            find_wells(source)


def test_the_run_speaks_json_a_line_an_event(survey: Path, tmp_path: Path, config: Path) -> None:
    command = [
        "run",
        str(survey / "4_5-6"),
        "--out",
        str(tmp_path / "r"),
        "--config",
        str(config),
        "--log-format",
        "json",
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["started", "slide"]
    assert lines[0]["slides"] == 2
    assert {key: lines[1][key] for key in ("slide_id", "status", "objects")} == {
        "slide_id": "4_5-6 5 mC", "status": "ok", "objects": 1,
    }  # fmt: skip
    refused = CliRunner().invoke(main, [*command[:1], str(survey / "7_8-9"), *command[2:]])
    (line,) = [json.loads(line) for line in refused.stderr.splitlines()]
    assert refused.exit_code == 2
    assert line["event"] == "error"
    assert "no slides in this folder" in line["message"]
