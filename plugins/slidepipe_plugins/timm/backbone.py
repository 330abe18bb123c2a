"""Torch backbones: networks that timm builds, weights that slidepipe verifies. Torch is imported in load."""

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
from slidepipe_plugins.timm.known import remember, remembered
from slidepipe_plugins.timm.settings import Preprocessing, Pretrained, TorchSettings, preprocessing_of

if TYPE_CHECKING:
    import torch

    from slidepipe.interfaces import Float32Array, UInt8Array


@dataclass(frozen=True)
class Network:
    """Which network to build and where its weights are.

    Attributes:
        architecture: timm's name of it.
        pretrained: what its pretrained config says of the input.
        files: hub files with its weights, best first.
        model_args: passed to the builder (the user's ``model_kwargs`` win).
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
        """Say which network this is; called once, when it is first needed."""
        raise NotImplementedError

    @property
    def network(self) -> Network:
        """The network, as :meth:`describe` says."""
        if self._network is None:
            self._network = self.describe()
        return self._network

    @property
    def steps(self) -> Preprocessing:
        """The preprocessing that the settings and the network's config come to."""
        return preprocessing_of(self.settings, self.network.pretrained, self.name)

    # A property, because it depends on the network, and describing the network may read a file from the hub.
    @property
    def input_px(self) -> int:  # type: ignore[override]  # nothing sets it
        """Side of the square crops that a run delivers, in pixels: what is left to do then is the centre crop."""
        return self.steps.resize_px

    def load(self, device: str) -> Self:
        """Build the network, find, verify and load its weights, strictly.

        Raises:
            WeightsError: the weights are missing, damaged, or do not fit.
            SettingsError: the network cannot be built as the settings say, or the device is not there.
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
            self._try_out()
        return self

    def _try_out(self) -> None:
        probe = np.zeros((1, self.steps.resize_px, self.steps.resize_px, 3), np.uint8)
        try:
            self.dim = self.embed(probe).shape[1]
        except (ValueError, RuntimeError, AssertionError, IndexError) as error:
            self._forward = None
            raise SettingsError(f"backbone {self.name!r} cannot run with these settings: {_line(error)}") from error

    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed uint8 (N, H, W, 3) sRGB crops of any one size into float32 (N, dim); N may be 0."""
        if self._forward is None or self._device is None:
            raise PluginError(f"backbone {self.name!r}: load() comes before embed()")
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[-1] != 3:
            raise PluginError(
                f"backbone {self.name!r} embeds uint8 crops (N, H, W, 3), not {crops.dtype} {crops.shape}: convert them"
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
                f"backbone {self.name!r} cannot be built with model_kwargs {arguments}: {_line(error)}"
            ) from error
        built: torch.nn.Module = network
        return built

    def _fixed_size(self) -> bool:
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(self.network.architecture)
        return config is not None and bool(config.fixed_input_size)


class NamedBackbone(TorchBackbone):
    """A network known by a name of its own: everything about it is said in class attributes, and none imports torch."""

    architecture: ClassVar[str]
    files: ClassVar[tuple[HubFile, ...]]
    pretrained: ClassVar[Pretrained]

    def describe(self) -> Network:
        """The network of the class attributes, at the revision that the settings pin."""
        return Network(self.architecture, self.pretrained, _pinned(self.files, self.settings.revision))


class TimmBackbone(TorchBackbone):
    """Any network of timm, ``timm:NAME`` (as ``timm:vit_small_patch14_dinov2.lvd142m``), with weights of its own."""

    name = "timm"
    license = "that of the weights: see the model's card"
    source = "timm (PyTorch Image Models)"
    takes_argument = True

    def __init__(self, settings: TorchSettings, argument: str) -> None:
        super().__init__(settings)
        self.name = f"timm:{argument}"
        self.architecture = argument

    def describe(self) -> Network:
        """What timm's pretrained config of that name says.

        Raises:
            SettingsError: timm knows no such network; the message names the nearest.
        """
        values = remembered(self.architecture)
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
            hint = f"did you mean {' or '.join('timm:' + name for name in near)}?" if near else "see timm.list_models()"
            raise SettingsError(f"backbone {self.name!r}: timm has no network {self.architecture!r}; {hint}")
        try:
            config = get_pretrained_cfg(self.architecture)
        except RuntimeError as error:  # the part after the dot is none of the network's weights
            near = list_pretrained(f"{self.architecture.partition('.')[0]}.*")
            raise SettingsError(
                f"backbone {self.name!r}: timm has no such weights; it has {', '.join(near) or 'none of this network'}"
            ) from error
        values = dataclasses.asdict(config) if config is not None else {}
        # A network that somebody else has registered may be another one tomorrow.
        is_timms = model_entrypoint(self.architecture).__module__.startswith("timm.")
        return remember(self.architecture, values) if is_timms else values

    def load(self, device: str) -> Self:
        """As :meth:`TorchBackbone.load`; where timm names no weights on the hub, a weight file must be given."""
        if self.settings.weights is None and not self.network.files:
            raise WeightsError(
                f"weights of {self.name} cannot be had: timm names none on the hub; give a file with --weights FILE"
            )
        return super().load(device)


class HubBackbone(TorchBackbone):
    """Any timm network on the Hugging Face hub, ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION``."""

    name = "hf-hub"
    license = "that of the weights: see the model's card"
    source = "the Hugging Face hub"
    takes_argument = True
    argument_name = "OWNER/NAME"

    def __init__(self, settings: TorchSettings, argument: str) -> None:
        super().__init__(settings)
        self.name = f"hf-hub:{argument}"
        self.repo, _, revision = argument.partition("@")
        self.revision = settings.revision or revision or None

    def describe(self) -> Network:
        """What ``config.json`` in the repository says; fetched, or taken from the hub's cache.

        Raises:
            WeightsError: it cannot be had, or is not a timm network's.
        """
        path = weight_files.fetch([HubFile(self.repo, "config.json", self.revision)], self.name)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            architecture = str(config["architecture"])
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path}: {self.repo} is no timm network (its config.json names no architecture); choose one that is"
            ) from error
        values = config.get("pretrained_cfg", config)  # older repositories keep it flat
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
            raise SettingsError(f"backbone {name!r}: device {device!r} is not there ({count} GPUs seen): use cpu")
    return target


def _converted(network: torch.nn.Module, state: weight_files.State, *, resized: bool) -> weight_files.State:
    """Let timm rename the keys of other releases of the same network (and fit positions to another input size).

    timm's converters also resample weights to another patch size or width, which would pass a wrong file off as a
    right one: so nothing is converted where patches or positions differ, but for positions when the input is resized or
    class and register tokens are all that differs.
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
        return state  # no release it knows: the strict comparison says what does not fit
    fits = weight_files.misfit(wanted, converted) is None
    return dict(converted) if fits else state


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
