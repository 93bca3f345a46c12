"""Our own layout, which is mmpretrain's, and mmdet's Swin, which is named alike."""

import re
from collections.abc import Mapping

from torch import Tensor

from .names import BESIDE, Conversion, refuse_manifold_key

#: How the names of a Swin and of a ViT start.
STARTS = ('stages.0.blocks.0.attn.w_msa.', 'layers.0.ln1.')


class Own:
    """Our backbones; mmpretrain's Swin, ViT and MAEViT; mmdet's Swin."""

    name = 'mmpretrain'
    patch_embedding = 'patch_embed.projection.weight'

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return any(name.startswith(STARTS) for name in state_dict)

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights as they are, without what stands beside them.

        Old files of mmcls, mmpretrain's forerunner, lack the number of Swin's last
        output norm.
        """
        numbers = filter(None, (re.match(r'stages\.(\d+)\.', n) for n in state_dict))
        stages = [int(match[1]) for match in numbers]
        weights, dropped = {}, {}
        for name, value in state_dict.items():
            if reason := next((r for s, r in BESIDE if re.match(s, name)), None):
                dropped[name] = reason
            elif stages and name.startswith('norm.'):
                weights[name.replace('norm', f'norm{max(stages)}', 1)] = value
            else:
                weights[name] = value
        return Conversion(weights, dropped)


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
