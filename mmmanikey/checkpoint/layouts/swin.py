"""Swin as its authors, and as timm, name and order its weights.

Microsoft: https://github.com/microsoft/Swin-Transformer (models/swin_transformer.py).
timm: https://github.com/huggingface/pytorch-image-models
(timm/models/swin_transformer.py).
"""

from collections.abc import Mapping

from torch import Tensor

from .layout import (
    BESIDE,
    Conversion,
    Layout,
    Table,
    below,
    inverse,
    rename,
)

#: Within a block: (their name, our name).
SWIN_BLOCK = (
    ('norm1.{p}', 'norm1.{p}'),
    ('norm2.{p}', 'norm2.{p}'),
    ('attn.qkv.{p}', 'attn.w_msa.qkv.{p}'),
    ('attn.proj.{p}', 'attn.w_msa.proj.{p}'),
    (
        'attn.relative_position_bias_table',
        'attn.w_msa.relative_position_bias_table',
    ),
    ('mlp.fc1.{p}', 'ffn.layers.0.0.{p}'),
    ('mlp.fc2.{p}', 'ffn.layers.1.{p}'),
)
#: Within a patch merging.
MERGING = (('norm.{p}', 'norm.{p}'), ('reduction.{p}', 'reduction.{p}'))
#: Computed from the window: (how the name starts, why it is left out).
INDEX = (r'.*\.relative_position_index$', 'computed from the window')


def count_stages(state_dict: Mapping[str, Tensor], stem: str) -> int:
    """Number of stages, whose names start with ``stem``, such as ``'layers'``."""
    start = f'{stem}.'
    names = (n.removeprefix(start) for n in state_dict if n.startswith(start))
    return 1 + max(int(name.split('.')[0]) for name in names)


def unfold_order(merged: Tensor) -> Tensor:
    """Reorder patch merging's 4C input channels for ``nn.Unfold``, (..., 4 * C).

    Microsoft's code and timm concatenate the four neighbours in the order (0, 0),
    (1, 0), (0, 1), (1, 1) of (row, column), each with its C channels. ``nn.Unfold``,
    which mmcv's patch merging uses, puts the channel first and the neighbours row by
    row.
    """
    neighbours = merged.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2).contiguous()


def concatenation_order(unfolded: Tensor) -> Tensor:
    """The way back of :func:`unfold_order`, (..., C * 4) to (..., 4 * C)."""
    neighbours = unfolded.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return neighbours[..., [0, 2, 1, 3], :].flatten(-2).contiguous()


class SwinLayout(Layout):
    """Swin of a project whose patch merging concatenates the neighbours."""

    target = 'our Swin'

    def reordered(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Patch merging in the order of ``nn.Unfold``.

        What has no four neighbours stays as it is, for the backbone to refuse its
        shape.
        """
        return {
            name: unfold_order(value)
            if '.downsample.' in name and value.dim() and value.shape[-1] % 4 == 0
            else value
            for name, value in weights.items()
        }


class MicrosoftSwin(SwinLayout):
    """Swin's own repository; timm before 0.9 named its weights the same.

    Files of its detection repository, with a norm for each output, are read as well.
    """

    name = 'Microsoft Swin'
    patch_embedding = 'patch_embed.proj.weight'
    attention = 'layers.0.blocks.0.attn.relative_position_bias_table'
    dropped = (
        (r'head\.', 'classification head'),
        INDEX,
        (r'.*\.attn_mask$', 'computed from the image'),
        *BESIDE,
    )
    #: 0 if patch merging ends the stage before it, 1 if it begins the stage after it.
    downsample_at = 0

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        ends_stages = 'layers.0.downsample.reduction.weight' in state_dict or not any(
            '.downsample.' in name for name in state_dict
        )
        return super().matches(state_dict) and ends_stages == (not self.downsample_at)

    def table_of(self, state_dict: Mapping[str, Tensor]) -> Table:
        return [
            *self.names_of(count_stages(state_dict, 'layers')),
            ('norm{i}.{p}', 'norm{i}.{p}'),
        ]

    def names_of(self, num_stages: int) -> Table:
        """(Their name, our name) of the weights of a classifier."""
        table = [
            ('patch_embed.proj.{p}', 'patch_embed.projection.{p}'),
            ('patch_embed.norm.{p}', 'patch_embed.norm.{p}'),
            ('absolute_pos_embed', 'absolute_pos_embed'),
            ('norm.{p}', f'norm{num_stages - 1}.{{p}}'),
            *below('layers.{i}.blocks.{j}', 'stages.{i}.blocks.{j}', SWIN_BLOCK),
        ]
        for stage in range(num_stages - 1):
            theirs = f'layers.{stage + self.downsample_at}.downsample'
            table += below(theirs, f'stages.{stage}.downsample', MERGING)
        return table


class TimmSwin(MicrosoftSwin):
    """timm's Swin, since 0.9."""

    name = 'timm Swin'
    downsample_at = 1

    def from_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert a backbone of ours; raises ValueError if a weight has no place."""
        table = inverse(self.names_of(count_stages(state_dict, 'stages')))
        dense = 'output norm of dense prediction; only the last has a place'
        dropped = (INDEX, (r'norm\d+\.', dense))
        weights, left_out = rename(state_dict, table, dropped, 'timm Swin')
        for name in weights:
            if '.downsample.' in name:
                weights[name] = concatenation_order(weights[name])
        return Conversion(weights, left_out)
