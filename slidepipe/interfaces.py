"""What a plugin is: the three interfaces (backbone, head, detector) and the data that passes through them.

Plain arrays and small dataclasses, so that a plugin needs nothing of slidepipe but these shapes. Importing this module
imports numpy and nothing heavier.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
StrArray = npt.NDArray[np.str_]

Fit = Literal["squeeze", "pad"]


@runtime_checkable
class Backbone(Protocol):
    """Turns crops into embeddings.

    Class attributes are read without importing anything heavy: keep ``import torch`` inside :meth:`load`.
    A backbone with settings has a pydantic model named ``Settings`` on the class and takes one in its constructor
    (``Name(settings)``); without one the constructor takes nothing. A ``Settings`` with a ``weights`` field
    (a path or None) receives ``--weights``. After :meth:`load`, the optional attribute ``weights_sha256`` goes to the manifest.
    """

    name: ClassVar[str]
    dim: int
    """Length of an embedding (known at the latest after :meth:`load`)."""
    input_px: int
    """Side of the square crops that :meth:`embed` is given by a run."""
    license: ClassVar[str]
    source: ClassVar[str]

    # Optional attributes: ``fit: Fit = "squeeze"``, how a crop that is not square becomes square; ``views: int = 8``, over how
    # many flips and turns an embedding is averaged unless the user says so (1 where it does not depend on them: it is then shown
    # four poses of an object that is alone).

    def load(self, device: str) -> Self:
        """Find, verify and load the weights onto ``device`` ("cpu", "cuda", "cuda:1"). Missing weights are an error."""
        ...

    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed ``crops``, uint8 (N, H, W, 3) sRGB, into float32 (N, dim). N may be 0. Preprocessing is the backbone's own."""
        ...


@dataclass(frozen=True)
class Region:
    """A piece of a slide as a detector sees it.

    Attributes:
        rgb: uint8 (H, W, 3), unscanned pixels in the slide's background colour.
        scanned: bool (H, W), False where the scanner never looked (and beyond the scan's bounds).
        mpp: micrometres a pixel of ``rgb``.
    """

    rgb: UInt8Array
    scanned: BoolArray
    mpp: float


@dataclass(frozen=True)
class Detections:
    """Objects found in one region; arrays of one length N.

    Attributes:
        boxes: float64 (N, 4), x0, y0, x1, y1 half-open in pixels of the region.
        owner: float64 (N, 2), the x, y point whose block owns the object: the box centre, or, for a part of a clump
            that was split, the clump's centre (so that one block sees the whole clump and emits all its parts).
        area: float64 (N,), area of the object's mask in pixels of the region.
        score: float64 (N,), 0 to 1.
        cut: bool (N,), True where the object touches pixels that were not scanned.
    """

    boxes: FloatArray
    owner: FloatArray
    area: FloatArray
    score: FloatArray
    cut: BoolArray


@runtime_checkable
class Detector(Protocol):
    """Finds objects in a region of a slide.

    The law a detector keeps: what it says of an object depends only on the pixels within ``halo_um`` of the object's
    ``owner`` point, and on where regions start only modulo ``align_px``. slidepipe reads each block with that halo and keeps
    an object in the block whose core holds its owner point, so boxes do not depend on block size, workers or order.
    """

    name: ClassVar[str]
    mpp: float
    """The resolution it wants, in micrometres a pixel; the nearest pyramid level is read and averaged down to it."""
    halo_um: float
    align_px: int
    """Regions start on multiples of this many region pixels, counted from the corner of the scan's bounds."""

    def detect(self, region: Region) -> Detections:
        """All objects of the region, those in the halo too."""
        ...


@dataclass(frozen=True)
class Decisions:
    """What a head says of N embeddings.

    Attributes:
        genus: str (N,), the best genus, also where it is not accepted.
        accepted: bool (N,), False where the head abstains (the object is ``unknown``).
        p_value: float64 (N,), how usual the object is among the references of its best genus (conformal, 0 to 1).
        distance: float64 (N,), to the nearest reference of that genus, in the head's metric.
        neighbours: int64 (N, k), rows of the reference set, nearest first.
        neighbour_distances: float64 (N, k).
    """

    genus: StrArray
    accepted: BoolArray
    p_value: FloatArray
    distance: FloatArray
    neighbours: IntArray
    neighbour_distances: FloatArray


@runtime_checkable
class Head(Protocol):
    """Assigns a genus to an embedding, or abstains. ``Settings`` as for a backbone."""

    name: ClassVar[str]

    def fit(self, embeddings: Float32Array, genera: StrArray, alpha: float) -> Self:
        """Learn from the reference set: float32 (M, D) and one genus a row; ``alpha`` is the accepted share of missed fossils."""
        ...

    def predict(self, embeddings: Float32Array) -> Decisions:
        """Decide on float32 (N, D); N may be 0."""
        ...


class CropHead(Head, Protocol):
    """What a head can be besides: where its attribute ``fits_crops`` is True, it is fitted to the references as crops, too."""

    fits_crops: ClassVar[bool]

    def fit(
        self, embeddings: Float32Array, genera: StrArray, alpha: float, crop_like: Float32Array | None = None
    ) -> Self:
        """As :meth:`Head.fit`; `crop_like`, float32 (M, D), are the same references reduced and compressed as crops are."""
        ...


SettingsDict = dict[str, Any]
