"""The registry: metadata only, errors that name whose fault it is, local files."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slidepipe import plugins
from slidepipe.errors import PluginError, SettingsError

BACKBONE = """
import numpy as np
from pydantic import BaseModel, ConfigDict
{first}
class Grey:
    name = "grey"
    dim = 1
    input_px = 8
    license = "Apache-2.0"
    source = "made up"

    class Settings(BaseModel):
        model_config = ConfigDict(extra="{extra}")
        gain: float = 1.0
        weights: str | None = None

    def __init__(self, settings):
        self.settings = settings

    def load(self, device):
        return self

    def embed(self, crops):
        return crops.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] * np.float32(self.settings.gain)
"""


@pytest.fixture(autouse=True)
def _forget_local_files(monkeypatch):
    monkeypatch.setattr(plugins, "_local_files", {})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a made-up distribution on the path, as pip would lay it out."""

    def lay_out(name, entry_points, module="", version="1.2.3"):
        site = tmp_path / f"site-{name}"
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        if module:
            (site / f"{name.replace('-', '_')}.py").write_text(module)
        monkeypatch.syspath_prepend(site)

    yield lay_out
    for module_name in [name for name in sys.modules if name.startswith("stranger")]:
        del sys.modules[module_name]


def grey(first="", extra="forbid"):
    return BACKBONE.format(first=first, extra=extra)


def info_of(name, kind="backbone"):
    return [info for info in plugins.list_plugins(kind) if info.name == name]


def test_listing_imports_neither_plugins_nor_anything_heavy(install, tmp_path):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey("raise SystemExit('imported')"))
    code = (
        "import sys, json; from slidepipe.plugins import list_plugins; names = [i.name for i in list_plugins()];"
        "print(json.dumps([names, sorted(sys.modules)]))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    names, modules = json.loads(ran.stdout)
    assert "grey" in names
    assert not {"torch", "numpy", "pydantic", "timm", "onnxruntime", "stranger_one"} & set(modules)


def test_an_installed_plugin_is_listed_built_and_runs(install):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    (info,) = info_of("grey")
    assert (info.distribution, info.version, info.value) == ("stranger-one", "1.2.3", "stranger_one:Grey")
    assert info.error is None
    backbone = plugins.create("backbone", "grey", {"gain": 2}, weights=Path("w.pth")).load("cpu")
    assert str(backbone.settings.weights) == "w.pth"
    assert backbone.embed(np.full((2, 8, 8, 3), 3, np.uint8)).tolist() == [[6.0], [6.0]]


def test_a_plugin_that_fails_to_import_spoils_only_itself(install):
    install("stranger-bad", "[slidepipe.backbones]\nbad = stranger_bad:Grey\n", grey("raise ValueError('no\\nluck')"))
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    with pytest.raises(PluginError, match=r"'bad' from stranger-bad 1\.2\.3 cannot be imported: ValueError: no luck$"):
        plugins.create("backbone", "bad")
    assert plugins.create("backbone", "grey").name == "grey"


def test_a_plugin_that_exits_on_import_is_an_error_not_an_exit(install):
    install("stranger-bad", "[slidepipe.backbones]\nbad = stranger_bad:Grey\n", grey("raise SystemExit(3)"))
    with pytest.raises(PluginError, match="SystemExit: 3"):
        plugins.get_class("backbone", "bad")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bad stranger_bad Grey", "not of the form name = module:Class"),
        ("bad = stranger_bad", "not of the form module:Class"),
        ("bad = stranger_absent:Grey", "module stranger_absent is not installed"),
    ],
)
def test_broken_metadata_is_listed_with_its_reason_and_spoils_only_itself(install, line, reason):
    install("stranger-bad", f"[slidepipe.backbones]\n{line}\n", grey())
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    (bad,) = [info for info in plugins.list_plugins() if info.distribution == "stranger-bad"]
    assert reason in str(bad.error)
    with pytest.raises(PluginError, match=r"stranger-bad 1\.2\.3 cannot be used"):
        plugins.get_class("backbone", bad.name)
    assert plugins.create("backbone", "grey").name == "grey"


