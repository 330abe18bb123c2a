"""The torch backbones: exact preprocessing, the six published networks, and any network of timm and the hub."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from torchvision import transforms

from slidepipe import plugins
from slidepipe.errors import PluginError, SettingsError, WeightsError
from slidepipe_plugins.timm.backbone import TorchBackbone
from slidepipe_plugins.timm.folding import fold_batch_norms
from slidepipe_plugins.timm.settings import Preprocessing
from slidepipe_plugins.timm.tensors import prepare, staged
from tests.hub_server import running

SIX = {
    "scampi-vits16": "vit_small_patch16_224",
    "scampi-vitb16": "vit_base_patch16_224",
    "dino-vits16": "vit_small_patch16_224.dino",
    "dino-vits8": "vit_small_patch8_224.dino",
    "dino-vitb16": "vit_base_patch16_224.dino",
    "dino-vitb8": "vit_base_patch8_224.dino",
}
SHALLOW = {"model_kwargs": {"depth": 1, "embed_dim": 48, "num_heads": 3}}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos():
    """Return smooth random crops of several sizes and shapes."""
    rng = np.random.default_rng(4)
    sizes = [(300, 512), (512, 333), (256, 256), (90, 120)]
    small = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)) for _ in sizes]
    return [
        image.resize((width, height), Image.Resampling.BICUBIC)
        for image, (height, width) in zip(small, sizes, strict=True)
    ]


def test_fold_batch_norms():
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv1_100", num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    folded = fold_batch_norms(network, 64)
    left = [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not left
    pixels = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), network(pixels), rtol=1e-4, atol=1e-5)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


class NormFirst(torch.nn.Module):
    """A network that applies the normalisation before the convolution, but registers it after the convolution."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        torch.nn.init.constant_(self.norm.running_mean, 1.0)

    def forward(self, pixels):
        return self.convolution(torch.relu(self.norm(pixels))).mean((2, 3))


def test_fold_batch_norms_wrong_order():
    network = NormFirst().eval()
    assert fold_batch_norms(network, 8) is network
    transformer = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1).eval()
    assert fold_batch_norms(transformer, 224) is transformer


def test_folding_by_mode(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("mobilenetv1_100").state_dict(), weights)
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    kinds = {}
    for mode in ("published", "run"):
        settings = {"preprocessing": mode, "resize_px": 256, "input_px": 224}
        backbone = plugins.create("backbone", "timm:mobilenetv1_100", settings, weights).load("cpu")
        kinds[mode] = {isinstance(module, torch.nn.BatchNorm2d) for module in backbone._forward.modules()}
        assert np.isfinite(backbone.embed(crops)).all()
    assert kinds == {"published": {True, False}, "run": {False}}


@pytest.mark.slow
def test_pretrained_config_cache(tmp_path):
    code = (
        "import sys; from slidepipe import plugins\n"
        "built = plugins.create('backbone', 'timm:mobilenetv1_100')\n"
        "print(built.input_px, built.network.files, sorted({'timm', 'torch'} & set(sys.modules)), sep=';')"
    )
    environment = {**os.environ, "SLIDEPIPE_CACHE": str(tmp_path)}

    def ask():
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip().split(";")

    first, second = ask(), ask()
    assert first[:2] == second[:2]
    assert first[2] == "['timm', 'torch']"
    assert second[2] == "[]"
    (kept,) = tmp_path.glob("timm/*/*.json")
    kept.write_text("{")  # cut
    assert ask() == first


