"""Surveys: many wells, one RESULTS folder each, and the table of the outcomes."""

import csv
import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from slidepipe.cli import main
from slidepipe.errors import ResultsError, WellError
from slidepipe.pipeline import survey as wells
from slidepipe.pipeline.progress import Progress
from slidepipe.pipeline.summary import RunSummary
from slidepipe.pipeline.survey import find_wells
from tests import drawn


@pytest.fixture
def config(colour_well: Path, test_plugins: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "reference": str(colour_well / "reference"),
                "plugins": [str(test_plugins)],
                "backbone": {"name": "mean-colour", "orientations": 1},
                "head": {"alpha": 0.05, "settings": {"metric": "euclidean"}},
                "run": {"scheduler": "threads", "workers": 1},
            }
        )
    )
    return path


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Return a folder with a good well, one with a bad scan, and one without scans."""
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


@pytest.mark.slow
def test_survey_of_three_wells(survey: Path, tmp_path: Path, config: Path) -> None:
    """Each well gets its own results and one row; the same command again does what is missing."""
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
    # At the second run the finished wells are skipped, and the corrected ones are done.
    (survey / "4_5-6" / "4_5-6 9 mC.svs").unlink()
    shutil.copytree(survey / "1_2-3", survey / "7_8-9", dirs_exist_ok=True)
    again = CliRunner().invoke(main, ["run", str(survey), "--each", "--out", str(out), "--config", str(config)])
    assert again.exit_code == 0, again.output
    assert [row["status"] for row in rows(out / "wells.csv")] == ["ok", "ok", "ok"]


def test_list_of_wells_and_on_error_stop(survey: Path, tmp_path: Path, config: Path) -> None:
    """A list file gives the wells in its order, and with on_error=stop the first error ends the survey."""
    listed = tmp_path / "wells.txt"
    listed.write_text("# two wells\nsurvey/7_8-9\nsurvey/1_2-3\n")
    assert [well.name for well in find_wells(listed)] == ["7_8-9", "1_2-3"]
    command = [
        "run",
        str(listed),
        "--each",
        "--out",
        str(tmp_path / "r"),
        "--config",
        str(config),
        "--on-error",
        "stop",
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "no slides in this folder" in done.stderr
    assert not (tmp_path / "r" / "1_2-3").exists()


def test_bad_surveys(tmp_path: Path) -> None:
    """Wells with the same results folder, empty lists and missing folders are errors."""
    for folder in ("a/w", "b/w", "none"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "list.txt").write_text("a/w\nb/w\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for source, message in (
        (tmp_path / "list.txt", "the same RESULTS folder"),
        (tmp_path / "empty.txt", "no wells in this list"),
        (tmp_path / "none", "it holds no folders"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        with pytest.raises(WellError, match=message):
            find_wells(source)


class _Config:
    """A stand-in for the settings, with the one value that a survey reads."""

    def __init__(self, on_error: str = "continue") -> None:
        self.run = SimpleNamespace(on_error=on_error)


def fake_runs(monkeypatch: pytest.MonkeyPatch, ends: Mapping[str, BaseException | None]) -> None:
    """Replace the run of a well by one that ends with the given error, by the name of the well."""

    def run(well: Path, out: Path, *others: object) -> RunSummary:
        error = ends.get(well.name)
        if error is not None:
            raise error
        return RunSummary(out, 1, (), (), 7, 5, redone=True)

    monkeypatch.setattr(wells, "run_well", run)


def run_all(source: Path, out: Path, on_error: str = "continue") -> list[str]:
    config: Any = _Config(on_error)
    return [outcome.status for outcome in wells.run_wells(source, out, config, lambda status: Progress())]


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_error_in_one_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error in one well becomes its row, and the other wells are run."""
    survey, out = folders(tmp_path / "s", "a", "b", "c", "d"), tmp_path / "r"
    ends = {"a": KeyError("well"), "b": PermissionError(13, "Permission denied", "b"), "c": WellError("c: no slides")}
    fake_runs(monkeypatch, ends)
    assert run_all(survey, out) == ["error", "error", "refused", "ok"]
    table = rows(out / "wells.csv")
    assert [row["status"] for row in table] == ["error", "error", "refused", "ok"]
    assert table[0]["reason"] == "KeyError: 'well'"
    assert table[1]["reason"].startswith("PermissionError: ")
    with pytest.raises(KeyError):
        run_all(survey, tmp_path / "other", "stop")


