"""A reader for a made-up format, as a plugin file: an image uint8 (H, W, 3) in a .npy file, at 1 um per pixel."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from slidepipe.errors import SlideError
from slidepipe.interfaces import BoolArray, UInt8Array
from slidepipe.slides.geometry import Box, Level, SlideMeta
from slidepipe.slides.reader import SlideReader


class NpyReader(SlideReader):
    name = "npy"
    suffixes: ClassVar[frozenset[str]] = frozenset({".npy"})

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            self._image = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise SlideError(f"{path}: cannot be read ({error}). Save it again with numpy.save") from error
        height, width = self._image.shape[:2]
        self.meta = SlideMeta(
            path=path,
            vendor="npy",
            width_px=width,
            height_px=height,
            mpp_x=mpp or 1.0,
            mpp_y=mpp or 1.0,
            objective_power=None,
            bounds=Box(0, 0, width, height),
            background=(255, 255, 255),
            levels=(Level(0, width, height, 1.0, 1.0, 1.0),),
        )

    def read(self, level: Level, x: int, y: int, width: int, height: int) -> tuple[UInt8Array, BoolArray]:
        rgb = np.full((height, width, 3), 255, np.uint8)
        scanned = np.zeros((height, width), np.bool_)
        inside = Box(x, y, x + width, y + height).intersection(self.meta.bounds)
        place = np.s_[inside.y0 - y : inside.y1 - y, inside.x0 - x : inside.x1 - x]
        rgb[place] = self._image[inside.y0 : inside.y1, inside.x0 : inside.x1]
        scanned[place] = True
        return rgb, scanned

    def close(self) -> None:
        """Do nothing: numpy closes the file with the array."""
