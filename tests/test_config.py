"""Settings: defaults, YAML files, overrides, old names, errors."""

from pathlib import Path

import pytest
import yaml

from slidepipe.config import RENAMED_SETTINGS, Config, default_yaml, load_config, overrides_from_names, parse_config
from slidepipe.errors import SettingsError

ROOT = Path(__file__).parent.parent


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_default_yaml_matches_models() -> None:
    assert (ROOT / "configs" / "default.yaml").read_text() == default_yaml()


def test_default_yaml_has_every_setting() -> None:
    assert load_config(ROOT / "configs" / "default.yaml") == Config()
    written = yaml.safe_load(default_yaml())
    for name, value in Config().model_dump().items():
        assert name in written
        if isinstance(value, dict):
            assert set(written[name]) == set(value)


def test_paths_are_relative_to_yaml(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path / "c.yaml",
            "reference: refs\nplugins: [p.py]\nbackbone:\n  weights: w.pth\nhead:\n  # alpha: 0.2\n",
        )
    )
    assert config.reference == tmp_path / "refs"
    assert config.plugins == (tmp_path / "p.py",)
    assert config.backbone.weights == tmp_path / "w.pth"
    assert config.head == Config().head


def test_overrides_replace_file_values(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "head: {alpha: 0.2, name: logistic}\nmpp: 0.5\n")
    config = load_config(path, overrides_from_names({"alpha": 0.3, "mpp": None, "crops__margin": 0.2, "workers": 3}))
    assert (config.head.alpha, config.head.name, config.mpp, config.crops.margin) == (0.3, "logistic", 0.5, 0.2)
    assert config.run.workers == 3


def test_short_sections(tmp_path: Path) -> None:
    """A word in place of a section: `head: logistic`, `crops: none`."""
    path = write(tmp_path / "c.yaml", "head: logistic\ndetector: density\ncrops: none\n")
    config = load_config(path, {"head.alpha": 0.3})
    assert (config.head.name, config.head.alpha, config.detector.name) == ("logistic", 0.3, "density")
    assert (config.crops.keep, Config().crops.keep) == (False, True)
    assert load_config({"head": "logistic", "crops": "none"}, {"head.alpha": 0.3}) == config


def test_old_names_in_yaml_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.yaml", "backbone: {views: 1, beside: null}\n")
    assert load_config(path) == load_config({"backbone": {"orientations": 1, "companion": None}})
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"{path}: setting '{old}' has a new name. Write '{new}'" for old, new in RENAMED_SETTINGS.items()
    ]


@pytest.mark.parametrize("name", ["views", "backbone__views"])
def test_old_names_as_keywords_warn(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config({"backbone": {"orientations": 8}}, overrides_from_names({name: 1}))
    assert config.backbone.orientations == 1
    assert "Write 'backbone.orientations'" in caplog.text


def test_old_names_in_manifest_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    values = {"backbone": {"views": 1, "beside": None}}
    config = parse_config(values, "manifest.json")
    assert (config.backbone.orientations, config.backbone.companion) == (1, None)
    assert values == {"backbone": {"views": 1, "beside": None}}
    assert not caplog.records


def test_old_and_new_name_together() -> None:
    with pytest.raises(SettingsError, match=r"^settings: both 'backbone.companion' and its old name 'backbone.beside'"):
        load_config({"backbone": {"beside": "a", "companion": "b"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("referense: x\n", r"c.yaml: unknown setting 'referense'. Known here: .*reference"),
        ("head: {alhpa: 0.1}\n", r"unknown setting 'head.alhpa'. Known here: alpha, name, settings"),
        ("head: {alpha: 2}\n", r"setting 'head.alpha' is 2: input should be less than 1"),
        ("crops: all\n", r"setting 'crops' is 'all'"),
        ("mpp: wide\n", r"setting 'mpp' is 'wide'"),
        ("backbone: {orientations: 3}\n", r"setting 'backbone.orientations' is 3: input should be 1 or 8"),
        ("run: {device: gpu}\n", r"setting 'run.device' is 'gpu'"),
        ("- a\n- b\n", "Write 'setting: value' lines"),
        ("a: [1\n", r"not valid YAML at line \d"),
        ("mpp: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_wrong_setting(tmp_path: Path, text: str, message: str) -> None:
    """The error is one line that names the file and the setting."""
    with pytest.raises(SettingsError, match=message) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
