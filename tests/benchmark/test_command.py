"""The command `slidepipe benchmark`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from slidepipe.benchmark import leaderboard
from slidepipe.benchmark.random_weights import random_backbone
from slidepipe.cli import main
from slidepipe.pipeline.specs import PluginSpec
from slidepipe.plugins import PluginInfo

KNN = [PluginInfo("head", "knn", "slidepipe", "0", "slidepipe.heads.knn:KnnHead")]
COLOURS = {"amberina": (190, 130, 40), "brunella": (90, 50, 25), "viridia": (70, 130, 60)}

TORCH_PLUGIN = """
import numpy as np
import torch
from slidepipe.interfaces import Backbone


class Net(Backbone):
    name, dim, input_px, license, source = "net", 6, 32, "Apache-2.0", "tests"

    def load(self, device):
        torch.manual_seed(3)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 6))
        return self

    def embed(self, crops):
        with torch.inference_mode():
            return self.net(torch.from_numpy(crops.astype(np.float32) / 255)).numpy()


class Broken(Net):
    name = "broken"

    def embed(self, crops):
        return np.zeros((len(crops), 5), np.float32)


PLUGINS = [Net, Broken]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for genus, colour in COLOURS.items():
        (root / genus).mkdir()
        for number in range(16):
            pixels = np.clip(np.array(colour) + rng.normal(0, 6, (40, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / genus / f"{number:02}.png")
    return root


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["benchmark", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def options(images, test_plugins):
    return ["--data", images, "--plugin", test_plugins, "--scheduler", "threads", "--workers", 1]


def test_benchmark_files(tmp_path, options):
    out = tmp_path / "out"
    text = run("mean-colour", "--out", out, *options)
    assert re.search(r"SCAMPI ViT-S/16 +published +21M +0\.91 +0\.60", text)
    assert re.search(r"mean-colour +this run +1\.000 +1\.000", text)
    assert "not comparable with the published rows" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics)[:3] == ["nn_f1", "p_at_nr", "pr_auc"]
    assert metrics["nn_f1"] == 1.0
    assert set(metrics["knn"]) == {"1", "3", "5", "7", "9"}
    assert metrics["slidepipe"]["views"] == 8
    assert metrics["preprocessing"] == "squeezed to 32 px; the backbone does the rest"
    assert metrics["slidepipe"]["head"]["held_out"]["precision"] == 1.0
    assert metrics["cost"]["images_per_s_and_worker"] > 0
    lines = (out / "metrics.csv").read_text().splitlines()
    assert lines[0] == "model,protocol,score,split,value"
    assert "mean-colour,published,knn.1.f1_score,3,1.0" in lines
    assert "mean-colour,slidepipe,class_wise_1nn.recall.viridia,,1.0" in lines


@pytest.mark.slow
def test_benchmark_report_needs_no_network(tmp_path, options):
    run("mean-colour", "--out", tmp_path, *options)
    html = (tmp_path / "report.html").read_text()
    assert html.count('src="data:image/jpeg;base64,') == html.count("<img ") == 2 * 10 * 10
    assert not re.search(r"""(src|href)=["']?(?!data:|#)\w+:|@import|url\(|<script""", html)


@pytest.mark.slow
def test_other_head_reuses_embeddings(tmp_path, options, monkeypatch):
    run("mean-colour", "--out", tmp_path, *options)
    monkeypatch.setattr("slidepipe.benchmark.embedding.embed_part", None)  # calling it would raise
    run("mean-colour", "--out", tmp_path, "--alpha", "0.2", *options)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["slidepipe"]["head"]["alpha"] == 0.2
    assert metrics["cost"]["from_cache"] is True


@pytest.mark.slow
def test_all_backbones(tmp_path, images, test_plugins, monkeypatch):
    """`--all` writes one table, in which a backbone that fails is a row."""
    monkeypatch.setattr("slidepipe.plugins.registry._installed", lambda: KNN)
    plugin = tmp_path / "net.py"
    plugin.write_text(TORCH_PLUGIN)
    out, settings = tmp_path / "out", tmp_path / "settings.yaml"
    settings.write_text("backbone: {companion: null}\n")  # the descriptors are not installed in this test
    options = [
        "--data",
        images,
        "--plugin",
        test_plugins,
        "--plugin",
        plugin,
        "--scheduler",
        "threads",
        "--config",
        settings,
    ]
    text = run("--all", "--out", out, "--workers", 1, *options)
    assert re.search(r"mean-colour +this run +1\.000", text)
    assert re.search(r"broken: failed: broken: embed returned float32 \(\d+, 5\)", text)
    metrics = json.loads((out / "metrics.json").read_text())
    assert {entry["model"] for entry in metrics["leaderboard"]} == {"mean-colour", "net"}
    for link in re.findall(r'href="([^"]+)"', (out / "report.html").read_text()):
        assert (out / link).is_file()
    # A single run into the same folder shows the earlier backbones too.
    text = run("mean-colour", "--out", out, "--workers", 1, *options)
    assert re.search(r"net +earlier run +[01]\.\d{3}", text)


def test_shuffled_labels_are_at_chance(tmp_path, images, test_plugins):
    rng = np.random.default_rng(4)
    files = sorted(images.glob("*/*.png"))
    for genus, file in zip(rng.permutation([file.parent.name for file in files]), files, strict=True):
        place = tmp_path / "shuffled" / str(genus) / f"{file.parent.name}{file.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    out = tmp_path / "out"
    options = ["--data", tmp_path / "shuffled", "--plugin", test_plugins, "--scheduler", "threads", "--workers", 1]
    assert "at chance" in run("mean-colour", "--out", out, "--protocol", "published", *options)
    assert "nn f1 is at chance level" in (out / "report.html").read_text()


def test_groups_csv_gives_leave_one_slide_out(tmp_path, images, test_plugins):
    import shutil

    shutil.copytree(images, tmp_path / "data")
    lines = [f"{path.parent.name}/{path.name},slide {path.stem[-1]}" for path in sorted(images.glob("*/*.png"))]
    (tmp_path / "data" / "groups.csv").write_text("file,slide\n" + "\n".join(lines))
    options = ["--data", tmp_path / "data", "--plugin", test_plugins, "--scheduler", "threads", "--workers", 1]
    run("mean-colour", "--out", tmp_path / "out", "--protocol", "published", *options)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["data"]["split"] == "leave-one-slide-out"
    assert metrics["data"]["splits"] == [f"slide {number}" for number in range(10)]
    assert "slidepipe" not in metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mean-colour", "--all"], "not both"),
        ([], "name a backbone"),
        (["none-such"], "unknown backbone 'none-such'"),
        (["mean-colour", "--alpha", "0.01"], "alpha"),
        (["mean-colour", "--data", "/nowhere"], "no such folder"),
        (["--all", "--weights", "some.pth"], "--all takes no --weights"),
    ],
)
def test_benchmark_errors(tmp_path, options, arguments, message):
    """A user's mistake gives one line and exit status 2."""
    text = run("--out", tmp_path, *options, *arguments, status=2)
    assert message in text
    assert text.count("slidepipe: ") == 1


