"""The interfaces that plugins implement (`Backbone`, `Head`, `Detector`) and the data that passes through them.

A plugin is a class that derives from one of the three base classes. It implements the abstract methods, gives the
attributes without a default a value, and overrides the optional members that it needs.

Importing this module imports numpy and no heavier package. In particular, it does not import torch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
StrArray = npt.NDArray[np.str_]

SettingsDict = dict[str, Any]

Fit = Literal["squeeze", "pad"]
"""How a crop that is not square becomes square: by resizing both sides, or by adding background to the shorter one."""


class Plugin(ABC):
    """The members that all kinds of plugins share. Derive from `Backbone`, `Head` or `Detector`, not from this class.

    Class attributes are read before a plugin is built, so the module of a plugin must import quickly. Import torch and
    other heavy packages inside the methods that need them.
    """

    name: str
    """The name that users type, without a colon. Required."""

    version: ClassVar[str | None] = None
    """Version of the plugin's results. Default: None, which stands for the version of the package that ships it.

    Results of a run are kept as long as this value stays the same. With a version of its own, a plugin decides which of
    its releases change results. Without one, each release of its package makes runs compute its stage again.
    """

    Settings: ClassVar[type[Any] | None] = None
    """A pydantic model with the settings of the plugin. Default: None, the plugin has no settings.

    With a model, slidepipe builds the plugin as `PluginClass(settings)`; without one, as `PluginClass()`.
    A field `weights` (a path or None) receives the option `--weights`.
    """

    takes_argument: ClassVar[bool] = False
    """Whether users give an argument after a colon, as in `timm:vit_tiny_patch16_224`. Default: False.

    slidepipe passes the text after the colon to the constructor as the keyword `argument`.
    """

    argument_name: ClassVar[str] = "NAME"
    """What error messages call the argument, for example `FILE.onnx`. Default: `NAME`. Used with `takes_argument` only."""


class Backbone(Plugin):
    """Compute the embeddings of crops.

    Example:
        ```python
        class MeanColour(Backbone):
            name = "mean-colour"
            dim = 3
            input_px = 64
            license = "Apache-2.0"
            source = "an example"

            def load(self, device):
                return self

            def embed(self, crops):
                return crops.mean(axis=(1, 2)).astype(np.float32)
        ```
    """

    dim: int
    """Length of an embedding. Required, at the latest after `load`."""

    input_px: int
    """Side of the square crops that `embed` receives in a run, in pixels. Required."""

    license: str
    """Licence of the weights, for the manifest. Required."""

    source: str
    """Authors or publication of the weights, for the manifest. Required."""

    fit: Fit = "squeeze"
    """How a run makes a crop square: `squeeze` resizes both sides, `pad` adds background. Default: `squeeze`."""

    orientation_invariant: bool = False
    """Whether flips and quarter turns of a crop do not change its embedding. Default: False.

    With False, a run averages the embedding of an object over eight orientations. With True, a run embeds an isolated
    object in up to four poses 45 degrees apart, and a crop with its surroundings once.
    """

    weights_sha256: str | None = None
    """SHA-256 of the weights file, as 64 hexadecimal digits. Default: None, no weights. `load` sets it.

    It is written to the manifest. References and RESULTS folders that were embedded with other weights are not combined.
    """

    @abstractmethod
    def load(self, device: str) -> Self:
        """Find, verify and load the weights.

        Args:
            device: `cpu`, `cuda` or `cuda:N`.

        Returns:
            The backbone itself.

        Raises:
            WeightsError: the weights are missing, damaged, or do not fit. A backbone never uses random weights instead.
        """

    @abstractmethod
    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed crops. The backbone does its own preprocessing.

        An embedding must not depend on the other crops of the call, except for rounding.

        Args:
            crops: uint8 (N, H, W, 3), sRGB. N may be 0. In a run, H and W equal `input_px`.

        Returns:
            float32 (N, dim), finite.
        """


@dataclass(frozen=True)
class Region:
    """The part of a slide that a detector receives.

    Attributes:
        rgb: uint8 (H, W, 3), sRGB. Unscanned pixels have the background colour of the slide.
        scanned: bool (H, W). False where the scanner took no image, and outside the bounds of the scan.
        mpp: micrometres per pixel of `rgb`.
    """

    rgb: UInt8Array
    scanned: BoolArray
    mpp: float