def test_a_distribution_without_a_name_is_listed_as_broken(install, tmp_path):
    install("stranger-bad", "[slidepipe.backbones]\nbad = stranger_bad:Grey\n", grey())
    (tmp_path / "site-stranger-bad" / "stranger_bad-1.2.3.dist-info" / "METADATA").write_text("")
    (bad,) = info_of("bad")
    assert "has no name" in str(bad.error)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("stranger_one:Absent", "has no Absent"),
        ("stranger_one:np", "is not a class"),
        ("stranger_one:Grey.Settings", "has no method load, embed"),
    ],
)
def test_what_is_no_backbone_is_refused(install, value, reason):
    install("stranger-one", f"[slidepipe.backbones]\ngrey = {value}\n", grey())
    with pytest.raises(PluginError, match=rf"'grey' from stranger-one 1\.2\.3 is broken: .*{reason}"):
        plugins.get_class("backbone", "grey")


def test_a_missing_attribute_breaks_the_contract(install):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey().replace("license", "licence"))
    with pytest.raises(PluginError, match="breaks its contract: it has no license"):
        plugins.create("backbone", "grey")


def test_a_name_claimed_twice_names_both_and_only_when_asked_for(install):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    install("stranger-two", "[slidepipe.backbones]\ngrey = stranger_two:Grey\nfine = stranger_two:Grey\n", grey())
    both = info_of("grey")
    assert len(both) == 2
    assert all("stranger-one 1.2.3 and stranger-two 1.2.3" in str(info.error) for info in both)
    with pytest.raises(PluginError, match=r"claimed by stranger-one 1\.2\.3 and stranger-two 1\.2\.3"):
        plugins.create("backbone", "grey")
    assert plugins.create("backbone", "fine").dim == 1


def test_a_shadowed_distribution_of_the_same_name_is_no_clash(install, tmp_path):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    twin = tmp_path / "site-older" / "stranger_one-1.0.dist-info"
    twin.mkdir(parents=True)
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: Stranger_One\nVersion: 1.0\n")
    (twin / "entry_points.txt").write_text("[slidepipe.backbones]\ngrey = stranger_one:Grey\n")
    sys.path.append(str(twin.parent))
    try:
        assert [info.version for info in info_of("grey")] == ["1.2.3"]
    finally:
        sys.path.remove(str(twin.parent))


def test_an_unknown_name_lists_the_nearest_and_what_there_is(install):
    install("stranger-one", "[slidepipe.backbones]\nstranger-grey = stranger_one:Grey\n", grey())
    with pytest.raises(
        PluginError, match=r"'stranger-gray' is unknown; did you mean stranger-grey.*; available: .*grey"
    ):
        plugins.get_class("backbone", "stranger-gray")
    with pytest.raises(PluginError, match=r"it is a backbone"):
        plugins.get_class("head", "stranger-grey")


def test_kinds_are_three():
    with pytest.raises(PluginError, match="use one of backbone, head, detector"):
        plugins.find("cropper", "x")


@pytest.mark.parametrize("extra", ["forbid", "ignore"])
def test_settings_errors_are_one_line_with_plugin_setting_and_choice(install, extra):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey(extra=extra))
    with pytest.raises(SettingsError, match=r"^backbone 'grey' has no setting gian; its settings: gain, weights$"):
        plugins.create("backbone", "grey", {"gian": 2})
    with pytest.raises(
        SettingsError, match=r"^backbone 'grey': setting gain: .*number.*; its settings: gain, weights$"
    ):
        plugins.create("backbone", "grey", {"gain": "much"})


def test_without_settings_there_is_nothing_to_set(tmp_path):
    file = tmp_path / "heads.py"
    file.write_text("class Nay:\n    name = 'nay'\n    def fit(self, e, g, a): ...\n    def predict(self, e): ...\n")
    plugins.register_file(file)
    assert plugins.create("head", "nay").name == "nay"
    with pytest.raises(SettingsError, match="takes no settings: remove k"):
        plugins.create("head", "nay", {"k": 3})
    with pytest.raises(SettingsError, match="takes no weight file"):
        plugins.create("head", "nay", {}, weights=Path("w.pth"))


ARGUMENT = """
class Finder:
    name = "finder"
    mpp, halo_um, align_px = 1.0, 10.0, 1
    takes_argument = True
    argument_name = "FILE.onnx"
    def __init__(self, argument):
        if argument == "bad":
            raise RuntimeError("cannot")
        self.argument = argument
    def detect(self, region): ...
"""


