"""The reference set of a run: the images of the reference folder, embedded, and the reviewed objects that join them."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slidepipe import plugins
from slidepipe.classification.fit import SlideHeads
from slidepipe.classification.reference_set import (
    ImageFolder,
    JoinedReference,
    ReferenceSet,
    check_images,
    fingerprint_folder,
    join_parts,
    load_cached,
    save_cached,
    scan_image_folder,
)
from slidepipe.config import Config
from slidepipe.counting.counts import RESERVED_COLUMNS
from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.interfaces import Head
from slidepipe.paths import absolute
from slidepipe.pipeline.engine import Engine, Task
from slidepipe.pipeline.specs import PluginSpec, RunSpecs
from slidepipe.pipeline.tasks import embed_reference_part
from slidepipe.review.references import find_reviewed, join_reviewed

#: Reference images per task.
_PART = 64


def reference_folder(config: Config) -> ImageFolder:
    """Return the labelled images of the reference set.

    Raises:
        SettingsError: no reference folder is given.
        ReferenceSetError: the folder cannot be used.
    """
    if config.reference is None:
        raise SettingsError(
            "no reference set: give --reference DIR, a folder that holds one folder of images per genus"
        )
    folder = scan_image_folder(config.reference)
    reserved = sorted(set(folder.names) & RESERVED_COLUMNS)
    if reserved:
        raise ReferenceSetError(
            f"{config.reference / reserved[0]}: '{reserved[0]}' is a column of the count tables. Rename this genus"
        )
    return folder


class RunReference:
    """The reference set of a run. It is embedded when it is first needed, and taken from the cache if it is there.

    Args:
        folder: the labelled images.
        specs: the specifications of the run.
        config: the settings of the run.
        start_engine: returns the workers; called only if something has to be embedded.
        out: the RESULTS folder of the run.

    Raises:
        ResultsError: a folder of `reference_results` cannot be used.
    """

    def __init__(
        self, folder: ImageFolder, specs: RunSpecs, config: Config, start_engine: Callable[[], Engine], out: Path
    ) -> None:
        self._folder, self._specs, self._config, self._start_engine = folder, specs, config, start_engine
        self._joined: JoinedReference | None = None
        self.backbone = specs.embed.identity()
        self._folder_fingerprint = fingerprint_folder(folder, specs.embed.reference_identity(specs.crops))
        self._reviewed = find_reviewed(config.reference_results, sorted(set(folder.genera)), self.backbone, out)
        self._cached = load_cached(self._folder_fingerprint)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the set; before `embed`, that of the reference folder alone."""
        return self._folder_fingerprint if self._joined is None else self._joined.all.fingerprint

    @property
    def weights_sha256(self) -> str | None:
        """The sha256 of the backbone's weights, if the backbone reports it and the set is embedded."""
        return None if self._joined is None else self._joined.all.weights_sha256

    def check(self) -> None:
        """Check the images, the backbone and the head, so that their errors come before the work on the slides starts.

        Raises:
            ReferenceSetError: a file is not an image, or a genus has too few images for the head.
            SlidepipeError: the backbone or the head cannot be used.
        """
        folder, specs = self._folder, self._specs
        if self._cached is None:
            check_images(folder)
            arguments = (specs.embed, specs.crops, absolute(folder.root), folder.files[:1])
            self._start_engine().map([Task(embed_reference_part, arguments, gpu=True)])
        # A head can reject its settings, alpha, or the number of references of a genus. Any embeddings show that.
        drawn = np.random.default_rng(0).normal(size=(len(folder.files), 8)).astype(np.float32)
        _create_head(specs.head).fit(drawn, np.array(folder.genera), self._config.head.alpha)

    def embed(self) -> None:
        """Embed the images and add the reviewed objects.

        Call it after the work on the slides: objects that were reviewed in these results are then embedded again, and a well
        without objects needs no references.

        Raises:
            ResultsError: a review was drawn from other detections than its results hold now.
        """
        self._joined = join_reviewed(self._cached or self._embed_images(), self._reviewed)

    @functools.cached_property
    def heads(self) -> SlideHeads:
        """The fitted heads. Needs `embed`."""
        if self._joined is None:
            raise SettingsError("the reference set is not embedded")
        return SlideHeads(functools.partial(_create_head, self._specs.head), self._config.head.alpha, self._joined)

    def _embed_images(self) -> ReferenceSet:
        folder, specs = self._folder, self._specs
        root = absolute(folder.root)
        parts = self._start_engine().map(
            Task(embed_reference_part, (specs.embed, specs.crops, root, folder.files[start : start + _PART]), gpu=True)
            for start in range(0, len(folder.files), _PART)
        )
        reference = join_parts(folder, parts, self._folder_fingerprint)
        save_cached(reference)
        return reference


def _create_head(head: PluginSpec) -> Head:
    return plugins.create("head", head.name, json.loads(head.settings))
