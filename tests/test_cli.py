import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from slidepipe.cli import main
from slidepipe.logs import wanted_format
from tests import drawn


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def options(colour_well: Path, test_plugins: Path) -> list[object]:
    return [
        "--reference",
        colour_well / "reference",
        "--plugin",
        test_plugins,
        "--backbone",
        "mean-colour",
        "--scheduler",
        "threads",
        "--alpha",
        "0.05",
    ]


def test_run_prints_summary_and_resume_is_noop(colour_well: Path, tmp_path: Path, options: list[object]) -> None:
    status, output = call("run", colour_well / "well", "--out", tmp_path / "r", *options)
    assert status == 0, output
    assert "3 of 3 slides analysed: 27 objects" in output
    assert str(tmp_path / "r" / "counts.csv") in output
    assert (tmp_path / "r" / "report.html").exists()
    status, output = call("run", colour_well / "well", "--out", tmp_path / "r", *options)
    assert status == 0
    assert "nothing left to do" in output


def test_failed_slide_gives_exit_status_1(colour_well: Path, tmp_path: Path, options: list[object]) -> None:
    well = tmp_path / "well"
    drawn.svs(well / "1_2-3 5 mC.svs", drawn.field(512, 512, [(256, 256, 90, drawn.BROWN)]))
    (well / "1_2-3 6 mC.svs").write_bytes(b"no slide")
    (well / "1_2-3 7 mC.mrxs").write_bytes(b"")
    status, output = call("run", well, "--out", tmp_path / "r", *options)
    assert status == 1
    assert "1 of 3 slides analysed" in output
    assert "failed: 1_2-3 6 mC, 1_2-3 7 mC" in output
    assert "failures.csv" in output
    assert pd.read_csv(tmp_path / "r" / "counts.csv")["status"].tolist() == ["ok", "failed", "failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "EMPTY", "--out", "OUT", "--reference", "EMPTY"], "no slides in this folder"),
        (["run", "NOWHERE", "--out", "OUT"], "no such file or folder"),
        (["run", "WELL", "--out", "OUT"], "no reference set"),
        (["run", "WELL", "--out", "OUT", "--reference", "EMPTY"], "no images in it"),
        (["run", "WELL", "--out", "OUT", "--config", "YAML"], "unknown setting 'hed'"),
        (["run", "WELL", "--out", "OUT", "--reference", "REFERENCE", "--alpha", "7"], "setting 'head.alpha' is 7.0"),
        (["run", "WELL", "--out", "OUT", "--reference", "REFERENCE", "--detector", "dens"], "density"),
        (["info", "NOWHERE"], "no such file"),
        (["run", "WELL"], "Missing option '--out'"),
        (["run", "WELL", "--out", "OUT", "--alpha", "x"], "'x' is not a valid float. See"),
        (["runn"], "No such command 'runn'"),
        (["report", "EMPTY"], "no results here"),
    ],
)
def test_bad_input_gives_one_line_and_exit_status_2(
    colour_well: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.yaml").write_text("hed: {alpha: 0.1}\n")
    paths = {
        "EMPTY": tmp_path / "empty",
        "NOWHERE": tmp_path / "nowhere",
        "WELL": colour_well / "well",
        "OUT": tmp_path / "out",
        "REFERENCE": colour_well / "reference",
        "YAML": tmp_path / "c.yaml",
    }
    status, output = call(*(paths.get(argument, argument) for argument in arguments))
    assert status == 2, output
    assert message in output
    assert output.startswith("slidepipe: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "w", "--log-format", "json"], "Missing option '--out'"),
        (["run", "w", "--log-format=json", "--out", "o", "--alpha", "x"], "not a valid float"),
        (["run", "w", "--out", "o", "--log-format", "json", "--nope"], "No such option"),
    ],
)
def test_usage_error_as_json(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["event"] == "error"
    assert message in line["message"]
    assert wanted_format(["run", "--log-format", "json", "--log-format", "text"]) == "text"
    assert wanted_format(["run", "--", "--log-format", "json"]) == "text"


@pytest.mark.parametrize("where", ["slidepipe.cli.click.Group.make_context", "slidepipe.config.load_config"])
def test_early_interrupt_as_json(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    done = CliRunner().invoke(main, ["run", "w", "--out", "o", "--log-format", "json"])
    assert done.exit_code == 130
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["event"] == "stopped"


def test_info(colour_well: Path, tmp_path: Path) -> None:
    status, output = call("info", colour_well / "well" / "1_2-3 300 mSWC.mrxs")
    assert status == 0
    for text in ("mirax", "1536 x 1536 px at 1024, 512", "0.25 x 0.25 um", "1/2-3", "300 m", "SWC", "0.1 mm2"):
        assert text in output
    lone = drawn.svs(tmp_path / "lone.svs", drawn.field(256, 256), mpp=None)
    status, output = call("info", lone)
    assert status == 2
    assert "resolution:   unknown" in output
    assert "--mpp" in output
    assert call("info", lone, "--mpp", "0.5")[0] == 0


def test_debug_shows_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--debug", "info", str(tmp_path / "none.svs")])
    assert type(result.exception).__name__ in {"WellError", "SlideError"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plugins", "list"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom slidepipe.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'dask', 'distributed', 'zarr', 'pandas', 'skimage', 'sklearn', 'openslide', 'matplotlib', 'timm'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")
