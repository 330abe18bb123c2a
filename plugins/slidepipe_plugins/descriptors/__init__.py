"""The default backbone: computed image descriptors, without learned weights."""

from slidepipe_plugins.descriptors.backbone import DescriptorBackbone

__all__ = ["DescriptorBackbone"]
