"""The SCAMPI backbones: vision transformers trained on millions of palynomorph crops without labels (DINO)."""

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


class _Scampi(NamedBackbone):
    license = "see the model page of IverMartinsen/scampi-dino-vits16 on the Hugging Face hub"
    source = "Martinsen et al., SFI Visual Intelligence (UiT) and Equinor: scampi-benchmark"
    pretrained: ClassVar[Pretrained] = Pretrained(
        PUBLISHED_INPUT_PX, PUBLISHED_INPUT_PX / PUBLISHED_RESIZE_PX, IMAGENET_MEAN, IMAGENET_STD
    )


class ScampiViTS16(_Scampi):
    """SCAMPI ViT-S/16."""

    name = "scampi-vits16"
    dim = 384
    architecture = "vit_small_patch16_224"
    files = (HubFile("IverMartinsen/scampi-dino-vits16", "vit_small_backbone.pth"),)


class ScampiViTB16(_Scampi):
    """SCAMPI ViT-B/16."""

    name = "scampi-vitb16"
    dim = 768
    architecture = "vit_base_patch16_224"
    # The paper and the code of the authors name different repositories.
    files = (
        HubFile("IverMartinsen/scampi-dino-vits16", "vit_base_backbone.pth"),
        HubFile("IverMartinsen/scampi-dino-vitb16", "vit_base_backbone.pth"),
    )
