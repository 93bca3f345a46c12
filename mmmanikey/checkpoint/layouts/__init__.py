"""Layouts: how other projects name and order the weights of Swin and ViT."""

from collections.abc import Mapping

from mmengine.logging import MMLogger
from torch import Tensor

from ...arguments import one_of
from .hugging_face import TransformersSwin, TransformersSwinBackbone, TransformersViT
from .layout import Conversion, Layout, below, count_reasons
from .own import MMClsSwin, MMSegViT, Own
from .swin import MicrosoftSwin, TimmSwin
from .torchvision import TorchvisionSwin, TorchvisionViT
from .vit import MAE, TimmViT, ViTDet

__all__ = [
    'LAYOUTS',
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
    one_of('timm', 'mmdet')('target', target)
    if name := next((name for name in state_dict if '.key.' in name), None):
        raise ValueError(
            f'the backbone has a manifold key, which {target} has no place for: {name}'
        )
    is_swin = any(name.startswith('stages.') for name in state_dict)
    if target == 'timm':
        return (TimmSwin() if is_swin else TimmViT()).from_ours(state_dict)
    if not is_swin:
        raise ValueError('the backbone is a ViT, and mmdet has Swin only')
    return Conversion(dict(state_dict), {})  # our names and our order
