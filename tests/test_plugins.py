"""The plugin registry: listing, building, plugin files, plugins of the old form, error messages."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from slidepipe import plugins
from slidepipe.classification.fit import fit_head
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.errors import PluginError, SettingsError
from slidepipe.interfaces import Backbone, Detector, Head
from slidepipe.plugins import old_form, registry

BACKBONE = """
import numpy as np
from pydantic import BaseModel, ConfigDict

from slidepipe.interfaces import Backbone
{first}
class Grey(Backbone):
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
def _fresh_registry(monkeypatch):
    monkeypatch.setattr(old_form, "_warned", set())
    with patch.dict(registry.registered_classes, clear=True):
        yield


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
    for module_name in [name for name in sys.modules if name.startswith("acme")]:
        del sys.modules[module_name]


def grey(first="", extra="forbid"):
    return BACKBONE.format(first=first, extra=extra)


def info_of(name, kind="backbone"):
    return [info for info in plugins.list_plugins(kind) if info.name == name]


def test_listing_imports_no_plugin(install, tmp_path):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey("raise SystemExit('imported')"))
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
    assert not {"torch", "numpy", "pydantic", "timm", "onnxruntime", "acme_one"} & set(modules)


def test_installed_plugin(install):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    (info,) = info_of("grey")
    assert (info.distribution, info.version, info.value) == ("acme-one", "1.2.3", "acme_one:Grey")
    assert info.error is None
    backbone = plugins.create("backbone", "grey", {"gain": 2}, weights=Path("w.pth")).load("cpu")
    assert str(backbone.settings.weights) == "w.pth"
    assert backbone.embed(np.full((2, 8, 8, 3), 3, np.uint8)).tolist() == [[6.0], [6.0]]


def test_failing_import_affects_one_plugin(install):
    install("acme-bad", "[slidepipe.backbones]\nbad = acme_bad:Grey\n", grey("raise ValueError('no\\nluck')"))
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    with pytest.raises(PluginError, match=r"'bad' from acme-bad 1\.2\.3 cannot be imported: ValueError: no luck$"):
        plugins.create("backbone", "bad")
    assert plugins.create("backbone", "grey").name == "grey"


def test_exit_on_import(install):
    install("acme-bad", "[slidepipe.backbones]\nbad = acme_bad:Grey\n", grey("raise SystemExit(3)"))
    with pytest.raises(PluginError, match="SystemExit: 3"):
        plugins.get_class("backbone", "bad")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bad acme_bad Grey", "not of the form name = module:Class"),
        ("bad = acme_bad", "not of the form module:Class"),
        ("bad = acme_absent:Grey", "module acme_absent is not installed"),
    ],
)
def test_broken_metadata(install, line, reason):
    install("acme-bad", f"[slidepipe.backbones]\n{line}\n", grey())
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    (bad,) = [info for info in plugins.list_plugins() if info.distribution == "acme-bad"]
    assert reason in str(bad.error)
    with pytest.raises(PluginError, match=r"acme-bad 1\.2\.3 cannot be used"):
        plugins.get_class("backbone", bad.name)
    assert plugins.create("backbone", "grey").name == "grey"


def test_package_without_name(install, tmp_path):
    install("acme-bad", "[slidepipe.backbones]\nbad = acme_bad:Grey\n", grey())
    (tmp_path / "site-acme-bad" / "acme_bad-1.2.3.dist-info" / "METADATA").write_text("")
    (bad,) = info_of("bad")
    assert "has no name" in str(bad.error)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("acme_one:Absent", "has no Absent"),
        ("acme_one:np", "is not a class"),
        ("acme_one:Grey.Settings", "has no method load, embed"),
    ],
)
def test_entry_point_is_no_backbone(install, value, reason):
    install("acme-one", f"[slidepipe.backbones]\ngrey = {value}\n", grey())
    with pytest.raises(PluginError, match=rf"'grey' from acme-one 1\.2\.3 is broken: .*{reason}"):
        plugins.get_class("backbone", "grey")


def test_missing_attribute(install):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey().replace("license", "licence"))
    with pytest.raises(
        PluginError, match=r"'grey' from acme-one 1\.2\.3 has no attribute license\. Add it to class Grey"
    ):
        plugins.create("backbone", "grey")


def test_name_claimed_twice(install):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    install("acme-two", "[slidepipe.backbones]\ngrey = acme_two:Grey\nfine = acme_two:Grey\n", grey())
    both = info_of("grey")
    assert len(both) == 2
    assert all("acme-one 1.2.3 and acme-two 1.2.3" in str(info.error) for info in both)
    with pytest.raises(PluginError, match=r"claimed by acme-one 1\.2\.3 and acme-two 1\.2\.3"):
        plugins.create("backbone", "grey")
    assert plugins.create("backbone", "fine").dim == 1


def test_shadowed_package(install, tmp_path):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    twin = tmp_path / "site-older" / "acme_one-1.0.dist-info"
    twin.mkdir(parents=True)
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme_One\nVersion: 1.0\n")
    (twin / "entry_points.txt").write_text("[slidepipe.backbones]\ngrey = acme_one:Grey\n")
    sys.path.append(str(twin.parent))
    try:
        assert [info.version for info in info_of("grey")] == ["1.2.3"]
    finally:
        sys.path.remove(str(twin.parent))


