"""Our own layout, which is mmpretrain's, and mmdet's Swin, which is named alike."""

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import Conversion, Layout, refuse_manifold_key
from .swin import count_stages


class Own(Layout):
    """Our backbones; mmpretrain's Swin, ViT and MAEViT; mmdet's Swin."""

    name = 'mmpretrain'
    patch_embedding = 'patch_embed.projection.weight'
    attention = ('stages.0.blocks.0.attn.w_msa.', 'layers.0.ln1.')

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout, also without a patch embedding."""
        return any(name.startswith(self.attention) for name in state_dict)

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights as they are, without what stands beside them."""
        dropped = {
            name: reason
            for name in state_dict
            for start, reason in self.dropped
            if re.match(start, name)
        }
        weights = {n: v for n, v in state_dict.items() if n not in dropped}
        return Conversion(weights, dropped)


class MMClsSwin(Own):
    """Old files of mmcls, mmpretrain's forerunner.

    Swin's last output norm has no number in them, and masks of attention are kept.
    """

    name = 'mmcls Swin'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return 'norm.weight' in state_dict and any(
            name.startswith(self.attention[0]) for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights with a number in the name of the norm."""
        last = f'norm{count_stages(state_dict, "stages") - 1}.'
        return super().to_ours(
            {re.sub(r'^norm\.', last, name): v for name, v in state_dict.items()}
        )


class MMDetSwin:
    """mmdet's Swin: our names and our order, with the stock key alone."""

    name = 'mmdet Swin'

    def from_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights as they are, if mmdet's Swin can hold them.

        Raises:
            ValueError: If a key is a manifold, or the backbone is a ViT.
        """
        refuse_manifold_key(state_dict, 'mmdet')
        if not any(name.startswith('stages.') for name in state_dict):
            raise ValueError('the backbone is a ViT, and mmdet has Swin only')
        return Conversion(dict(state_dict), {})