def test_random_backbone(tmp_path):
    plugin = tmp_path / "net.py"
    plugin.write_text(TORCH_PLUGIN)
    spec = PluginSpec("net", files=(plugin,))
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    random = random_backbone(spec, "cpu")
    assert random is not None
    own = type(random)().load("cpu").embed(crops)
    assert np.isfinite(random.embed(crops)).all()
    assert not np.allclose(random.embed(crops), own)
    random_backbone.cache_clear()
    again = random_backbone(spec, "cpu")
    assert again is not None
    assert np.array_equal(again.embed(crops), random.embed(crops))  # every worker must draw the same weights
    random_backbone.cache_clear()


def test_random_backbone_without_network(test_plugins):
    assert random_backbone(PluginSpec("mean-colour", files=(test_plugins,)), "cpu") is None
    random_backbone.cache_clear()


def metrics_of(model: str, nn_f1: float, p_at_nr: float, identity: str = "published") -> dict[str, object]:
    intervals = {"nn_f1": [nn_f1 - 0.03, nn_f1 + 0.03], "p_at_nr": [p_at_nr - 0.01, p_at_nr + 0.01]}
    data = {"identity": identity, "split": "stratified"}
    return {"model": model, "nn_f1": nn_f1, "p_at_nr": p_at_nr, "intervals": intervals, "data": data}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (
            metrics_of("scampi-vits16", 0.9133, 0.6),
            ["its published row SCAMPI ViT-S/16", "nn f1 reproduces 0.91 (+0.003"],
        ),
        (metrics_of("scampi-vits16", 0.89, 0.5), ["within the 95 % interval", "p@n_k worse by 0.100"]),
        (metrics_of("dino-vits16", 0.85, 0.44), ["nn f1 better by 0.070", "p@n_k reproduces 0.44"]),
        (metrics_of("mine", 0.83, 0.30), ["nearest published row, DINO ViT-S/8", "level with 0.84", "worse by 0.160"]),
        (metrics_of("mine", 0.83, 0.30, "other"), ["not comparable"]),
    ],
)
def test_verdict(metrics, words):
    verdict = leaderboard.verdict(metrics)
    for word in words:
        assert word in verdict


def test_ranked():
    rows = leaderboard.ranked([leaderboard.Row("mine", "this run", nn_f1=0.83), leaderboard.Row("failed", "this run")])
    assert [row.name for row in rows][3:5] == ["mine", "DINO ViT-B/8"]
    assert rows[-1].name == "failed"
