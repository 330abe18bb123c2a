"""Settings of a torch backbone, and what they come to for one network."""

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
    """Settings of a torch backbone; None means what the network's own pretrained config says.

    Attributes:
        weights: a .pth or .safetensors file; None fetches the published weights.
        checkpoint_entry: the entry of a training checkpoint to take ("student"); None prefers the teacher.
        sha256: what the weight file's SHA-256 must be.
        revision: commit, tag or branch of the hub repository.
        model_kwargs: passed to the builder of the network.
        mean, std: per channel, of intensities 0 to 1.
        resize_px: side that crops are brought to, both sides, before the centre crop; a run delivers them so.
        input_px: side of the centre crop that the network sees.
        pool: how tokens or positions become one embedding; None is the network's own way.
        preprocessing: "published" is the benchmark's protocol to the digit: Pillow's bicubic to 256 x 256, centre crop
            224, ImageNet mean and standard deviation, float32 on any device. "run" resizes (if it must) and normalises
            on the device, in bfloat16 on a GPU.
        fit: how a crop becomes square; None pads in "run" (a squeezed object is another shape; measured on wells) and
            squeezes in "published".
        batch: crops that go through the network at once.
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
    """What a network's pretrained config says of its input: side in pixels, share of it kept by the crop, mean, std."""

    input_px: int
    crop_share: float
    mean: Channels
    std: Channels


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a crop to the network's input.

    Attributes:
        resize_px: both sides of the crop become this.
        input_px: side of the centre crop.
        mean, std: per channel, of intensities 0 to 1.
        exact: Pillow's resize and float32 everywhere.
    """

    resize_px: int
    input_px: int
    mean: Channels
    std: Channels
    exact: bool


def preprocessing_of(settings: TorchSettings, pretrained: Pretrained, name: str) -> Preprocessing:
    """Resolve the settings against a network's config; a setting that is given wins over either mode's default.

    Raises:
        SettingsError: the centre crop is larger than what it is cut from.
    """
    exact = settings.preprocessing == "published"
    if exact:
        input_px = settings.input_px or PUBLISHED_INPUT_PX
        # An own input size keeps the protocol's proportion unless the other size is given too.
        resize_px = settings.resize_px or round(input_px * PUBLISHED_RESIZE_PX / PUBLISHED_INPUT_PX)
        mean, std = settings.mean or IMAGENET_MEAN, settings.std or IMAGENET_STD
    else:
        input_px = settings.input_px or pretrained.input_px
        resize_px = settings.resize_px or int(input_px / pretrained.crop_share)  # rounded down, as timm does
        mean, std = settings.mean or pretrained.mean, settings.std or pretrained.std
    if input_px > resize_px:
        raise SettingsError(
            f"backbone {name!r}: input_px {input_px} is larger than resize_px {resize_px}: raise resize_px"
        )
    return Preprocessing(resize_px, input_px, mean, std, exact)
