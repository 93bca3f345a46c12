"""Our own layout, which is mmpretrain's, and the Swin and ViT of mmdet and mmseg."""

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import Conversion, Layout
from .swin import count_stages


class Own(Layout):
    """Our backbones; mmpretrain's Swin, ViT and MAEViT; mmdet's Swin."""

    name = 'mmpretrain'
    patch_embedding = 'patch_embed.projection.weight'
    attention = ('stages.0.blocks.0.attn.w_msa.', 'layers.0.ln1.')

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout, also without a patch embedding."""
        attends = any(name.startswith(self.attention) for name in state_dict)
        return attends and not MMClsSwin.matches(self, state_dict)

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
        ours = any(name.startswith(Own.attention[0]) for name in state_dict)
        return ours and any(
            name == 'norm.weight' or name.endswith('attn_mask') for name in state_dict
        )

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights with a number in the name of the norm, without masks."""
        last = f'norm{count_stages(state_dict, "stages") - 1}.'
        return super().to_ours(
            {
                re.sub(r'^norm\.', last, name): value
                for name, value in state_dict.items()
                if not name.endswith('attn_mask')
            }
        )


class MMSegViT(Own):
    """mmseg's ViT, around torch's attention.

    https://github.com/open-mmlab/mmsegmentation, mmseg/models/backbones/vit.py.
    """

    name = 'mmseg ViT'
    patch_embedding = 'patch_embed.projection.weight'
    attention = 'layers.0.attn.attn.in_proj_'

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights with mmpretrain's names."""
        names = {}
        for name in state_dict:
            new = name.replace('attn.attn.in_proj_', 'attn.qkv.')
            new = new.replace('attn.attn.out_proj', 'attn.proj')
            names[name] = re.sub('^ln_pre', 'pre_norm', new)
        return super().to_ours({names[n]: v for n, v in state_dict.items()})
