"""Torch backbones: timm builds the network, and slidepipe verifies the weights. Torch is imported in `load`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from slidepipe import weights as weight_files
from slidepipe.errors import PluginError, SettingsError, WeightsError
from slidepipe.interfaces import Backbone
from slidepipe.weights import HubFile
from slidepipe_plugins.timm.known import read_config, store_config
from slidepipe_plugins.timm.settings import Preprocessing, Pretrained, TorchSettings, preprocessing_of

if TYPE_CHECKING:
    import torch

    from slidepipe.interfaces import Float32Array, UInt8Array


@dataclass(frozen=True)
class Network:
    """Which network to build and where its weights are.

    Attributes:
        architecture: name of the network in timm.
        pretrained: the input as described by the pretrained config.
        files: hub files with the weights, the preferred one first.
        model_args: arguments of the builder. The setting `model_kwargs` overrides them.
    """

    architecture: str
    pretrained: Pretrained
    files: Sequence[HubFile]
    model_args: Mapping[str, Any] = field(default_factory=dict)


class TorchBackbone(Backbone):
    """The base class of the torch backbones. A subclass chooses the network in `describe`."""

    Settings = TorchSettings

    def __init__(self, settings: TorchSettings) -> None:
        self.settings = settings
        self.fit = settings.fit or ("squeeze" if settings.preprocessing == "published" else "pad")
        self._network: Network | None = None
        self._forward: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._device: torch.device | None = None

    def describe(self) -> Network:
        """Return the network. This method is called once, when the network is first needed."""
        raise NotImplementedError

    @property
    def network(self) -> Network:
        """The network, as `describe` returns it."""
        if self._network is None:
            self._network = self.describe()
        return self._network

    @property
    def steps(self) -> Preprocessing:
        """The preprocessing that follows from the settings and the config of the network."""
        return preprocessing_of(self.settings, self.network.pretrained, self.name)

    # A property, because it depends on the network, and describing the network may read a file from the hub.
    @property
    def input_px(self) -> int:  # type: ignore[override]  # nothing sets it
        """Side of the square crops that `embed` receives in a run, in pixels. `embed` then takes the centre crop."""
        return self.steps.resize_px

    def load(self, device: str) -> Self:
        """Build the network, and find, verify and load its weights. Every key of the weights must fit.

        Args:
            device: `cpu`, `cuda` or `cuda:N`.

        Raises:
            WeightsError: the weights are missing, damaged, or do not fit.
            SettingsError: the network cannot be built with these settings, or there is no such device.
        """
        import torch

        from slidepipe_plugins.timm.folding import fold_batch_norms
        from slidepipe_plugins.timm.tensors import pooled

        target = _device(device, self.name)
        network = self._build()
        path = self.settings.weights
        if path is None:
            path = weight_files.fetch(self.network.files, self.name)
        self.weights_sha256 = weight_files.verify_sha256(path, self.settings.sha256)
        checkpoint = weight_files.read_checkpoint(path)
        state = weight_files.network_state(checkpoint, path, self.settings.checkpoint_entry)
        resized = self.steps.input_px != self.network.pretrained.input_px
        weight_files.load_strictly(network, _converted(network, state, resized=resized), self.name, path)
        layout = torch.channels_last if target.type == "cuda" else torch.contiguous_format
        network.eval().requires_grad_(False).to(device=target)
        network.to(memory_format=layout)
        if target.type == "cpu" and not self.steps.exact:
            network = fold_batch_norms(network, self.steps.input_px)
        self._forward, self._device = pooled(network, self.settings.pool), target
        if resized or self.settings.pool or self.settings.model_kwargs or not hasattr(self, "dim"):
            self._embed_probe()
        return self

    def _embed_probe(self) -> None:
        """Embed one black crop to learn the length of an embedding and to find settings that do not work."""
        probe = np.zeros((1, self.steps.resize_px, self.steps.resize_px, 3), np.uint8)
        try:
            self.dim = self.embed(probe).shape[1]
        except (ValueError, RuntimeError, AssertionError, IndexError) as error:
            self._forward = None
            raise SettingsError(
                f"backbone {self.name!r} cannot run with these settings: {_line(error)}. Change backbone.settings"
            ) from error

    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed crops.

        Args:
            crops: uint8 (N, H, W, 3), sRGB, all of the same size. N may be 0.

        Returns:
            float32 (N, dim).

        Raises:
            PluginError: `load` was not called, or the crops have another dtype or shape.
        """
        if self._forward is None or self._device is None:
            raise PluginError(f"backbone {self.name!r} is not loaded. Call load() before embed()")
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[-1] != 3:
            raise PluginError(
                f"backbone {self.name!r}: crops are {crops.dtype} {crops.shape}. Convert them to uint8 (N, H, W, 3)"
            )
        if len(crops) == 0:
            return np.zeros((0, self.dim), np.float32)
        from slidepipe_plugins.timm.tensors import embed_crops

        return embed_crops(self._forward, crops, self.steps, self._device, self.settings.batch)

    def _build(self) -> torch.nn.Module:
        import timm

        arguments = {**self.network.model_args, **self.settings.model_kwargs}
        if self.steps.input_px != self.network.pretrained.input_px and self._fixed_size():
            arguments.setdefault("img_size", self.steps.input_px)
        try:
            network = timm.create_model(self.network.architecture, pretrained=False, num_classes=0, **arguments)
        except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
            raise SettingsError(
                f"backbone {self.name!r} cannot be built with model_kwargs {arguments}: {_line(error)}. Change model_kwargs"
            ) from error
        built: torch.nn.Module = network
        return built

    def _fixed_size(self) -> bool:
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(self.network.architecture)
        return config is not None and bool(config.fixed_input_size)


