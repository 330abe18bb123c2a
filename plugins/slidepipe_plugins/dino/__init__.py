"""The DINO backbones of the SCAMPI benchmark: vision transformers trained on ImageNet without labels."""

from typing import ClassVar

from slidepipe.weights import HubFile
from slidepipe_plugins.timm import NamedBackbone
from slidepipe_plugins.timm.settings import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PUBLISHED_INPUT_PX,
    PUBLISHED_RESIZE_PX,
    Pretrained,
)


def _files(architecture: str) -> tuple[HubFile, ...]:
    return tuple(HubFile(f"timm/{architecture}", name) for name in ("model.safetensors", "pytorch_model.bin"))


class _Dino(NamedBackbone):
    license = "Apache-2.0"
    source = "Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers; weights as timm ships them"
    # The config of timm crops 224 pixels out of 248. The published table was computed with 224 out of 256.
    pretrained: ClassVar[Pretrained] = Pretrained(
        PUBLISHED_INPUT_PX, PUBLISHED_INPUT_PX / PUBLISHED_RESIZE_PX, IMAGENET_MEAN, IMAGENET_STD
    )


class DinoViTS16(_Dino):
    """DINO ViT-S/16."""

    name = "dino-vits16"
    dim = 384
    architecture = "vit_small_patch16_224.dino"
    files = _files(architecture)


class DinoViTS8(_Dino):
    """DINO ViT-S/8."""

    name = "dino-vits8"
    dim = 384
    architecture = "vit_small_patch8_224.dino"
    files = _files(architecture)


class DinoViTB16(_Dino):
    """DINO ViT-B/16."""

    name = "dino-vitb16"
    dim = 768
    architecture = "vit_base_patch16_224.dino"
    files = _files(architecture)


class DinoViTB8(_Dino):
    """DINO ViT-B/8."""

    name = "dino-vitb8"
    dim = 768
    architecture = "vit_base_patch8_224.dino"
    files = _files(architecture)
