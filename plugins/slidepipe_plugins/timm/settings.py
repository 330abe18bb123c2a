"""Settings of a torch backbone, and the preprocessing that follows from them for a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slidepipe.errors import SettingsError

Channels = tuple[float, float, float]
Deviations = tuple[
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
PUBLISHED_RESIZE_PX = 256
PUBLISHED_INPUT_PX = 224


class TorchSettings(BaseModel):
    """Settings of a torch backbone. None means the value in the pretrained config of the network.

    Attributes:
        weights: a .pth or .safetensors file. None fetches the published weights.
        checkpoint_entry: the entry of a training checkpoint to use, for example `student`. None prefers the teacher.
        sha256: the expected SHA-256 of the weights file.
        revision: commit, tag or branch of the hub repository.
        model_kwargs: arguments for the builder of the network.
        mean, std: mean and standard deviation per channel, of intensities from 0 to 1.
        resize_px: side to which both sides of a crop are resized before the centre crop; in a run, crops have this side.
        input_px: side of the centre crop, the input of the network.
        pool: how tokens or positions become one embedding. None uses the pooling of the network.
        preprocessing: `published` is the exact protocol of the benchmark: Pillow's bicubic filter to 256 x 256, centre crop
            224, ImageNet mean and standard deviation, float32 on any device. `run` resizes (if necessary) and normalises on
            the device, in bfloat16 on a GPU.
        fit: how a crop becomes square. None is `pad` with `run` (squeezing changes the shape of an object, which cost accuracy
            on wells) and `squeeze` with `published`.
        batch: number of crops per forward pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    weights: Path | None = None
    checkpoint_entry: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    revision: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    mean: Channels | None = None
    std: Deviations | None = None
    resize_px: Annotated[int, Field(ge=8, le=4096)] | None = None
    input_px: Annotated[int, Field(ge=8, le=4096)] | None = None
    pool: Literal["token", "avg", "token+avg"] | None = None
    preprocessing: Literal["published", "run"] = "run"
    fit: Literal["squeeze", "pad"] | None = None
    batch: Annotated[int, Field(ge=1, le=65536)] = 64


@dataclass(frozen=True)
class Pretrained:
    """The input of a network according to its pretrained config.

    Attributes:
        input_px: side of the input, in pixels.
        crop_share: side of the input as a fraction of the side before the centre crop.
        mean, std: per channel, of intensities from 0 to 1.
    """

    input_px: int
    crop_share: float
    mean: Channels
    std: Channels


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a crop to the input of the network.

    Attributes:
        resize_px: side to which both sides of the crop are resized, in pixels.
        input_px: side of the centre crop, in pixels.
        mean, std: per channel, of intensities from 0 to 1.
        exact: whether Pillow resizes, and float32 is used on every device.
    """

    resize_px: int
    input_px: int
    mean: Channels
    std: Channels
    exact: bool


def preprocessing_of(settings: TorchSettings, pretrained: Pretrained, name: str) -> Preprocessing:
    """Return the preprocessing that follows from the settings. A setting that is given overrides all defaults.

    Args:
        settings: the settings.
        pretrained: the input according to the config of the network.
        name: name of the backbone, for messages.

    Raises:
        SettingsError: the centre crop is larger than the resized crop.
    """
    exact = settings.preprocessing == "published"
    if exact:
        input_px = settings.input_px or PUBLISHED_INPUT_PX
        # If only the input size is given, the proportion of the protocol is kept.
        resize_px = settings.resize_px or round(input_px * PUBLISHED_RESIZE_PX / PUBLISHED_INPUT_PX)
        mean, std = settings.mean or IMAGENET_MEAN, settings.std or IMAGENET_STD
    else:
        input_px = settings.input_px or pretrained.input_px
        resize_px = settings.resize_px or int(input_px / pretrained.crop_share)  # rounded down, as timm does
        mean, std = settings.mean or pretrained.mean, settings.std or pretrained.std
    if input_px > resize_px:
        raise SettingsError(
            f"backbone {name!r}: input_px {input_px} is larger than resize_px {resize_px}. Increase resize_px"
        )
    return Preprocessing(resize_px, input_px, mean, std, exact)
