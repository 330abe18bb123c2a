"""The example backbone as a third-party package: built, installed into a new environment, and checked there."""

import ast
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from slidepipe import plugins
from tests import fresh

pytestmark = pytest.mark.install

EXAMPLE = Path(__file__).parents[2] / "plugins" / "example-backbone"
pytest.importorskip("hatchling", reason="hatchling builds the example's wheel")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a copy of the example, so that building does not change the source tree."""
    target = tmp_path_factory.mktemp("third-party") / "example-backbone"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    return target


@pytest.fixture(scope="module")
def installed(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    environment = fresh.make(folder / "environment")
    wheel = fresh.build_wheel(project, folder)
    assert {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "example_backbone.py",
        "example_backbone-0.1.0.dist-info",
    }
    done = environment.run("-c", "pass", cwd=folder)
    assert done.returncode == 0, done.stderr
    install = fresh.subprocess.run(
        [environment.folder / "bin" / "pip", "install", "-q", "--no-deps", "--no-index", wheel],
        env=environment.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert install.returncode == 0, install.stderr
    return environment


def test_installed_example(installed, tmp_path):
    code = (
        "import json, numpy as np; from slidepipe import plugins;"
        "info = plugins.find('backbone', 'colour-histogram');"
        "backbone = plugins.create('backbone', 'colour-histogram', {'bins': 2}).load('cpu');"
        "crops = np.full((2, 64, 64, 3), 200, np.uint8);"
        "print(json.dumps([info.distribution, info.version, backbone.embed(crops).tolist()]))"
    )
    ran = installed.run("-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == ["example-backbone", "0.1.0", [[0, 0, 0, 0, 0, 0, 0, 1]] * 2]
    assert not [info for info in plugins.list_plugins() if info.distribution == "example-backbone"]


def test_example_tests_pass(installed, project):
    ran = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests", cwd=project)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "15 passed" in ran.stdout


def test_example_settings_error(installed, tmp_path):
    code = "from slidepipe import plugins; plugins.create('backbone', 'colour-histogram', {'bin': 2})"
    ran = installed.run("-c", code, cwd=tmp_path)
    assert "SettingsError: backbone 'colour-histogram' has no setting bin. Known settings: bins" in ran.stderr


def test_example_is_short():
    source = (EXAMPLE / "example_backbone.py").read_text()
    assert len(source.splitlines()) < 60
    test = ast.parse((EXAMPLE / "tests" / "test_example_backbone.py").read_text()).body
    assert len(test) == 5  # its docstring, three imports and one test
