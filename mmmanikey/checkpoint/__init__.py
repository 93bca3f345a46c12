"""Loading of pretrained backbones: found, converted, counted, and refused if broken."""

from .describe import describe_backbone
from .files import CheckpointError, atomic_save, read_checkpoint
from .layouts import find_layout, from_ours, to_ours
from .pretrained import PretrainedBackbone
from .publish import publishable

__all__ = [
    'CheckpointError',
    'PretrainedBackbone',
    'atomic_save',
    'describe_backbone',
    'find_layout',
    'from_ours',
    'publishable',
    'read_checkpoint',
    'to_ours',
]