class NamedBackbone(TorchBackbone):
    """A backbone with a fixed network, which is described by class attributes. Reading them imports no torch."""

    architecture: ClassVar[str]
    files: ClassVar[tuple[HubFile, ...]]
    pretrained: ClassVar[Pretrained]

    def describe(self) -> Network:
        """Return the network of the class attributes, at the revision given in the settings."""
        return Network(self.architecture, self.pretrained, _pinned(self.files, self.settings.revision))


class TimmBackbone(TorchBackbone):
    """Any network of timm with its published weights: `timm:NAME`, for example `timm:vit_small_patch14_dinov2.lvd142m`."""

    name = "timm"
    license = "see the page of the model on the Hugging Face hub"
    source = "timm (PyTorch Image Models)"
    takes_argument = True

    def __init__(self, settings: TorchSettings, argument: str) -> None:
        super().__init__(settings)
        self.name = f"timm:{argument}"
        self.architecture = argument

    def describe(self) -> Network:
        """Return the network as the pretrained config of timm describes it.

        Raises:
            SettingsError: timm has no such network. The message lists similar names.
        """
        values = read_config(self.architecture)
        if values is None:
            values = self._ask_timm()
        files: tuple[HubFile, ...] = ()
        if repo := values.get("hf_hub_id"):
            repo, _, revision = str(repo).partition("@")
            names = [values["hf_hub_filename"]] if values.get("hf_hub_filename") else _WEIGHT_NAMES
            files = tuple(HubFile(repo, name, revision or None) for name in names)
        return Network(self.architecture, _pretrained(values), _pinned(files, self.settings.revision))

    def _ask_timm(self) -> dict[str, Any]:
        from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained, model_entrypoint

        if not is_model(self.architecture):
            near = difflib.get_close_matches(self.architecture, [*list_models(), *list_pretrained()], n=3)
            hint = f"Did you mean {' or '.join('timm:' + name for name in near)}?" if near else "See timm.list_models()"
            raise SettingsError(f"backbone {self.name!r}: timm has no network {self.architecture!r}. {hint}")
        try:
            config = get_pretrained_cfg(self.architecture)
        except RuntimeError as error:  # the part after the dot is not the name of any weights of the network
            near = list_pretrained(f"{self.architecture.partition('.')[0]}.*")
            raise SettingsError(
                f"backbone {self.name!r}: timm has no such weights. Choose one of: {', '.join(near) or 'none for this network'}"
            ) from error
        values = dataclasses.asdict(config) if config is not None else {}
        # Only the configs of timm are stored, because those that other packages register may change.
        is_from_timm = model_entrypoint(self.architecture).__module__.startswith("timm.")
        return store_config(self.architecture, values) if is_from_timm else values

    def load(self, device: str) -> Self:
        """Load the network, as `TorchBackbone.load` does. If timm names no weights on the hub, a file must be given."""
        if self.settings.weights is None and not self.network.files:
            raise WeightsError(
                f"weights of {self.name} cannot be fetched: timm names none on the hub. Give a file with --weights FILE"
            )
        return super().load(device)


