"""Swin as its authors, and as timm, name and order its weights.

Microsoft: https://github.com/microsoft/Swin-Transformer (models/swin_transformer.py).
timm: https://github.com/huggingface/pytorch-image-models
(timm/models/swin_transformer.py).
"""

from collections.abc import Mapping

from torch import Tensor

from .names import BESIDE, Conversion, Table, inverse, refuse_manifold_key, rename

BLOCK = (
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
#: (how their name starts, why it is left out)
DROPPED = (
    (r'head\.', 'classification head'),
    (r'.*\.relative_position_index$', 'computed from the window'),
    (r'.*\.attn_mask$', 'computed from the image'),
    *BESIDE,
)
DROPPED_OF_OURS = (
    (r'.*\.relative_position_index$', 'computed from the window'),
    (r'norm\d+\.', 'output norm of dense prediction; only the last has a place'),
)


def names_of_swin(num_stages: int, downsample_at: int) -> Table:
    """(Their name, our name) of every weight.

    Args:
        num_stages (int): Stages of the backbone.
        downsample_at (int): 0 if patch merging ends the stage before it, 1 if it begins
            the stage after it.
    """
    table = [
        ('patch_embed.proj.{p}', 'patch_embed.projection.{p}'),
        ('patch_embed.norm.{p}', 'patch_embed.norm.{p}'),
        ('absolute_pos_embed', 'absolute_pos_embed'),
        ('norm.{p}', f'norm{num_stages - 1}.{{p}}'),
    ]
    for theirs, ours in BLOCK:
        table.append(
            ('layers.{i}.blocks.{j}.' + theirs, 'stages.{i}.blocks.{j}.' + ours)
        )
    for stage in range(num_stages - 1):
        for part in ('norm.{p}', 'reduction.weight'):
            theirs = f'layers.{stage + downsample_at}.downsample.{part}'
            table.append((theirs, f'stages.{stage}.downsample.{part}'))
    return table


def count_stages(state_dict: Mapping[str, Tensor], stem: str) -> int:
    """Number of stages, whose names start with ``stem``, such as ``'layers'``."""
    numbers = (n.split('.')[1] for n in state_dict if n.startswith(f'{stem}.'))
    return 1 + max(map(int, numbers))


def unfold_order(merged: Tensor) -> Tensor:
    """Reorder patch merging's 4C input channels for ``nn.Unfold``.

    Microsoft's code and timm concatenate the four neighbours in the order (0, 0),
    (1, 0), (0, 1), (1, 1) of (row, column), each with its C channels. ``nn.Unfold``,
    which mmcv's patch merging uses, puts the channel first and the neighbours row by
    row.

    Args:
        merged (Tensor): (..., 4 * C), neighbour-major.

    Returns:
        Tensor: (..., C * 4), channel-major.
    """
    neighbours = merged.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2).contiguous()


def with_unfold_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, those of patch merging in the order of ``nn.Unfold``.

    What has no four neighbours stays as it is, for the backbone to refuse its shape.
    """
    return {
        name: unfold_order(value)
        if '.downsample.' in name and value.dim() and value.shape[-1] % 4 == 0
        else value
        for name, value in weights.items()
    }


def concatenation_order(unfolded: Tensor) -> Tensor:
    """The way back of :func:`unfold_order`, (..., C * 4) to (..., 4 * C)."""
    neighbours = unfolded.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return neighbours[..., [0, 2, 1, 3], :].flatten(-2).contiguous()


def has_swin_names(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether patch embedding and attention are named as Microsoft and timm do."""
    return (
        'patch_embed.proj.weight' in state_dict
        and 'layers.0.blocks.0.attn.relative_position_bias_table' in state_dict
    )


def downsamples_at_start(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether patch merging begins the stages, as in timm since 0.9."""
    return (
        any('.downsample.' in name for name in state_dict)
        and 'layers.0.downsample.reduction.weight' not in state_dict
    )


class MicrosoftSwin:
    """Swin's own repository; timm before 0.9 named its weights the same.

    Files of its detection repository, with a norm for each output, are read as well.
    """

    name = 'Microsoft Swin'
    patch_embedding = 'patch_embed.proj.weight'
    downsample_at = 0

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return has_swin_names(state_dict) and not downsamples_at_start(state_dict)

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert to :class:`mmmanikey.backbones.ManifoldKeySwin`.

        Raises:
            ValueError: If our Swin has no place for a weight.
        """
        stages = count_stages(state_dict, 'layers')
        table = [
            *names_of_swin(stages, self.downsample_at),
            ('norm{i}.{p}', 'norm{i}.{p}'),
        ]
        weights, dropped = rename(state_dict, table, DROPPED, 'our Swin')
        return Conversion(with_unfold_order(weights), dropped)


class TimmSwin(MicrosoftSwin):
    """timm's Swin, since 0.9."""

    name = 'timm Swin'
    downsample_at = 1

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this layout."""
        return has_swin_names(state_dict) and downsamples_at_start(state_dict)

    def from_ours(self, state_dict: Mapping[str, Tensor]) -> Conversion:
        """Convert a backbone of ours with the stock key.

        Raises:
            ValueError: If a key is a manifold, or timm has no place for a weight.
        """
        refuse_manifold_key(state_dict, 'timm')
        stages = count_stages(state_dict, 'stages')
        table = inverse(names_of_swin(stages, self.downsample_at))
        weights, dropped = rename(state_dict, table, DROPPED_OF_OURS, 'timm Swin')
        for name in weights:
            if '.downsample.' in name:
                weights[name] = concatenation_order(weights[name])
        return Conversion(weights, dropped)
