"""The ``descriptors`` backbone: colour and the joint statistics of edges, ridges and spots (see ``features``)."""

from typing import Self

import numpy as np

from slidepipe.interfaces import Backbone, Float32Array, UInt8Array
from slidepipe_plugins.descriptors.features import DIM, SIDE_PX, describe


class DescriptorBackbone(Backbone):
    """Embeds a crop by fixed image statistics. Works on the CPU, at one thread, with numpy alone.

    An embedding does not depend on the batch it is computed in, nor on how the crop is turned or flipped (but for rounding).
    Plain Euclidean distances between embeddings are meaningful; every embedding has the same length.
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
        """Nothing to load; ``device`` is accepted and the CPU is used, which is fast enough here."""
        return self

    def embed(self, crops: UInt8Array) -> Float32Array:
        """Embed uint8 (N, H, W, 3) sRGB into float32 (N, dim); crops that are not ``input_px`` square are squeezed to it.

        Raises:
            ValueError: the crops are not uint8 (N, H, W, 3).
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
            raise ValueError(f"crops must be uint8 (N, H, W, 3), got {crops.dtype} {crops.shape}")
        embeddings = np.empty((len(crops), DIM), dtype=np.float32)
        for row, crop in zip(embeddings, crops, strict=True):
            row[:] = describe(crop)
        return embeddings
