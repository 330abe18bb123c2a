"""The documentation: every Python and console block of the plugin pages runs, and the pages build."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import fresh

ROOT = Path(__file__).parents[1]
PAGES = ("plug-in-a-backbone.md", "plug-in-a-head-or-detector.md")
FENCE = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Fenced:
    """A fenced block of a page and the line it starts on."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), f"{page} has a fence that the tests do not understand"
    return [
        Fenced(match["language"], match["title"], match["text"], text[: match.start()].count("\n") + 1)
        for match in FENCE.finditer(text)
    ]


def commands(text):
    """Return the commands of a console block, each with its expected output lines."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling builds the example's wheel")
    return fresh.make(tmp_path_factory.mktemp("fresh") / "environment")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "plugins" / "example-backbone", folder / "example")
    return fresh.build_wheel(folder / "example", folder)


def check_command_exists(environment, folder):
    return environment.run("-m", "slidepipe.cli", "plugins", "check", "--help", cwd=folder).returncode == 0


@pytest.mark.install
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, environment, wheel, tmp_path):
    shutil.copy(wheel, tmp_path)
    if not check_command_exists(environment, tmp_path):
        pytest.skip("the command line of this checkout lacks: slidepipe plugins check")
    for block in blocks(page):
        where = f"{page}, line {block.line}"
        if block.language == "python" and block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            ran = environment.run("-c", block.text, cwd=tmp_path)
            assert ran.returncode == 0, f"{where}: {ran.stderr}"
        elif block.language == "console":
            for command, wanted in commands(block.text):
                ran = environment.run_line(command, cwd=tmp_path)
                assert ran.returncode == 0, f"{where}: {command}: {ran.stdout}{ran.stderr}"
                printed = [re.sub(r"\s{2,}", "  ", row) for row in ran.stdout.splitlines()]
                missing = [line for line in wanted if line not in printed]
                assert not missing, f"{where}: {command} does not print {missing}: {ran.stdout}"
        else:
            assert block.language in ("toml", "yaml"), (
                f"{where}: blocks in {block.language} are not run: extend this test"
            )


def test_example_excerpts_match_example():
    shown = [block.text for block in blocks(PAGES[0]) if block.language == "toml"]
    assert shown
    assert all(text in (ROOT / "plugins" / "example-backbone" / "pyproject.toml").read_text() for text in shown)


def test_yolo_settings_documented():
    from slidepipe_plugins.yolo import YoloDetector

    (shown,) = [yaml.safe_load(block.text) for block in blocks(PAGES[1]) if block.language == "yaml"]
    YoloDetector.Settings(**shown["detector"]["settings"])
    assert tables(PAGES[1])["YOLO"] == set(YoloDetector.Settings.model_fields)


def test_torch_settings_documented():
    from slidepipe_plugins.timm import TorchSettings

    assert tables(PAGES[0])["timm"] == set(TorchSettings.model_fields)


@pytest.mark.slow
def test_documentation_builds_strictly(tmp_path):
    """A broken link, a module that cannot be documented or a docstring that names no such parameter fails the build."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "run_well" in (tmp_path / "api" / "slidepipe.pipeline.flow.html").read_text(encoding="utf-8")


def tables(page):
    """Return the names in the first column of the settings tables, by the word in the heading above."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        table = re.search(r"^\| [Ss]etting .*?\n\n", section, flags=re.MULTILINE | re.DOTALL)
        if table:
            word = "YOLO" if "YOLO" in section.splitlines()[0] else "timm"
            first = [row.split("|")[1] for row in table[0].splitlines()[2:] if row]
            found[word] = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    return found