class HubBackbone(TorchBackbone):
    """Any timm network on the Hugging Face hub: `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`."""

    name = "hf-hub"
    license = "see the page of the model on the Hugging Face hub"
    source = "the Hugging Face hub"
    takes_argument = True
    argument_name = "OWNER/NAME"

    def __init__(self, settings: TorchSettings, argument: str) -> None:
        super().__init__(settings)
        self.name = f"hf-hub:{argument}"
        self.repo, _, revision = argument.partition("@")
        self.revision = settings.revision or revision or None

    def describe(self) -> Network:
        """Return the network as `config.json` in the repository describes it. The file is fetched, or read from the cache.

        Raises:
            WeightsError: the file cannot be fetched, or it does not describe a timm network.
        """
        path = weight_files.fetch([HubFile(self.repo, "config.json", self.revision)], self.name)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            architecture = str(config["architecture"])
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path}: {self.repo} is not a timm network (its config.json names no architecture). Choose another repository"
            ) from error
        values = config.get("pretrained_cfg", config)  # in older repositories, the values are not nested
        files = [HubFile(self.repo, name, self.revision) for name in _WEIGHT_NAMES]
        return Network(architecture, _pretrained(values), files, config.get("model_args") or {})


_RESAMPLED = ("patch_embed.proj.weight", "pos_embed")
"""What timm's converters fit by interpolation."""

_WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")


def _pinned(files: Sequence[HubFile], revision: str | None) -> tuple[HubFile, ...]:
    return tuple(HubFile(file.repo, file.filename, revision or file.revision) for file in files)


def _pretrained(values: Mapping[str, Any]) -> Pretrained:
    """Read timm's pretrained config; where it is silent, ImageNet's usual ones."""
    mean, std = values.get("mean") or (0.485, 0.456, 0.406), values.get("std") or (0.229, 0.224, 0.225)
    input_px = int((values.get("input_size") or (3, 224, 224))[-1])
    share = float(values.get("crop_pct") or 0.875)
    return Pretrained(input_px, share, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _device(device: str, name: str) -> torch.device:
    import torch

    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"backbone {name!r}: device {device!r} is unknown: use cpu, cuda or cuda:1") from error
    if target.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (target.index or 0) >= count:
            raise SettingsError(
                f"backbone {name!r}: there is no device {device!r}; this machine has {count} GPUs. Use cpu"
            )
    return target


def _converted(network: torch.nn.Module, state: weight_files.State, *, resized: bool) -> weight_files.State:
    """Return the weights with keys renamed by timm, if they are from another release of the same network.

    The converters of timm also resample weights to another patch size or width. A file of another network would then be
    accepted. Therefore nothing is converted if patches or positions have another shape, with two exceptions: positions when
    the input is resized, and positions that differ by class and register tokens only.

    Args:
        network: the network.
        state: the weights of the file.
        resized: whether the input has another size than in the pretrained config.
    """
    wanted = network.state_dict()
    if weight_files.misfit(wanted, state) is None:
        return state
    tokens = int(getattr(network, "num_prefix_tokens", 0))
    for key, value in state.items():
        own = next((wanted[own] for own in _RESAMPLED if own in wanted and key.endswith(own)), None)
        if own is None or own.shape == value.shape:
            continue
        positions = own.ndim == value.ndim == 3 and own.shape[2] == value.shape[2]
        if not (positions and (resized or abs(own.shape[1] - value.shape[1]) <= tokens)):
            return state
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = convert(dict(state), network)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, AssertionError):
        return state  # an unknown release: `load_strictly` reports what does not fit
    fits = weight_files.misfit(wanted, converted) is None
    return dict(converted) if fits else state


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