def reference_loop(network, images, mean, std):
    """Return embeddings computed with timm and torchvision only, by the protocol of the benchmark."""
    steps = transforms.Compose(
        [
            transforms.Resize((256, 256), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    with torch.inference_mode():
        return torch.cat([network.eval()(steps(image)[None]) for image in images]).numpy()


def squares(images):
    return np.stack([np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)) for image in images])


@pytest.fixture
def weights_folder():
    folder = os.environ.get("SLIDEPIPE_TEST_DATA")
    if not folder or not (Path(folder) / "weights").is_dir():
        pytest.skip("SLIDEPIPE_TEST_DATA names no folder with weights/: the real weights are not at hand")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "file", "kwargs", "mean_std"),
    [
        ("vit_tiny_patch16_224", "deit_tiny_patch16_224.pth", {}, IMAGENET),
        ("mobilenetv1_100", "mobilenetv1_100_coral.pth", {"pad_type": "same"}, HALVES),
    ],
)
def test_real_weights(weights_folder, name, file, kwargs, mean_std):
    paths = sorted((weights_folder / "scampi-benchmark" / "imagefolder_20").glob("*/*.jpg"))[::90]
    images = [Image.open(path).convert("RGB") for path in paths]
    settings = {"preprocessing": "published", "model_kwargs": kwargs}
    if mean_std is HALVES:
        settings |= {"mean": HALVES[0], "std": HALVES[1]}
    path = weights_folder / "weights" / file
    backbone = plugins.create("backbone", f"timm:{name}", settings, path).load("cpu")
    state = torch.load(path, weights_only=True)
    network = timm.create_model(name, num_classes=0, **kwargs)
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")})
    wanted = reference_loop(network, images, *mean_std)
    assert backbone.input_px == 256
    assert len(images) >= 7
    np.testing.assert_allclose(backbone.embed(squares(images)), wanted, atol=1e-4, rtol=0)
    one_by_one = np.concatenate([backbone.embed(np.asarray(image)[None]) for image in images])
    np.testing.assert_allclose(one_by_one, wanted, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def built():
    """Return a function that builds each architecture once, because building a ViT-B takes seconds."""
    return {}


@pytest.fixture
def shared_networks(built, monkeypatch):
    build = TorchBackbone._build

    def lend(self):
        if self.network.architecture not in built:
            built[self.network.architecture] = build(self)
        network = built[self.network.architecture]
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.25)  # what a load does not set, shows
        return network

    monkeypatch.setattr(TorchBackbone, "_build", lend)
    return built


def cheap_state(network):
    """Return weights that all differ. Drawing normal numbers would take seconds."""
    return {
        key: (torch.arange(value.numel()).remainder(199) / 1990 - 0.05).reshape(value.shape).half()
        for key, value in network.state_dict().items()
    }


