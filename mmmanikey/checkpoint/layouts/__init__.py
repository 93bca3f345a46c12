"""Layouts: how other projects name and order the weights of Swin and ViT.

Each is an object with a ``name``, the name of its ``patch_embedding``'s weight, by
which backbones are found in files, ``matches(state_dict)``, which looks at names alone,
``to_ours(state_dict)`` and, where there is a way back, ``from_ours(state_dict)``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from mmengine.logging import MMLogger
from torch import Tensor

from .hugging_face import TransformersSwin, TransformersSwinBackbone, TransformersViT
from .names import Conversion
from .own import MMDetSwin, Own
from .swin import MicrosoftSwin, TimmSwin
from .torchvision import TorchvisionSwin, TorchvisionViT
from .vit import MAE, TimmViT, ViTDet

__all__ = [
    'LAYOUTS',
    'TARGETS',
    'Conversion',
    'find_layout',
    'from_ours',
    'reasons',
    'to_ours',
]


class Layout(Protocol):
    """What can be read."""

    name: str
    patch_embedding: str

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool: ...

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion: ...


#: What can be read; the first that matches counts, so the particular come first.
LAYOUTS: tuple[Layout, ...] = (
    Own(),
    MicrosoftSwin(),
    TimmSwin(),
    MAE(),
    ViTDet(),
    TimmViT(),
    TransformersSwin(),
    TransformersSwinBackbone(),
    TransformersViT(),
    TorchvisionSwin(),
    TorchvisionViT(),
)
#: What can be written, for a Swin and for a ViT.
TARGETS = dict(timm=(TimmSwin(), TimmViT()), mmdet=(MMDetSwin(), MMDetSwin()))


def find_layout(state_dict: Mapping[str, Tensor]) -> Layout | None:
    """The layout of a backbone's weights, without prefix; None if it is not known."""
    return next((layout for layout in LAYOUTS if layout.matches(state_dict)), None)


def to_ours(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a backbone's weights of any known layout, and log what is left out.

    Args:
        state_dict (Mapping[str, Tensor]): Weights without prefix. Not changed.

    Returns:
        dict[str, Tensor]: State dict for our backbones. Names of our own layout, but
        for heads and the like, or of none that is known, are left as they are.

    Raises:
        ValueError: If our backbone has no place for a weight of a known layout.
    """
    layout = find_layout(state_dict)
    if layout is None:
        return dict(state_dict)
    weights, dropped = layout.to_ours(state_dict)
    if dropped:
        MMLogger.get_current_instance().info(
            f'weights of the {layout.name} layout, without {reasons(dropped)}'
        )
    return weights


def from_ours(state_dict: Mapping[str, Tensor], target: str) -> Conversion:
    """Convert weights of a backbone of ours, with the stock key, for another project.

    Args:
        state_dict (Mapping[str, Tensor]): Weights without prefix. Not changed.
        target (str): ``'timm'`` or ``'mmdet'``.

    Returns:
        Conversion: The weights, and what the other project has no use for.

    Raises:
        ValueError: If a key is a manifold, the target is unknown, or it has no place
            for a weight.
    """
    if target not in TARGETS:
        raise ValueError(f'target must be one of {sorted(TARGETS)}, got {target!r}')
    swin, vit = TARGETS[target]
    is_swin = any(name.startswith('stages.') for name in state_dict)
    return (swin if is_swin else vit).from_ours(state_dict)


def reasons(dropped: Mapping[str, str]) -> str:
    """How many weights were left out for which reason, as text."""
    counts = Counter(dropped.values())
    return ', '.join(f'{count} ({reason})' for reason, count in counts.items())