def test_unknown_name(install):
    install("acme-one", "[slidepipe.backbones]\nacme-grey = acme_one:Grey\n", grey())
    with pytest.raises(
        PluginError, match=r"unknown backbone 'acme-gray'\. Did you mean acme-grey.*\? Available: .*grey"
    ):
        plugins.get_class("backbone", "acme-gray")
    with pytest.raises(PluginError, match=r"unknown head 'acme-grey'\. It is a backbone\."):
        plugins.get_class("head", "acme-grey")


def test_unknown_kind():
    with pytest.raises(
        PluginError, match=r"unknown plugin kind 'cropper'\. Use one of backbone, head, detector, reader"
    ):
        plugins.find("cropper", "x")


@pytest.mark.parametrize("extra", ["forbid", "ignore"])
def test_settings_errors(install, extra):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey(extra=extra))
    with pytest.raises(SettingsError, match=r"^backbone 'grey' has no setting gian\. Known settings: gain, weights$"):
        plugins.create("backbone", "grey", {"gian": 2})
    with pytest.raises(
        SettingsError, match=r"^backbone 'grey': setting gain: .*number.*\. Known settings: gain, weights$"
    ):
        plugins.create("backbone", "grey", {"gain": "much"})


def test_plugin_without_settings(tmp_path):
    file = tmp_path / "heads.py"
    file.write_text(
        "from slidepipe.interfaces import Head\n"
        "class Nay(Head):\n    name = 'nay'\n    def fit(self, e, g, a): ...\n    def predict(self, e): ...\n"
    )
    plugins.register_file(file)
    assert plugins.create("head", "nay").name == "nay"
    with pytest.raises(SettingsError, match=r"has no settings\. Remove k"):
        plugins.create("head", "nay", {"k": 3})
    with pytest.raises(SettingsError, match=r"takes no weights file\. Remove --weights"):
        plugins.create("head", "nay", {}, weights=Path("w.pth"))