def test_unexpected_error_is_exit_status_1(
    survey: Path, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is reported in one line without a traceback, and the exit status is 1."""
    fake_runs(monkeypatch, {"1_2-3": KeyError("x"), "4_5-6": KeyError("x"), "7_8-9": KeyError("x")})
    command = ["run", str(survey), "--each", "--out", str(tmp_path / "r"), "--config", str(config)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "3 wells: 3 error" in done.stdout
    assert "1_2-3: KeyError: 'x'" in done.stderr
    assert "Traceback" not in done.stderr


def test_results_folders_are_not_wells(tmp_path: Path) -> None:
    """RESULTS folders and MIRAX data folders below the survey are not wells."""
    survey = folders(tmp_path / "s", "a", "begun", "results", "one", "a_slide")
    (survey / "results" / "wells.csv").write_text("well\n")
    (survey / "one" / "manifest.json").write_text("{}")
    (survey / "a_slide.mrxs").write_text("")
    assert [well.name for well in find_wells(survey, survey / "begun")] == ["a"]


def test_rows_of_earlier_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of earlier runs stay in the table until their well is run again."""
    survey, out = folders(tmp_path / "s", "a", "b"), tmp_path / "r"
    fake_runs(monkeypatch, {"b": WellError("b: no slides")})
    run_all(survey, out)
    (tmp_path / "b.txt").write_text("s/b\n")
    (tmp_path / "c.txt").write_text("s/c\n")
    fake_runs(monkeypatch, {})
    run_all(tmp_path / "b.txt", out)
    run_all(tmp_path / "c.txt", out)
    assert [(Path(row["well"]).name, row["status"], row["objects"], row["reason"]) for row in rows(out / "wells.csv")] == [
        ("a", "ok", "7", ""), ("b", "ok", "7", ""), ("c", "ok", "7", ""),
    ]  # fmt: skip
    fake_runs(monkeypatch, {"a": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_all(survey, out)
    assert len(rows(out / "wells.csv")) == 3


def test_unusable_table_is_reported_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of wells that cannot be read or written is an error before any well is run."""
    survey = folders(tmp_path / "s", "a")
    fake_runs(monkeypatch, {"a": AssertionError("was run")})
    (tmp_path / "file").write_text("")
    folders(tmp_path / "taken", "wells.csv")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "wells.csv").write_text("name,uwi\na,1\n")
    for out, message in (
        ("file/below", "wells.csv: cannot be written"),
        ("taken", "wells.csv: cannot be read"),
        ("foreign", "not a table of wells written by slidepipe"),
    ):
        with pytest.raises(ResultsError, match=message):
            run_all(survey, tmp_path / out, "stop")
    assert (tmp_path / "foreign" / "wells.csv").read_text() == "name,uwi\na,1\n"


def test_table_locked_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that cannot be written for a while does not end the survey, unless it still cannot at the end."""
    survey, out = folders(tmp_path / "s", "a", "b"), tmp_path / "r"
    fake_runs(monkeypatch, {})
    write, calls = wells.write_text, itertools.count(1)

    def blocked(times: set[int]) -> Callable[[Path, str], None]:
        def attempt(path: Path, text: str) -> None:
            if next(calls) in times:
                raise PermissionError(13, "Permission denied", str(path))
            write(path, text)

        return attempt

    monkeypatch.setattr(wells, "write_text", blocked({2}))
    assert run_all(survey, out) == ["ok", "ok"]
    assert len(rows(out / "wells.csv")) == 2
    monkeypatch.setattr(wells, "write_text", blocked({6}))
    with pytest.raises(ResultsError, match=r"wells.csv: cannot be written \(Permission denied\)"):
        run_all(survey, out)


def test_unreadable_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey that cannot be listed is an error, and an unreadable well in it is still listed."""

    def refuse(folder: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(folder))

    folders(tmp_path, "locked", "open")
    exists = Path.exists

    def exists_unless_locked(path: Path) -> bool:
        return refuse(path) if path.parent.name == "locked" else exists(path)

    with monkeypatch.context() as patch:  # one unreadable folder among others gets its own row
        patch.setattr(Path, "exists", exists_unless_locked)
        assert [well.name for well in find_wells(tmp_path)] == ["locked", "open"]
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(WellError, match=r"cannot be read \(Permission denied\)"):
        find_wells(tmp_path)


def test_log_format_json(survey: Path, tmp_path: Path, config: Path) -> None:
    """With --log-format json each line is one event."""
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
    assert [line["event"] for line in lines] == ["started", "slide", "slide"]
    assert lines[0]["slides"] == 2
    assert (lines[1]["slide_id"], lines[1]["status"]) == ("4_5-6 9 mC", "failed")
    assert {key: lines[2][key] for key in ("slide_id", "status", "objects")} == {
        "slide_id": "4_5-6 5 mC", "status": "ok", "objects": 1,
    }  # fmt: skip
    refused = CliRunner().invoke(main, [*command[:1], str(survey / "7_8-9"), *command[2:]])
    (line,) = [json.loads(line) for line in refused.stderr.splitlines()]
    assert refused.exit_code == 2
    assert line["event"] == "error"
    assert "no slides in this folder" in line["message"]
