"""Loading of pretrained backbones: found, converted, counted, and refused if broken."""

from .pretrained import PretrainedBackbone
from .swin_official import from_official_swin, is_official_swin

__all__ = ['PretrainedBackbone', 'from_official_swin', 'is_official_swin']
