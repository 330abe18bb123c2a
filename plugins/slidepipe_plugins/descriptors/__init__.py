"""The default backbone: descriptors that are computed, not learned, so it needs no weights."""

from slidepipe_plugins.descriptors.backbone import DescriptorBackbone

__all__ = ["DescriptorBackbone"]