def test_a_name_with_a_colon_carries_an_argument(tmp_path):
    file = tmp_path / "finder.py"
    file.write_text(ARGUMENT)
    (info,) = plugins.register_file(file)
    assert (info.kind, info.name, info.distribution) == ("detector", "finder", str(file))
    assert plugins.create("detector", "finder:a/b:c.onnx").argument == "a/b:c.onnx"
    with pytest.raises(PluginError, match=r"write finder:FILE\.onnx"):
        plugins.create("detector", "finder")
    with pytest.raises(PluginError, match=r"from .*finder\.py cannot be built: RuntimeError: cannot"):
        plugins.create("detector", "finder:bad")


def test_an_argument_for_a_plugin_that_takes_none(install):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    with pytest.raises(PluginError, match="write grey instead of grey:x"):
        plugins.create("backbone", "grey:x")


def test_a_local_file_counts_what_is_written_in_it(tmp_path):
    file = tmp_path / "my backbones.py"
    file.write_text(grey("from slidepipe.interfaces import Backbone\n") + "\nclass _Hidden(Grey): ...\n")
    infos = plugins.register_file(file)
    assert [info.name for info in infos] == ["grey"]
    assert plugins.register_file(file) == infos
    assert len(info_of("grey")) == 1
    assert plugins.create("backbone", "grey").name == "grey"


def test_an_edited_file_takes_the_place_of_what_it_was(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(grey())
    plugins.register_file(file)
    file.write_text(grey().replace("dim = 1", "dim = 2"))
    plugins.register_file(file)
    assert len(info_of("grey")) == 1
    assert plugins.create("backbone", "grey").dim == 2


def test_a_local_file_may_say_which(tmp_path):
    file = tmp_path / "two.py"
    file.write_text(grey() + "\nclass Other(Grey):\n    name = 'other'\nPLUGINS = [Other]\n")
    assert [info.name for info in plugins.register_file(file)] == ["other"]


def test_a_local_file_that_claims_an_installed_name_is_a_clash(install, tmp_path):
    install("stranger-one", "[slidepipe.backbones]\ngrey = stranger_one:Grey\n", grey())
    (tmp_path / "mine.py").write_text(grey())
    plugins.register_file(tmp_path / "mine.py")
    with pytest.raises(PluginError, match=r"claimed by .*mine\.py and stranger-one 1\.2\.3|stranger-one 1\.2\.3 and"):
        plugins.create("backbone", "grey")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "no plugin found"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError"),
        ("def f(:\n", "cannot be imported: SyntaxError"),
        ("PLUGINS = [int]\n", "not a class with the methods"),
        ("class A:\n    def detect(self, region): ...\n", "class A needs a name"),
    ],
)
def test_a_local_file_without_plugins_is_an_error_that_names_it(tmp_path, text, reason):
    file = tmp_path / "broken.py"
    file.write_text(text)
    before = set(sys.modules)
    with pytest.raises(PluginError, match=rf"broken\.py: .*{reason}"):
        plugins.register_file(file)
    assert not {name for name in set(sys.modules) - before if name.startswith("slidepipe_plugin")}


def test_a_local_file_that_is_not_there_or_not_python(tmp_path):
    with pytest.raises(PluginError, match=r"absent\.py: the plugin file cannot be read"):
        plugins.register_file(tmp_path / "absent.py")
    (tmp_path / "plugin.txt").write_text("x = 1")
    with pytest.raises(PluginError, match=r"must be Python source that ends in \.py"):
        plugins.register_file(tmp_path / "plugin.txt")


def embed_elsewhere(file, pickled, queue):
    plugins.register_files([file])
    queue.put(pickle.loads(pickled).embed(np.full((1, 8, 8, 3), 5, np.uint8)).tolist())  # noqa: S301 (made above)


def test_a_spawned_worker_that_registers_the_file_unpickles_its_plugins(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(grey())
    plugins.register_file(file)
    pickled = pickle.dumps(plugins.create("backbone", "grey", {"gain": 3}).load("cpu"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=embed_elsewhere, args=(file, pickled, queue))
    worker.start()
    assert queue.get(timeout=120) == [[15.0]]
    worker.join()


def test_the_working_directory_is_never_searched(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(grey())
    monkeypatch.chdir(tmp_path)
    assert not info_of("grey")
