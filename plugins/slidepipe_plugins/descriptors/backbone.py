"""The backbone `descriptors`: colour and the joint statistics of edges, ridges and spots (see `features`)."""

from typing import Self

import numpy as np

from slidepipe.interfaces import Backbone, Float32Array, UInt8Array
from slidepipe_plugins.descriptors.features import DIM, SIDE_PX, describe


class DescriptorBackbone(Backbone):
    """Embed crops by fixed image statistics, on one thread of the CPU, with numpy only.

    Except for rounding, an embedding depends neither on the other crops of a batch nor on flips and quarter turns of its
    crop. Embeddings are compared by Euclidean distance.
    """

    name = "descriptors"
    dim = DIM
    input_px = SIDE_PX
    fit = "pad"
    orientation_invariant = True
    license = "Apache-2.0"
    source = (
        "computed by slidepipe_plugins.descriptors: optical density, log-covariance of derivatives, colour; no weights"
    )

    def load(self, device: str) -> Self:
        """Return the backbone: there are no weights. `device` is ignored; the CPU is always used."""
        return self

    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed crops.

        Args:
            crops: uint8 (N, H, W, 3), sRGB. Crops of another size are resized to `input_px` x `input_px`.

        Returns:
            float32 (N, dim).

        Raises:
            ValueError: the crops have another dtype or shape.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
            raise ValueError(f"crops must be uint8 (N, H, W, 3), got {crops.dtype} {crops.shape}")
        embeddings = np.empty((len(crops), DIM), dtype=np.float32)
        for row, crop in zip(embeddings, crops, strict=True):
            row[:] = describe(crop)
        return embeddings