@dataclass(frozen=True)
class Detections:
    """The objects found in one region, as arrays of the same length N.

    Attributes:
        boxes: float64 (N, 4), half-open x0, y0, x1, y1 in pixels of the region.
        owner: float64 (N, 2), x and y of the owner point in pixels of the region. The block whose core contains this
            point owns the object. It is the centre of the box or, for a part of a clump that was split, the centre of
            the clump, so that one block contributes all parts of a clump.
        area: float64 (N,), area of the mask of the object in pixels of the region.
        score: float64 (N,), from 0 to 1.
        cut: bool (N,), True where the object touches pixels that were not scanned.
    """

    boxes: FloatArray
    owner: FloatArray
    area: FloatArray
    score: FloatArray
    cut: BoolArray


class Detector(Plugin):
    """Find the objects in a region of a slide.

    The invariant that every detector must satisfy: what it reports about an object depends only on the pixels within
    `halo_um` of the owner point of the object, and on the start of the region only modulo `align_px`. slidepipe reads
    each block with this halo and keeps an object in the block whose core contains its owner point. Therefore boxes do
    not depend on the size of the blocks, on the workers or on their order.
    """

    mpp: float
    """Working resolution in micrometres per pixel. Required. The nearest pyramid level is averaged down to it."""

    halo_um: float
    """Width of the halo that is read around the core of a block, in micrometres. Required."""

    align_px: int
    """Regions start at multiples of this many pixels, counted from the corner of the scan's bounds. Required, at least 1."""

    @abstractmethod
    def detect(self, region: Region) -> Detections:
        """Find all objects of a region, including those in the halo.

        Args:
            region: the pixels. A detector must not change them.

        Returns:
            The objects. With no object, arrays of length 0.
        """

    def detect_owned(self, region: Region, core: tuple[int, int, int, int]) -> Detections:
        """Find at least the objects of a region whose owner point lies in `core`. Default: all objects, from `detect`.

        A detector overrides this method to save time: nearly half of a region is halo, and the objects whose owner
        point lies there are not kept.

        Args:
            region: the pixels. A detector must not change them.
            core: half-open x0, y0, x1, y1 in pixels of the region.

        Returns:
            The objects of `detect`. Those whose owner point lies outside `core` may be missing.
        """
        return self.detect(region)


@dataclass(frozen=True)
class Decisions:
    """The decisions of a head about N embeddings.

    Attributes:
        genus: str (N,), the best genus, also where it is not accepted.
        accepted: bool (N,), False where the head abstains. The object is then counted as `unknown`.
        p_value: float64 (N,), conformal p-value from 0 to 1: how typical the object is among the references of its best
            genus.
        distance: float64 (N,), distance to the nearest reference of the best genus, in the metric of the head.
        neighbours: int64 (N, k), rows of the reference set, nearest first.
        neighbour_distances: float64 (N, k), their distances, ascending.
    """

    genus: StrArray
    accepted: BoolArray
    p_value: FloatArray
    distance: FloatArray
    neighbours: IntArray
    neighbour_distances: FloatArray


class Head(Plugin):
    """Assign a genus to an embedding, or abstain."""

    @abstractmethod
    def fit(self, embeddings: Float32Array, genera: StrArray, alpha: float) -> Self:
        """Learn from the reference set.

        Args:
            embeddings: float32 (M, D), one row per reference image.
            genera: str (M,), one genus per row. A genus that starts with `_` is a reject class.
            alpha: the largest fraction of the fossils of a genus that may be left unknown.

        Returns:
            The head itself.
        """

    def fit_with_crop_like(
        self, embeddings: Float32Array, genera: StrArray, alpha: float, crop_like: Float32Array
    ) -> Self:
        """Learn from the reference set in two versions. A run calls this method. Default: `fit`, without `crop_like`.

        A reference image is sharper than a crop of a slide. A head overrides this method to learn from both versions.

        Args:
            embeddings: float32 (M, D), one row per reference image.
            genera: str (M,), as in `fit`.
            alpha: as in `fit`.
            crop_like: float32 (M, D), the embeddings of the same images after resizing and compression as a crop of
                a slide.

        Returns:
            The head itself.
        """
        return self.fit(embeddings, genera, alpha)

    @abstractmethod
    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide about embeddings. A decision must not depend on the other embeddings of the call.

        Args:
            embeddings: float32 (N, D). N may be 0.

        Returns:
            One decision per row.
        """
