"""Loading of pretrained backbones: found, converted, counted, and refused if broken."""

from .describe import describe_backbone
from .files import CheckpointError, atomic_save, read_checkpoint
from .layouts import find_layout, from_ours, to_ours
from .layouts.swin import from_official_swin, is_official_swin
from .pretrained import PretrainedBackbone
from .publish import publishable

__all__ = [
    'CheckpointError',
    'PretrainedBackbone',
    'atomic_save',
    'describe_backbone',
    'find_layout',
    'from_official_swin',
    'from_ours',
    'is_official_swin',
    'publishable',
    'read_checkpoint',
    'to_ours',
]
