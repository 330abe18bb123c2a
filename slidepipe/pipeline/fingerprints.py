"""Identities and fingerprints: the values that decide whether stored results can be used again.

An identity is a readable record of everything that decides a result. It is stored in the manifest. A fingerprint is the
sha256 of such values.

The keys of the identities ("views", "beside", "as_crops", "shown") are the names of earlier releases. They are hashed and
stored, so renaming one would make every existing RESULTS folder and reference cache invalid. They stay as they are here,
whatever the settings and attributes are called today.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slidepipe import plugins
from slidepipe.config import Config
from slidepipe.crops.cut import CropSpec
from slidepipe.embedding.embed import COMPANION_LENGTH
from slidepipe.interfaces import Backbone
from slidepipe.store.files import file_sha256, fingerprint

#: Increase when the code changes what an embedding is. Stored embeddings and reference sets are then computed again.
EMBEDDINGS_VERSION = 6
#: Increase when the code changes what the tables hold. They are then written again.
TABLES_VERSION = 8


def identify_plugin(
    kind: plugins.Kind, name: str, settings: Mapping[str, Any], weights: Path | None, backbone: Backbone | None = None
) -> dict[str, Any]:
    """Return everything that decides the results of a plugin: version, settings and the bytes of its files.

    Where the files lie makes no difference. This reads all weights, so call it once per run and plugin
    (`slidepipe.pipeline.specs.PluginSpec` keeps the result).

    Args:
        kind: "backbone", "head" or "detector".
        name: the plugin's name, with its argument after a colon if it has one.
        settings: the plugin's settings.
        weights: the weight file, or None.
        backbone: the backbone that was built from these values; needed for a backbone only.
    """
    info = plugins.find(kind, name)
    cls = plugins.get_class(kind, name)
    base, _, argument = name.partition(":")
    files = {"weights": weights, "argument": Path(argument or "/")}
    files |= {f"setting {key}": Path(value) for key, value in settings.items() if isinstance(value, str) and value}
    digests = {key: file_sha256(path) for key, path in files.items() if path is not None and path.is_file()}
    shown: dict[str, Any] = {}
    if backbone is not None:  # slidepipe makes crops square before the backbone gets them, in the way that it asks for
        shown = {"shown": [backbone.fit, backbone.input_px]}
    return {
        **shown,
        "name": base if "argument" in digests else name,
        # A plugin may have a version of its own, so that a release of its package that does not change its results does not
        # invalidate them. The module of a plugin file is named after the file's bytes, so `value` stands for them.
        "version": cls.version or info.version or info.value,
        "settings": {key: value for key, value in settings.items() if f"setting {key}" not in digests},
        "files": digests,
    }


def identify_embedding(
    backbone: Mapping[str, Any], orientations: int, isolate: bool, companion: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return everything that must be equal for two embeddings to be comparable.

    Args:
        backbone: the identity of the backbone, from `identify_plugin`.
        orientations: number of orientations averaged per embedding.
        isolate: whether objects are isolated from their background.
        companion: the embedding identity of the companion backbone, or None.
    """
    return {
        **backbone,
        "stage": EMBEDDINGS_VERSION,
        "views": orientations,
        "isolate": isolate,
        "beside": None if companion is None else {**companion, "length": COMPANION_LENGTH},
    }


def identify_reference(embedding: Mapping[str, Any], batch: int, crops: CropSpec) -> dict[str, Any]:
    """Return everything that decides the embeddings of reference images, besides the images themselves.

    Args:
        embedding: the identity from `identify_embedding`.
        batch: images per call of the backbone.
        crops: how the run stores crops; references are also embedded as such crops.
    """
    return {**embedding, "batch": batch, "as_crops": [crops.long_side_px, crops.jpeg_quality]}


def fingerprint_embedding(backbone: str, orientations: int, batch: int, isolate: bool, companion: str | None) -> str:
    """Return the fingerprint of a way to embed crops, which the stored embeddings of a slide depend on.

    Args:
        backbone: fingerprint of the backbone's identity.
        orientations: number of orientations averaged per embedding.
        batch: crops per call of the backbone.
        isolate: whether objects are isolated from their background.
        companion: this fingerprint for the companion backbone, or None.
    """
    beside = None if companion is None else (companion, COMPANION_LENGTH)
    return fingerprint(backbone, orientations, batch, isolate, beside)


def fingerprint_tables(slides: Sequence[object], config: Config, head: str, reference: str, labels: str) -> str:
    """Return the fingerprint of the tables of a run.

    Args:
        slides: for each slide what its rows depend on, from `slidepipe.pipeline.jobs.SlideState.table_inputs`.
        config: the settings of the run.
        head: fingerprint of the head.
        reference: fingerprint of the reference set.
        labels: sha256 of the reviewer's draw and labels.
    """
    return fingerprint(
        "tables",
        TABLES_VERSION,
        slides,
        head,
        config.head.alpha,
        config.head.slide_shift,
        reference,
        config.counting.model_dump(),
        labels,
    )
