"""A backbone that embeds a crop as the histogram of its colours."""

from typing import ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class ColourHistogram:
    """Joint histogram of red, green and blue; the square root makes Euclidean distance a fair measure (Hellinger)."""

    name: ClassVar[str] = "colour-histogram"
    input_px: int = 64
    license: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "an example"

    class Settings(BaseModel):
        """``bins`` a channel, so bins cubed numbers an embedding."""

        model_config = ConfigDict(extra="forbid")

        bins: int = Field(4, ge=2, le=16)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dim = settings.bins**3

    def load(self, device: str) -> Self:
        """Nothing to load; a network would import torch here and read its weights."""
        return self

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embed uint8 (N, H, W, 3) into float32 (N, bins cubed)."""
        bins = self.settings.bins
        levels = crops.astype(np.int64) * bins // 256
        cells = (levels[..., 0] * bins + levels[..., 1]) * bins + levels[..., 2]
        counts = np.zeros((len(crops), self.dim), np.float32)
        for row, crop_cells in zip(counts, cells, strict=True):
            row += np.bincount(crop_cells.ravel(), minlength=self.dim) / crop_cells.size
        return np.sqrt(counts)