def write_form(form, state, path):
    teacher = {f"backbone.{key}": value for key, value in state.items()} | {"head.mlp.0.weight": torch.ones(1)}
    student = {f"module.{key}": value for key, value in teacher.items()}
    if form == "backbone.pth":
        torch.save(state, path)
    elif form == "teacher.pth":
        torch.save({"student": {"module.backbone.norm.bias": torch.ones(1)}, "teacher": teacher, "epoch": 3}, path)
    elif form == "student.pth":
        torch.save({"student": student, "optimizer": {}}, path)
    else:
        save_file(state, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_published_networks(name, shared_networks, tmp_path, photos):
    crops = squares(photos)[:2]
    embeddings = []
    state = None
    for form in ("backbone.pth", "teacher.pth", "student.pth", "backbone.safetensors"):
        path = tmp_path / form
        backbone = plugins.create("backbone", name, {"preprocessing": "published"})
        if state is None:
            state = cheap_state(backbone._build())
        write_form(form, state, path)
        backbone = plugins.create("backbone", name, {"preprocessing": "published"}, path).load("cpu")
        network = shared_networks[backbone.network.architecture]
        assert all(torch.equal(value.half(), state[key]) for key, value in network.state_dict().items())
        assert len(backbone.weights_sha256) == 64
        if not embeddings:
            embeddings.append(backbone.embed(crops[:1]))
            assert embeddings[0].shape == (1, backbone.dim)
            assert np.isfinite(embeddings[0]).all()
            wanted = reference_loop(network, photos[:1], *IMAGENET)
            np.testing.assert_allclose(embeddings[0], wanted, atol=1e-4, rtol=1e-4)
        path.unlink()
    assert backbone.architecture == SIX[name]
    assert backbone.dim == (768 if "vitb" in name else 384)


def test_class_attributes_without_torch():
    code = f"""
import sys
from slidepipe import plugins
for name in {list(SIX)}:
    cls = plugins.get_class("backbone", name)
    assert cls.name == name and cls.dim in (384, 768) and cls.license and cls.source
    assert plugins.create("backbone", name).input_px == 256
assert plugins.get_class("backbone", "timm:x").takes_argument
assert not {{"torch", "timm", "huggingface_hub"}} & set(sys.modules)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def shallow_file(path, name="vit_tiny_patch16_224", **kwargs):
    torch.manual_seed(3)
    network = timm.create_model(name, num_classes=0, **(kwargs or SHALLOW["model_kwargs"]))
    torch.save(network.state_dict(), path)
    return network


@pytest.fixture
def shallow(tmp_path):
    """Return a transformer with one block, and the file with its weights."""
    path = tmp_path / "shallow.pth"
    return shallow_file(path), path


def test_run_defaults(shallow):
    _, path = shallow
    backbone = plugins.create("backbone", "timm:vit_tiny_patch16_224", SHALLOW, path)
    assert backbone.steps == Preprocessing(248, 224, *HALVES, exact=False)
    published = plugins.create("backbone", "timm:vit_tiny_patch16_224", {**SHALLOW, "preprocessing": "published"}, path)
    assert published.steps == Preprocessing(256, 224, *IMAGENET, exact=True)
    asked = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "resize_px": 240, "input_px": 200}
    for mode in ("run", "published"):
        given = plugins.create("backbone", "timm:vit_tiny_patch16_224", {**asked, "preprocessing": mode}, path)
        assert given.steps == Preprocessing(240, 200, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), exact=mode == "published")
    with pytest.raises(SettingsError, match=r"input_px 300 is larger than resize_px 240\. Increase resize_px"):
        _ = plugins.create("backbone", "timm:vit_tiny_patch16_224", {"input_px": 300, "resize_px": 240}, path).steps


def test_modes_agree(shallow, photos):
    network, path = shallow
    steps = {"mean": IMAGENET[0], "std": IMAGENET[1], "resize_px": 256, **SHALLOW}
    run, exact = (
        plugins.create("backbone", "timm:vit_tiny_patch16_224", {**steps, "preprocessing": mode}, path).load("cpu")
        for mode in ("run", "published")
    )
    wanted = reference_loop(network, photos, *IMAGENET)
    np.testing.assert_allclose(run.embed(squares(photos)), wanted, atol=1e-4)
    np.testing.assert_allclose(exact.embed(squares(photos)), wanted, atol=1e-4)
    resized_on_the_device = run.embed(np.asarray(photos[0])[None])
    lengths = np.linalg.norm(resized_on_the_device) * np.linalg.norm(wanted[0])
    assert (resized_on_the_device[0] * wanted[0]).sum() / lengths > 0.999


def test_resize_matches_pillow(photos):
    steps = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), exact=False)
    for image in photos:
        chunk = torch.from_numpy(np.array(image))[None]
        got = prepare(chunk, steps)[0].permute(1, 2, 0).numpy() * 255
        wanted = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), np.float32)
        assert np.abs(got - wanted).max() <= 1.01
        assert np.abs(got - wanted).mean() < 0.05


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_batch_and_order(shallow, batch):
    _, path = shallow
    crops = np.random.default_rng(0).integers(0, 256, (7, 256, 256, 3), np.uint8)
    crops.setflags(write=False)
    backbone = plugins.create("backbone", "timm:vit_tiny_patch16_224", {**SHALLOW, "batch": batch}, path).load("cpu")
    whole = backbone.embed(crops)
    assert whole.dtype == np.float32
    assert whole.shape == (7, 48)
    np.testing.assert_allclose(np.concatenate([backbone.embed(crops[i : i + 1]) for i in range(7)]), whole, atol=1e-5)
    np.testing.assert_allclose(backbone.embed(crops[::-1])[::-1], whole, atol=1e-5)
    assert backbone.embed(crops[:0]).shape == (0, 48)


def test_staging():
    crops = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    chunks = [chunk.clone() for chunk in staged(crops, torch.device("cpu"), 2)]
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert np.array_equal(torch.cat(chunks).numpy(), crops)


@pytest.mark.parametrize(("pool", "dim"), [("token", 48), ("avg", 48), ("token+avg", 96)])
def test_pool_tokens(shallow, pool, dim):
    network, path = shallow
    settings = {**SHALLOW, "pool": pool, "resize_px": 224}
    backbone = plugins.create("backbone", "timm:vit_tiny_patch16_224", settings, path).load("cpu")
    crops = np.full((1, 224, 224, 3), 200, np.uint8)
    with torch.inference_mode():
        tokens = network.eval().forward_features(torch.full((1, 3, 224, 224), 200 / 255 * 2 - 1))[0]
    parts = {"token": [tokens[0]], "avg": [tokens[1:].mean(0)]}
    wanted = torch.cat(parts[pool] if pool in parts else parts["token"] + parts["avg"])
    assert backbone.dim == dim
    np.testing.assert_allclose(backbone.embed(crops)[0], wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224"])
def test_pool_map(tmp_path, name):
    path = tmp_path / "map.pth"
    kwargs = {"depths": (1, 1, 1, 1), "embed_dim": 24} if name.startswith("swin") else {"stem_width": 8}
    network = shallow_file(path, name, **kwargs)
    settings = {"model_kwargs": kwargs, "resize_px": 224, "input_px": 224}
    crops = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    own = plugins.create("backbone", f"timm:{name}", settings, path).load("cpu")
    mean = plugins.create("backbone", f"timm:{name}", {**settings, "pool": "avg"}, path).load("cpu")
    assert own.dim == mean.dim == network.num_features
    np.testing.assert_allclose(own.embed(crops), mean.embed(crops), atol=1e-4)
    with pytest.raises(SettingsError, match="the network has no token to pool; use pool avg"):
        plugins.create("backbone", f"timm:{name}", {**settings, "pool": "token"}, path).load("cpu")


def test_other_input_size(tmp_path, shallow):
    _, path = shallow
    settings = {**SHALLOW, "input_px": 96, "resize_px": 96}
    small = plugins.create("backbone", "timm:vit_tiny_patch16_224", settings, path).load("cpu")
    assert small.embed(np.zeros((1, 96, 96, 3), np.uint8)).shape == (1, 48)
    eight = tmp_path / "eight.pth"
    shallow_file(eight, "vit_tiny_patch16_224", patch_size=8, **SHALLOW["model_kwargs"])
    for chosen in (settings, SHALLOW):
        with pytest.raises(WeightsError, match=r"looks like a vision transformer/8 .* is a vision transformer/16"):
            plugins.create("backbone", "timm:vit_tiny_patch16_224", chosen, eight).load("cpu")


def test_renamed_keys(tmp_path):
    kwargs = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=56, **kwargs).eval()
    torch.nn.init.normal_(network.reg_token)
    released = dict(network.state_dict())  # as its authors released it: other names, a position for the class token
    released["register_tokens"] = released.pop("reg_token")
    released["mask_token"] = torch.zeros(1, 48)
    released["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), released["pos_embed"]], dim=1)
    path = tmp_path / "released.pth"
    torch.save(released, path)
    asked = {"model_kwargs": kwargs, "input_px": 56, "resize_px": 56, "mean": [0, 0, 0], "std": [1, 1, 1]}
    backbone = plugins.create("backbone", "timm:vit_small_patch14_reg4_dinov2", asked, path).load("cpu")
    with torch.inference_mode():
        wanted = network(torch.full((1, 3, 56, 56), 51 / 255)).numpy()
    np.testing.assert_allclose(backbone.embed(np.full((1, 56, 56, 3), 51, np.uint8)), wanted, atol=1e-4)
    with pytest.raises(WeightsError, match=r"unexpected \(register_tokens\)"):
        plugins.create("backbone", "timm:vit_small_patch14_dinov2", asked, path).load("cpu")


@pytest.mark.parametrize("patch_px", [14, 28])
def test_renaming_rejects_other_patch_size(tmp_path, patch_px):
    kwargs = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=56, patch_size=patch_px, **kwargs)
    path = tmp_path / "open_clip.pth"
    torch.save({f"visual.trunk.{key}": value for key, value in network.state_dict().items()}, path)
    settings = {"model_kwargs": kwargs, "input_px": 56, "resize_px": 56}
    backbone = plugins.create("backbone", "timm:vit_small_patch14_dinov2", settings, path)
    if patch_px == 14:
        assert backbone.load("cpu").dim == 48
    else:
        with pytest.raises(WeightsError, match=r"/28 \(48 wide"):
            backbone.load("cpu")


def test_wrong_weights_file(tmp_path):
    path = tmp_path / "other.pth"
    shallow_file(path, "vit_small_patch16_224", depth=2)
    with pytest.raises(
        WeightsError, match=r"ViT-Small/16 \(384 wide, patch 16, 2 blocks\), dino-vits8 is ViT-Small/8 "
    ):
        plugins.create("backbone", "dino-vits8", {}, path).load("cpu")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timm:vit_tinny_patch16_224", {}, "timm has no network 'vit_tinny_patch16_224'. Did you mean timm:vit_tiny"),
        ("timm:vit_tiny_patch16_224.nonsense", {}, "timm has no such weights. Choose one of: vit_tiny_patch16_224.aug"),
        (
            "timm:vit_tiny_patch16_224",
            {"model_kwargs": {"deepness": 3}},
            "cannot be built with model_kwargs .*deepness",
        ),
        ("timm:vit_tiny_patch16_224", {"std": [1, 0, 1]}, "setting std.1: .*greater than 0"),
        ("timm:vit_tiny_patch16_224", {"preprocessing": "exact"}, "setting preprocessing: .*'published' or 'run'"),
        ("timm:vit_tiny_patch16_224", {"resise_px": 3}, "has no setting resise_px. Known settings: weights, "),
        ("timm:vit_tiny_patch16_224", {**SHALLOW, "sha256": "00" * 32}, "checksum mismatch"),
    ],
)
def test_settings_errors(shallow, name, settings, message):
    with pytest.raises((SettingsError, WeightsError), match=message) as caught:
        plugins.create("backbone", name, settings, shallow[1]).load("cpu")
    assert "\n" not in str(caught.value)


def test_missing_device(shallow):
    backbone = plugins.create("backbone", "timm:vit_tiny_patch16_224", SHALLOW, shallow[1])
    with pytest.raises(SettingsError, match="device 'gpu' is unknown: use cpu, cuda or cuda:1"):
        backbone.load("gpu")
    with pytest.raises(SettingsError, match=r"there is no device 'cuda:99'"):
        backbone.load("cuda:99")


def test_embed_errors(shallow):
    backbone = plugins.create("backbone", "timm:vit_tiny_patch16_224", SHALLOW, shallow[1])
    with pytest.raises(PluginError, match=r"is not loaded\. Call load\(\) before embed\(\)"):
        backbone.embed(np.zeros((1, 8, 8, 3), np.uint8))
    backbone.load("cpu")
    for crops in (np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)):
        with pytest.raises(PluginError, match=r"Convert them to uint8 \(N, H, W, 3\)"):
            backbone.embed(crops)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield hub


def as_pth(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_scampi_second_repository(hub, shared_networks):
    backbone = plugins.create("backbone", "scampi-vitb16", {"revision": "abc"})
    state = cheap_state(backbone._build())
    hub.files["IverMartinsen/scampi-dino-vits16", "vit_small_backbone.pth"] = b"another file"
    hub.files["IverMartinsen/scampi-dino-vitb16", "vit_base_backbone.pth"] = as_pth(state)
    backbone.load("cpu")
    network = shared_networks["vit_base_patch16_224"]
    assert torch.equal(network.state_dict()["norm.bias"].half(), state["norm.bias"])
    assert "GET /IverMartinsen/scampi-dino-vitb16/resolve/abc/vit_base_backbone.pth" in hub.requests


def test_dino_files(hub, shared_networks):
    backbone = plugins.create("backbone", "dino-vits16")
    with pytest.raises(
        WeightsError, match=r"weights of dino-vits16 cannot be fetched: timm/vit_small_patch16_224\.dino"
    ):
        backbone.load("cpu")
    with pytest.raises(PluginError, match="is not loaded"):
        backbone.embed(np.zeros((1, 256, 256, 3), np.uint8))
    state = cheap_state(backbone._build())
    hub.files["timm/vit_small_patch16_224.dino", "model.safetensors"] = save_safetensors(state)
    assert backbone.load("cpu").dim == 384


def test_damaged_download(hub, shared_networks):
    file = ("IverMartinsen/scampi-dino-vits16", "vit_small_backbone.pth")
    backbone = plugins.create("backbone", "scampi-vits16")
    hub.files[file] = as_pth(cheap_state(backbone._build()))
    hub.sent[file] = hub.files[file][:1000]
    with pytest.raises(WeightsError, match=r"weights of scampi-vits16 cannot be fetched.*download failed"):
        backbone.load("cpu")
    hub.sent.clear()
    hub.etags[file] = "1" * 64
    with pytest.raises(WeightsError, match=r"checksum mismatch: SHA-256 is .*, expected 1{64}"):
        backbone.load("cpu")


def test_hub_network(hub):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SHALLOW["model_kwargs"])
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_features": 48,
        "model_args": SHALLOW["model_kwargs"],
        "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 1.0},
    }
    hub.files["owner/palynet", "config.json"] = json.dumps(config).encode()
    hub.files["owner/palynet", "pytorch_model.bin"] = as_pth(network.state_dict())
    backbone = plugins.create("backbone", "hf-hub:owner/palynet@v2").load("cpu")
    assert backbone.steps == Preprocessing(224, 224, (0.1, 0.1, 0.1), (0.2, 0.2, 0.2), exact=False)
    crops = np.full((1, 224, 224, 3), 128, np.uint8)
    with torch.inference_mode():
        wanted = network.eval()(torch.full((1, 3, 224, 224), (128 / 255 - 0.1) / 0.2)).numpy()
    np.testing.assert_allclose(backbone.embed(crops), wanted, atol=1e-4)
    assert "GET /owner/palynet/resolve/v2/config.json" in hub.requests


def test_hub_repository_without_network(hub):
    hub.files["owner/other", "config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(WeightsError, match="owner/other is not a timm network"):
        plugins.create("backbone", "hf-hub:owner/other").load("cpu")
    with pytest.raises(PluginError, match="Write hf-hub:OWNER/NAME"):
        plugins.create("backbone", "hf-hub")


def test_network_without_published_weights():
    with pytest.raises(WeightsError, match=r"timm names none on the hub\. Give a file with --weights FILE"):
        plugins.create("backbone", "timm:resnetv2_50d").load("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
def test_gpu_matches_cpu(shallow, photos):
    _, path = shallow
    crops = np.concatenate([squares(photos)] * 5)
    for mode, tolerance in (("run", 1e-3), ("published", 1e-6)):
        settings = {**SHALLOW, "preprocessing": mode, "resize_px": 256, "batch": 3}
        cpu, gpu = (
            plugins.create("backbone", "timm:vit_tiny_patch16_224", settings, path).load(device).embed(crops)
            for device in ("cpu", "cuda")
        )
        cosine = (cpu * gpu).sum(1) / np.linalg.norm(cpu, axis=1) / np.linalg.norm(gpu, axis=1)
        assert cosine.min() >= 1 - tolerance
