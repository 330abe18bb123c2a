from pathlib import Path

import pytest
import yaml

from slidepipe.config import Config, default_yaml, load_config, overrides_from_names
from slidepipe.errors import SettingsError

ROOT = Path(__file__).parent.parent


def test_default_yaml_is_written_from_the_models() -> None:
    assert (ROOT / "configs" / "default.yaml").read_text() == default_yaml()


def test_default_yaml_means_the_defaults_and_names_every_setting() -> None:
    assert load_config(ROOT / "configs" / "default.yaml") == Config()
    written = yaml.safe_load(default_yaml())
    for name, value in Config().model_dump().items():
        assert name in written
        if isinstance(value, dict):
            assert set(written[name]) == set(value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_paths_count_from_the_yaml(tmp_path: Path) -> None:
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


def test_options_go_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "head: {alpha: 0.2, name: logistic}\nmpp: 0.5\n")
    config = load_config(path, overrides_from_names({"alpha": 0.3, "mpp": None, "crops__margin": 0.2, "workers": 3}))
    assert (config.head.alpha, config.head.name, config.mpp, config.crops.margin) == (0.3, "logistic", 0.5, 0.2)
    assert config.run.workers == 3


def test_a_word_may_stand_for_a_section(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "head: logistic\ndetector: density\ncrops: none\n")
    config = load_config(path, {"head.alpha": 0.3})
    assert (config.head.name, config.head.alpha, config.detector.name) == ("logistic", 0.3, "density")
    assert (config.crops.keep, Config().crops.keep) == (False, True)
    assert load_config({"head": "logistic", "crops": "none"}, {"head.alpha": 0.3}) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("referense: x\n", r"c.yaml: unknown setting 'referense'. Known here: .*reference"),
        ("head: {alhpa: 0.1}\n", r"unknown setting 'head.alhpa'. Known here: alpha, name, settings"),
        ("head: {alpha: 2}\n", r"setting 'head.alpha' is 2: input should be less than 1"),
        ("crops: all\n", r"setting 'crops' is 'all'"),
        ("mpp: wide\n", r"setting 'mpp' is 'wide'"),
        ("backbone: {views: 3}\n", r"setting 'backbone.views' is 3"),
        ("run: {device: gpu}\n", r"setting 'run.device' is 'gpu'"),
        ("- a\n- b\n", "must hold 'setting: value' lines"),
        ("a: [1\n", r"not YAML at line \d"),
        ("mpp: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
