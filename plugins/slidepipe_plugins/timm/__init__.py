"""Backbones that timm builds: any model by name, any timm model on the Hugging Face hub, and the base they share."""

from slidepipe_plugins.timm.backbone import HubBackbone, NamedBackbone, TimmBackbone, TorchBackbone
from slidepipe_plugins.timm.settings import TorchSettings

__all__ = ["HubBackbone", "NamedBackbone", "TimmBackbone", "TorchBackbone", "TorchSettings"]
