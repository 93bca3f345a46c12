"""Our own layout, which is mmpretrain's, and the Swin and ViT of mmdet and mmseg."""

import re
from collections.abc import Collection, Mapping

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

    @staticmethod
    def renamed(names: Collection[str]) -> dict[str, str]:
        """The names of today by the old ones; ``''`` for masks."""
        last = f'norm{count_stages(names, "stages") - 1}.'
        return {
            name: '' if name.endswith('attn_mask') else re.sub(r'^norm\.', last, name)
            for name in names
        }

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """The weights with a number in the name of the norm, without masks."""
        names = self.renamed(state_dict)
        return super().to_ours({names[n]: v for n, v in state_dict.items() if names[n]})


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


class MMSegViT(Layout):
    """mmseg's ViT, around torch's attention.

    https://github.com/open-mmlab/mmsegmentation, mmseg/models/backbones/vit.py.
    """

    name = 'mmseg ViT'
    patch_embedding = 'patch_embed.projection.weight'
    attention = 'layers.0.attn.attn.in_proj_'
    table = (
        ('cls_token', 'cls_token'),
        ('pos_embed', 'pos_embed'),
        ('patch_embed.projection.{p}', 'patch_embed.projection.{p}'),
        ('patch_embed.norm.{p}', 'patch_embed.norm.{p}'),
        ('ln_pre.{p}', 'pre_norm.{p}'),
        ('layers.{i}.ln1.{p}', 'layers.{i}.ln1.{p}'),
        ('layers.{i}.attn.attn.in_proj_{p}', 'layers.{i}.attn.qkv.{p}'),
        ('layers.{i}.attn.attn.out_proj.{p}', 'layers.{i}.attn.proj.{p}'),
        ('layers.{i}.ln2.{p}', 'layers.{i}.ln2.{p}'),
        ('layers.{i}.ffn.layers.{j}.0.{p}', 'layers.{i}.ffn.layers.{j}.0.{p}'),
        ('layers.{i}.ffn.layers.{j}.{p}', 'layers.{i}.ffn.layers.{j}.{p}'),
        ('ln1.{p}', 'ln1.{p}'),
    )
