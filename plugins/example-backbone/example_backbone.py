"""A backbone that embeds a crop as the histogram of its colours."""

from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from slidepipe.interfaces import Backbone


class ColourHistogram(Backbone):
    """Embed a crop as the square root of its joint histogram of red, green and blue.

    Because of the square root, the Euclidean distance between embeddings is the Hellinger distance between histograms.
    """

    name = "colour-histogram"
    input_px = 64
    license = "Apache-2.0"
    source = "an example"

    class Settings(BaseModel):
        """The number of bins per channel. An embedding has `bins` cubed numbers."""

        model_config = ConfigDict(extra="forbid")

        bins: int = Field(4, ge=2, le=16)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dim = settings.bins**3

    def load(self, device: str) -> Self:
        """Return the backbone. A network would import torch and read its weights here."""
        return self

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embed crops, uint8 (N, H, W, 3), as float32 (N, bins cubed)."""
        bins = self.settings.bins
        levels = crops.astype(np.int64) * bins // 256
        cells = (levels[..., 0] * bins + levels[..., 1]) * bins + levels[..., 2]
        counts = np.zeros((len(crops), self.dim), np.float32)
        for row, crop_cells in zip(counts, cells, strict=True):
            row += np.bincount(crop_cells.ravel(), minlength=self.dim) / crop_cells.size
        return np.sqrt(counts)
