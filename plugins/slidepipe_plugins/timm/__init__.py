"""Backbones that are built by timm: any model by its name, any timm model on the Hugging Face hub, and their base classes."""

from slidepipe_plugins.timm.backbone import HubBackbone, NamedBackbone, TimmBackbone, TorchBackbone
from slidepipe_plugins.timm.settings import TorchSettings

__all__ = ["HubBackbone", "NamedBackbone", "TimmBackbone", "TorchBackbone", "TorchSettings"]
