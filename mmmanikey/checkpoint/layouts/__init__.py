"""Layouts: how other projects name and order the weights of Swin and ViT."""

from collections.abc import Mapping

from mmengine.logging import MMLogger
from torch import Tensor

from .hugging_face import TransformersSwin, TransformersSwinBackbone, TransformersViT
from .layout import Conversion, Layout, below, count_reasons
from .own import MMClsSwin, MMDetSwin, MMSegViT, Own
from .swin import MicrosoftSwin, TimmSwin
from .torchvision import TorchvisionSwin, TorchvisionViT
from .vit import MAE, TimmViT, ViTDet

__all__ = [
    'LAYOUTS',
    'TARGETS',
    'Conversion',
    'Layout',
    'below',
    'count_reasons',
    'find_layout',
    'from_ours',
    'to_ours',
]

#: What can be read; the first that matches counts, so the particular come first. A
#: project may add its own.
LAYOUTS: list[Layout] = [
    MMSegViT(),
    Own(),
    MicrosoftSwin(),
    TimmSwin(),
    MMClsSwin(),
    MAE(),
    ViTDet(),
    TimmViT(),
    TransformersSwin(),
    TransformersSwinBackbone(),
    TransformersViT(),
    TorchvisionSwin(),
    TorchvisionViT(),
]
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
            f'weights of the {layout.name} layout, without {count_reasons(dropped)}'
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
