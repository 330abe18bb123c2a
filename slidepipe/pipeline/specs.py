"""Specifications of the plugins and the embedding of a run, and how they follow from its settings.

A specification is a small value that can be pickled and hashed. Any process, on any machine, builds the same plugin from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from slidepipe import plugins
from slidepipe.config import Config
from slidepipe.crops.cut import CropSpec
from slidepipe.embedding.device import local_gpus
from slidepipe.interfaces import Backbone
from slidepipe.paths import absolute, relocate, relocate_path
from slidepipe.pipeline.fingerprints import (
    fingerprint_embedding,
    identify_embedding,
    identify_plugin,
    identify_reference,
)
from slidepipe.store.files import fingerprint

#: A fossil can lie in any direction and with either side up, so embeddings are averaged over this many orientations, unless
#: those of the backbone do not depend on the orientation.
DEFAULT_ORIENTATIONS = 8


@dataclass(frozen=True)
class PluginSpec:
    """How to build a plugin in any process.

    Attributes:
        name: the plugin's name, with its argument after a colon if it has one.
        settings: the settings as JSON text, so that the specification can be hashed.
        weights: the weight file, absolute, or None.
        files: plugin files (`--plugin`) to load first, absolute.
        digest: fingerprint of the identity. A process that keeps built plugins builds one again when its files change.
        identity: what decides the plugin's results, as JSON text; see `slidepipe.pipeline.fingerprints.identify_plugin`.
            Empty if it was not computed yet.
    """

    name: str
    settings: str = "{}"
    weights: Path | None = None
    files: tuple[Path, ...] = ()
    digest: str = ""
    identity: str = ""

    def relocated(self, paths: Mapping[str, str]) -> Self:
        """Return the specification as another machine sees it, with absolute paths in name and settings replaced too.

        Args:
            paths: folders of this machine and where the other machine has them.
        """

        def moved(text: Any) -> Any:
            return str(relocate_path(Path(text), paths)) if isinstance(text, str) and Path(text).is_absolute() else text

        base, colon, argument = self.name.partition(":")
        settings = {key: moved(value) for key, value in json.loads(self.settings).items()}
        return replace(
            self,
            name=base + colon + moved(argument),
            settings=json.dumps(settings, sort_keys=True),
            weights=relocate(self.weights, paths),
            files=relocate(self.files, paths),
        )


@dataclass(frozen=True)
class EmbedSpec:
    """How crops are embedded.

    Attributes:
        plugin: the backbone.
        device: "cpu", "cuda", "cuda:N" or "auto".
        orientations: number of orientations averaged per embedding, 1 or 8.
        batch: crops per call of the backbone.
        isolate: whether the object of each crop is isolated (`slidepipe.crops.isolate`) and aligned to its long axis.
        companion: how the companion backbone embeds the same crops; its embeddings are concatenated to those of the backbone.
    """

    plugin: PluginSpec
    device: str
    orientations: int
    batch: int
    isolate: bool = False
    companion: "EmbedSpec | None" = None

    def identity(self) -> dict[str, Any]:
        """Return everything that must be equal for two embeddings to be comparable."""
        plugin = self.plugin
        if plugin.identity:
            backbone = json.loads(plugin.identity)
        else:
            settings = json.loads(plugin.settings)
            built = plugins.create("backbone", plugin.name, settings, plugin.weights)
            backbone = identify_plugin("backbone", plugin.name, settings, plugin.weights, built)
        companion = None if self.companion is None else self.companion.identity()
        return identify_embedding(backbone, self.orientations, self.isolate, companion)

    def reference_identity(self, crops: CropSpec) -> dict[str, Any]:
        """Return everything that decides the embeddings of reference images, besides the images themselves."""
        return identify_reference(self.identity(), self.batch, crops)

    def digest(self) -> str:
        """Return the fingerprint that the stored embeddings of a slide depend on."""
        companion = None if self.companion is None else self.companion.digest()
        return fingerprint_embedding(self.plugin.digest, self.orientations, self.batch, self.isolate, companion)


@dataclass(frozen=True)
class RunSpecs:
    """The specifications of everything that a run builds."""

    embed: EmbedSpec
    head: PluginSpec
    detector: PluginSpec
    crops: CropSpec


def specs_from_config(config: Config) -> RunSpecs:
    """Return the specifications of a run.

    Each plugin is built once, and its weights are hashed once. So wrong settings show before any work starts.

    Raises:
        PluginError: a plugin is missing or broken.
        SettingsError: a plugin's settings are wrong.
    """
    return RunSpecs(embed_spec(config), head_spec(config), detector_spec(config), crop_spec(config))


def embed_spec(config: Config) -> EmbedSpec:
    """Return how a run embeds crops. The backbone and its companion are built once, and not loaded."""
    backbone = config.backbone
    # A worker process that has a GPU sees only that one.
    device = "cuda" if local_gpus_of(config) else config.run.device
    built = plugins.create("backbone", backbone.name, backbone.settings, backbone.weights)
    plugin = _plugin_spec("backbone", backbone.name, backbone.settings, config, backbone.weights, built)
    orientations = backbone.orientations if backbone.orientations is not None else _default_orientations(built)
    companion: EmbedSpec | None = None
    if backbone.companion is not None and backbone.companion != backbone.name:
        second = plugins.create("backbone", backbone.companion)
        companion = EmbedSpec(
            _plugin_spec("backbone", backbone.companion, {}, config, backbone=second),
            "cpu",
            _default_orientations(second),
            backbone.batch,
            backbone.isolate,
        )
    return EmbedSpec(plugin, device, orientations, backbone.batch, backbone.isolate, companion)


def crop_spec(config: Config) -> CropSpec:
    """Return how a run cuts and stores crops."""
    return CropSpec(config.crops.margin, config.crops.long_side_px, config.crops.jpeg_quality)


def head_spec(config: Config) -> PluginSpec:
    """Return how to build the head. It is built once here, to check its settings."""
    plugins.create("head", config.head.name, config.head.settings)
    return _plugin_spec("head", config.head.name, config.head.settings, config)


def detector_spec(config: Config) -> PluginSpec:
    """Return how to build the detector. It is built once here, to check its settings."""
    plugins.create("detector", config.detector.name, config.detector.settings)
    return _plugin_spec("detector", config.detector.name, config.detector.settings, config)


def local_gpus_of(config: Config) -> tuple[int, ...]:
    """Return the numbers of the GPUs of this machine that get a worker process each."""
    return local_gpus(config.run.device) if config.run.scheduler == "local" else ()


def _default_orientations(backbone: Backbone) -> int:
    return 1 if backbone.orientation_invariant else DEFAULT_ORIENTATIONS


def _plugin_spec(
    kind: plugins.Kind,
    name: str,
    settings: Mapping[str, Any],
    config: Config,
    weights: Path | None = None,
    backbone: Backbone | None = None,
) -> PluginSpec:
    # Workers may run in another folder, so all paths are absolute.
    base, colon, argument = name.partition(":")
    name = base + colon + str(_absolute_file(argument))
    settings = {key: _absolute_file(value) for key, value in sorted(settings.items())}
    weights = None if weights is None else absolute(weights)
    identity = identify_plugin(kind, name, settings, weights, backbone)
    return PluginSpec(
        name,
        json.dumps(settings, sort_keys=True),
        weights,
        tuple(absolute(file) for file in config.plugins),
        fingerprint(identity),
        json.dumps(identity, default=str),
    )


def _absolute_file(value: Any) -> Any:
    """Return `value` as an absolute path if it is the path of a file, else unchanged."""
    is_file = isinstance(value, str) and value and Path(value).is_file()
    return str(absolute(value)) if is_file else value
