"""The YOLO detector: the model runs on tiles of a fixed grid, and duplicates of neighbouring tiles are removed locally."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slidepipe.errors import PluginError, SettingsError, WeightsError
from slidepipe.interfaces import Detections, Detector
from slidepipe.weights import sha256_of
from slidepipe_plugins.yolo.boxes import Layout, layout_of, parse, remove_duplicates, suppress

if TYPE_CHECKING:
    from slidepipe.interfaces import BoolArray, FloatArray, Region, UInt8Array

FILL = 255
"""Level of the pixels of a tile that lie outside the region."""

_SHARE_OF_BOX = math.pi / 4
"""Area of an ellipse as a fraction of its box. The model returns no outline, and fossils are rather ellipses than rectangles."""


class YoloDetector(Detector):
    """Detect objects with a model of the YOLO family that was exported to ONNX: `yolo:FILE.onnx`.

    The slide is cut into tiles of the input size of the model, on a grid that is fixed to the bounds of the scan. The core of
    a tile is the tile without `overlap_px` on each side. A tile reports the boxes whose centre lies in its core or at most
    half of `overlap_px` outside it. If two tiles report the same object, the box with the higher score is kept. So an object
    depends only on pixels within the distance of two cores and their margins, which is `halo_um`.
    """

    name = "yolo"
    takes_argument = True
    argument_name = "FILE.onnx"

    class Settings(BaseModel):
        """Settings.

        Attributes:
            mpp: micrometres per pixel of the images that the model was trained on.
            score: lowest score of an object.
            iou: overlap (intersection over union) above which two boxes of a tile are the same object.
            overlap_px: margin of a tile outside its core, in pixels; at least half the largest object. None is a quarter of
                the tile.
            tile_px: side of a tile, in pixels, for a model that accepts any size.
            layout: layout of the output of the model; `auto` decides by its shape.
            classes: numbers of the classes to keep; None keeps all.
            invert: invert the colours, for models trained on bright objects.
            threads: number of threads of onnxruntime per worker.
        """

        model_config = ConfigDict(extra="forbid", frozen=True)

        mpp: Annotated[float, Field(gt=0)] = 1.0
        score: Annotated[float, Field(gt=0, lt=1)] = 0.25
        iou: Annotated[float, Field(gt=0, lt=1)] = 0.45
        overlap_px: Annotated[int, Field(ge=1)] | None = None
        tile_px: Annotated[int, Field(ge=32, le=8192, multiple_of=32)] | None = None
        layout: Literal["auto", "v5", "v8", "end2end"] = "auto"
        classes: tuple[int, ...] | None = None
        invert: bool = False
        threads: Annotated[int, Field(ge=1)] = 1

        @model_validator(mode="after")
        def _classes_named(self) -> Self:
            if self.classes is not None and not self.classes:
                raise ValueError("classes is empty. Name a class, or remove the setting")
            return self

    def __init__(self, settings: Settings, argument: str) -> None:
        self.settings = settings
        self.path = Path(argument)
        self._session, size = _open(self.path, settings.threads)
        self._input = self._session.get_inputs()[0]
        height, width = (fixed or settings.tile_px or 640 for fixed in size)
        if settings.tile_px and any(size) and (height, width) != (settings.tile_px, settings.tile_px):
            raise SettingsError(
                f"detector yolo: tile_px is {settings.tile_px}, but {self.path} takes {height} x {width}. Remove tile_px"
            )
        self.weights_sha256 = sha256_of(self.path)
        self.height_px, self.width_px = height, width
        self.tile_px = min(height, width)
        self.overlap_px = settings.overlap_px or self.tile_px // 4
        if 2 * self.overlap_px >= self.tile_px:
            raise SettingsError(
                f"detector yolo: overlap_px {self.overlap_px} leaves no core of tiles of {self.tile_px} px. Reduce overlap_px"
            )
        self.mpp = settings.mpp
        self.align_px = self.tile_px - 2 * self.overlap_px
        # The owner point lies at most half a margin outside the core of its tile. A neighbouring tile, which may have a better
        # box, ends one core and one margin further away.
        self.halo_um = (2 * self.align_px + 2 * self.overlap_px) * settings.mpp

    def detect(self, region: Region) -> Detections:
        """Find the objects of a region. The area is that of the ellipse in the box, because the model returns no outline.

        Args:
            region: the pixels.

        Raises:
            PluginError: the output of the model has no known layout.
        """
        boxes, scores, tiles = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)]
        for number, (x, y) in enumerate(self._tiles(region.scanned)):
            found, score = self._detect_in_tile(region, x, y)
            boxes.append(found)
            scores.append(score)
            tiles.append(np.full(len(found), float(number)))
        box, score, tile = np.concatenate(boxes), np.concatenate(scores), np.concatenate(tiles)
        keep = remove_duplicates(box, score, tile)
        return _detections(box[keep], score[keep], region.scanned)

    def _tiles(self, scanned: BoolArray) -> Iterator[tuple[int, int]]:
        """Yield the corners of the cores near scanned pixels.

        A region starts on a multiple of `align_px`, so the tiles of all regions lie on the same grid.
        """
        height, width = scanned.shape
        for y in range(0, height, self.align_px):
            for x in range(0, width, self.align_px):
                near = scanned[
                    max(0, y - self.overlap_px) : y + self.align_px + self.overlap_px,
                    max(0, x - self.overlap_px) : x + self.align_px + self.overlap_px,
                ]
                if near.any():
                    yield x, y

    def _detect_in_tile(self, region: Region, x: int, y: int) -> tuple[FloatArray, FloatArray]:
        """Return the boxes (n, 4), in pixels of the region, and the scores (n,) of the tile whose core starts at x, y."""
        left, top = x - self.overlap_px, y - self.overlap_px
        pixels = _window(region.rgb, left, top, self.tile_px)
        output = self._session.run(None, {self._input.name: self._prepare(pixels)})
        boxes, scores = parse(*self._read(output), self.settings.classes)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        low, high = self.overlap_px / 2, self.tile_px - self.overlap_px / 2
        mine = (scores >= self.settings.score) & ((middle >= low) & (middle < high)).all(axis=1)
        mine &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
        boxes, scores = boxes[mine], scores[mine].clip(0, 1)
        keep = suppress(boxes, scores, self.settings.iou)
        return boxes[keep] + np.array([left, top, left, top]), scores[keep]

    def _prepare(self, pixels: UInt8Array) -> Any:
        if self.settings.invert:
            pixels = 255 - pixels
        canvas = np.full((self.height_px, self.width_px, 3), 114, np.uint8)  # the grey of the padding in YOLO training
        canvas[: self.tile_px, : self.tile_px] = pixels
        batch = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
        if self._input.type == "tensor(uint8)":
            return batch
        return (batch / 255).astype(np.float16 if self._input.type == "tensor(float16)" else np.float32)

    def _read(self, outputs: list[Any]) -> tuple[FloatArray, Layout]:
        shapes = [np.shape(output) for output in outputs]
        for output, shape in zip(outputs, shapes, strict=True):
            layout = self.settings.layout
            found = layout_of(shape, self.height_px, self.width_px) if layout == "auto" else layout
            if found is not None and len(shape) == 3 and shape[0] == 1 and min(shape[1:]) >= 5:
                return np.asarray(output, np.float64), found
        raise PluginError(
            f"{self.path}: outputs of shape {', '.join(map(str, shapes))} are not those of a YOLO model. "
            "Export a detection model, or set layout in detector.settings"
        )


def _open(path: Path, threads: int) -> tuple[Any, tuple[int | None, int | None]]:
    """Open the model. Return the session, and the height and width of the input, each None if it is not fixed."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such model file. Check the path after yolo:")
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError("detector yolo needs onnxruntime. Run pip install 'slidepipe[yolo]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of onnxruntime have no common base class
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: not an ONNX model that onnxruntime can run ({reason}). Export it again") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    # The size of a side that is not fixed is None or a name.
    if len(shape) != 4 or shape[1] != 3 or (isinstance(shape[0], int) and shape[0] != 1):
        taken = ", ".join(str(one.shape) for one in inputs)
        raise WeightsError(
            f"{path}: the input of the model is {taken}. Export it with an input of one image (1, 3, H, W)"
        )
    height, width = (side if isinstance(side, int) else None for side in shape[2:])
    return session, (height, width)


def _window(rgb: UInt8Array, left: int, top: int, side_px: int) -> UInt8Array:
    height, width = rgb.shape[:2]
    pixels = np.full((side_px, side_px, 3), FILL, np.uint8)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side_px, width), min(top + side_px, height)
    pixels[y0 - top : y1 - top, x0 - left : x1 - left] = rgb[y0:y1, x0:x1]
    return pixels


def _detections(boxes: FloatArray, scores: FloatArray, scanned: BoolArray) -> Detections:
    height, width = scanned.shape
    owner = (boxes[:, :2] + boxes[:, 2:]) / 2  # the centre of the whole box, because clipping depends on the region
    inside = ((owner >= 0) & (owner < (width, height))).all(axis=1)
    boxes, scores, owner = boxes[inside], scores[inside], owner[inside]
    limits = np.array([width, height, width, height], np.float64)
    clipped = boxes.clip(0, limits)
    cut = (clipped != boxes).any(axis=1)
    for row, (x0, y0, x1, y1) in enumerate(clipped):
        part = scanned[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]
        cut[row] |= not part.all()
    area = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) * _SHARE_OF_BOX
    return Detections(boxes=clipped, owner=owner, area=area, score=scores, cut=cut)