ARGUMENT = """
from slidepipe.interfaces import Detector


class Finder(Detector):
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


def test_argument_after_colon(tmp_path):
    file = tmp_path / "finder.py"
    file.write_text(ARGUMENT)
    (info,) = plugins.register_file(file)
    assert (info.kind, info.name, info.distribution) == ("detector", "finder", str(file))
    assert plugins.create("detector", "finder:a/b:c.onnx").argument == "a/b:c.onnx"
    with pytest.raises(PluginError, match=r"Write finder:FILE\.onnx"):
        plugins.create("detector", "finder")
    with pytest.raises(PluginError, match=r"from .*finder\.py cannot be built: RuntimeError: cannot"):
        plugins.create("detector", "finder:bad")


def test_unexpected_argument(install):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    with pytest.raises(PluginError, match="Write grey instead of grey:x"):
        plugins.create("backbone", "grey:x")


def test_plugin_file(tmp_path):
    file = tmp_path / "my backbones.py"
    file.write_text(grey("from slidepipe.interfaces import Head\n") + "\nclass _Hidden(Grey): ...\n")
    infos = plugins.register_file(file)
    assert [info.name for info in infos] == ["grey"]
    assert plugins.register_file(file) == infos
    assert len(info_of("grey")) == 1
    assert plugins.create("backbone", "grey").name == "grey"


def test_edited_plugin_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(grey())
    plugins.register_file(file)
    file.write_text(grey().replace("dim = 1", "dim = 2"))
    plugins.register_file(file)
    assert len(info_of("grey")) == 1
    assert plugins.create("backbone", "grey").dim == 2


def test_plugins_list_in_file(tmp_path):
    file = tmp_path / "two.py"
    file.write_text(grey() + "\nclass Other(Grey):\n    name = 'other'\nPLUGINS = [Other]\n")
    assert [info.name for info in plugins.register_file(file)] == ["other"]


def test_plugin_file_claims_installed_name(install, tmp_path):
    install("acme-one", "[slidepipe.backbones]\ngrey = acme_one:Grey\n", grey())
    (tmp_path / "mine.py").write_text(grey())
    plugins.register_file(tmp_path / "mine.py")
    with pytest.raises(PluginError, match=r"'grey' is claimed by .*mine\.py and acme-one 1\.2\.3\. Uninstall"):
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
def test_plugin_file_without_plugins(tmp_path, text, reason):
    file = tmp_path / "broken.py"
    file.write_text(text)
    before = set(sys.modules)
    with pytest.raises(PluginError, match=rf"broken\.py: .*{reason}"):
        plugins.register_file(file)
    assert not {name for name in set(sys.modules) - before if name.startswith("slidepipe_plugin")}


def test_missing_plugin_file(tmp_path):
    with pytest.raises(PluginError, match=r"absent\.py: the plugin file cannot be read"):
        plugins.register_file(tmp_path / "absent.py")
    (tmp_path / "plugin.txt").write_text("x = 1")
    with pytest.raises(PluginError, match=r"plugin\.txt: not a Python file\. Give a plugin file that ends in \.py"):
        plugins.register_file(tmp_path / "plugin.txt")


def embed_elsewhere(file, pickled, queue):
    plugins.register_files([file])
    queue.put(pickle.loads(pickled).embed(np.full((1, 8, 8, 3), 5, np.uint8)).tolist())  # noqa: S301 (made above)


def test_unpickle_in_spawned_worker(tmp_path):
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


def test_working_directory_is_not_searched(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(grey())
    monkeypatch.chdir(tmp_path)
    assert not info_of("grey")


def test_interfaces_import_no_heavy_package():
    code = "import sys, slidepipe.interfaces; print(*({'torch', 'pydantic', 'scipy', 'pandas'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


def test_package_is_typed():
    assert Path(plugins.__file__).parent.with_name("py.typed").is_file()


@pytest.mark.parametrize("kind", ["backbone", "head", "detector"])
def test_built_in_plugins_derive_from_base_class(kind, caplog):
    base = {"backbone": Backbone, "head": Head, "detector": Detector}[kind]
    infos = [info for info in plugins.list_plugins(kind) if info.distribution == "slidepipe"]
    assert infos
    for info in infos:
        assert issubclass(plugins.get_class(kind, info.name), base)
    assert not caplog.records


def test_abstract_class_in_file_is_no_plugin(tmp_path):
    """A class that inherits an abstract method without implementing it is not registered."""
    file = tmp_path / "mine.py"
    file.write_text(grey() + "\nclass Base(Backbone):\n    name = 'base'\n    def load(self, device): return self\n")
    assert [info.name for info in plugins.register_file(file)] == ["grey"]


# Plugins of the old form


def old_form_class(tmp_path, kind, source):
    """Register a file with one plugin called `old`, and return its class and the plugin."""
    (tmp_path / "old.py").write_text(source)
    plugins.register_file(tmp_path / "old.py")
    return plugins.get_class(kind, "old"), plugins.create(kind, "old")


def test_old_backbone(tmp_path, caplog):
    source = grey().replace("(Backbone)", "").replace('name = "grey"', "name = 'old'\n    views = 1")
    cls, backbone = old_form_class(tmp_path, "backbone", source)
    assert (backbone.orientation_invariant, backbone.fit, backbone.weights_sha256) == (True, "squeeze", None)
    assert (cls.version, cls.takes_argument) == (None, False)
    names, base_class = (record.getMessage() for record in caplog.records)
    assert "'old' from" in names
    assert "'views' has a new name. Write orientation_invariant = True instead of views = 1" in names
    assert "Write class Grey(Backbone), imported from slidepipe.interfaces" in base_class
    assert pickle.loads(pickle.dumps(backbone)).embed(np.zeros((1, 8, 8, 3), np.uint8)).tolist() == [[0.0]]  # noqa: S301


def test_old_name_on_new_base_class(tmp_path, caplog):
    source = (
        grey().replace('name = "grey"', "name = 'old'").replace("self.settings =", "self.views = 1; self.settings =")
    )
    _, backbone = old_form_class(tmp_path, "backbone", source)
    assert backbone.orientation_invariant is True
    (record,) = caplog.records
    assert "'views' has a new name" in record.getMessage()


def test_new_name_overrides_inherited_old_name(tmp_path):
    source = grey().replace('name = "grey"', "name = 'parent'\n    views = 1")
    source += "\nclass Child(Grey):\n    name = 'old'\n    orientation_invariant = False\n"
    _, backbone = old_form_class(tmp_path, "backbone", source)
    assert backbone.orientation_invariant is False


OLD_HEAD = """
class Old:
    name = "old"
    fits_crops = {fits_crops}
    def fit(self, embeddings, genera, alpha{argument}):
        self.given = {given}
        return self
    def predict(self, embeddings): ...
"""


@pytest.mark.parametrize("fits_crops", [True, False])
def test_old_head(tmp_path, caplog, fits_crops):
    argument, given = (", as_crops=None", "as_crops") if fits_crops else ("", "embeddings")
    _, head = old_form_class(tmp_path, "head", OLD_HEAD.format(fits_crops=fits_crops, argument=argument, given=given))
    rows, crop_like = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert (
        fit_head(head, ReferenceSet(rows, crop_like, np.array(["a", "b"]), np.array(["f", "g"]), "", None), 0.1) is head
    )
    assert head.given is (crop_like if fits_crops else rows)
    assert "Write class Old(Head)" in caplog.text
    assert "Write a method fit_with_crop_like instead of fits_crops" in caplog.text


def test_old_detector(tmp_path, caplog):
    source = "class Old:\n    name = 'old'\n    mpp, halo_um, align_px = 1.0, 10.0, 1\n"
    _, detector = old_form_class(tmp_path, "detector", source + "    def detect(self, region): return region, 'all'\n")
    assert detector.detect_owned("region", (0, 0, 1, 1)) == ("region", "all")
    (record,) = caplog.records
    assert "Write class Old(Detector), imported from slidepipe.interfaces" in record.getMessage()
