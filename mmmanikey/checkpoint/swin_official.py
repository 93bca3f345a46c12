"""Weights of Swin's own repository, renamed and reordered for our class.

Layout: https://github.com/microsoft/Swin-Transformer/blob/main/models/swin_transformer.py
"""

from collections.abc import Mapping

from torch import Tensor

#: (part of the official name, part of ours), tried in this order.
RENAMES = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('layers.', 'stages.'),
    ('.attn.', '.attn.w_msa.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
#: Computed from the window, or no part of a backbone.
DROPPED = ('attn_mask', 'relative_coords_table')


def is_official_swin(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of Swin's own repository."""
    return 'patch_embed.proj.weight' in state_dict and any(
        name.startswith('layers.0.blocks.0.') for name in state_dict
    )


def unfold_order(merged: Tensor) -> Tensor:
    """Reorder patch merging's 4C input channels for ``nn.Unfold``.

    The official code concatenates the four neighbours in the order (0, 0), (1, 0),
    (0, 1), (1, 1) of (row, column), each with its C channels. ``nn.Unfold``, which
    mmcv's patch merging uses, puts the channel first and the neighbours row by row.

    Args:
        merged (Tensor): (..., 4 * C), neighbour-major.

    Returns:
        Tensor: (..., C * 4), channel-major.
    """
    neighbours = merged.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2).contiguous()


def from_official_swin(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert an official Swin state dict to the names and order of our backbone.

    Args:
        state_dict (Mapping[str, Tensor]): What stands under ``model`` in the official
            files. Not changed.

    Returns:
        dict[str, Tensor]: State dict for :class:`mmmanikey.backbones.ManifoldKeySwin`,
        without the classifier's head.
    """
    num_stages = 1 + max(
        int(name.split('.')[1]) for name in state_dict if name.startswith('layers.')
    )
    converted = {}
    for name, value in state_dict.items():
        if name.startswith('head.') or name.endswith(DROPPED):
            continue
        if '.downsample.' in name:
            value = unfold_order(value)
        for old, new in RENAMES:
            name = name.replace(old, new, 1)
        if name.startswith('norm.'):
            name = name.replace('norm.', f'norm{num_stages - 1}.', 1)
        converted[name] = value
    return converted
