"""What a backbone's weights say about it: architecture and keys, by names and shapes.

Shapes do not say everything: context broadcasting, activations and a ViT's heads leave
no trace, and are not in the description.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

LAYER = {
    'Swin': re.compile(r'^stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.'),
    'ViT': re.compile(r'^layers\.(\d+)\.attn\.'),
}


def describe_backbone(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Describe the backbone that these weights belong to.

    Args:
        weights (Mapping[str, Tensor]): Its state dict, without a prefix.

    Returns:
        dict[str, Any] | None: The ``type`` ('Swin' or 'ViT'), what can be told of its
        arguments, and under ``keys`` one description for each stage or layer, see
        :func:`.describe_key`. None if it is neither, or its patch embedding is missing.
    """
    patch = of_rank(4, weights.get('patch_embed.projection.weight'))
    layers: dict[str, dict[str, Tensor]] = {}
    for kind, pattern in LAYER.items():
        for name, value in weights.items():
            if match := pattern.match(name):
                parts = layers.setdefault(match[0], {})
                parts[name[match.end() :]] = value
        if layers and patch is not None:
            describe = describe_swin if kind == 'Swin' else describe_vit
            return dict(
                type=kind,
                embed_dims=len(patch),
                patch_size=tuple(patch.shape[2:]),
                **describe(weights, layers, pattern),
            )
    return None


def describe_swin(
    weights: Mapping[str, Tensor],
    blocks: dict[str, dict[str, Tensor]],
    pattern: re.Pattern,
) -> dict[str, Any]:
    """Depths, heads, window and keys by stage; a key is told by the first block."""
    stages: dict[int, list[dict[str, Tensor]]] = {}
    for prefix, parts in blocks.items():
        stages.setdefault(int(pattern.match(prefix)[1]), []).append(parts)
    first = [parts[0] for _, parts in sorted(stages.items())]
    tables = [of_rank(2, parts.get('relative_position_bias_table')) for parts in first]
    known = all(table is not None for table in tables)
    return dict(
        depths=tuple(len(parts) for _, parts in sorted(stages.items())),
        num_heads=tuple(table.shape[1] for table in tables) if known else None,
        window_size=(math.isqrt(len(tables[0])) + 1) // 2 if known else None,
        output_norms=tuple(i for i in sorted(stages) if f'norm{i}.weight' in weights),
        keys=[describe_key(parts) for parts in first],
    )


def describe_vit(
    weights: Mapping[str, Tensor],
    layers: dict[str, dict[str, Tensor]],
    pattern: re.Pattern,
) -> dict[str, Any]:
    """Depth, MLP, image, relative positions and keys by layer."""
    numbered = {int(pattern.match(prefix)[1]): prefix for prefix in layers}
    first = layers[numbered[min(numbered)]]
    hidden = weights.get(f'layers.{min(numbered)}.ffn.layers.0.0.weight')
    rel_pos = of_rank(2, first.get('rel_pos_h'))
    dims = len(weights['patch_embed.projection.weight'])
    return dict(
        num_layers=len(numbered),
        num_heads=None if rel_pos is None else dims // rel_pos.shape[1],
        feedforward_channels=None if hidden is None else len(hidden),
        img_size=image_size(weights),
        with_cls_token='cls_token' in weights,
        relative_positions=tuple(
            (len(layers[prefix]['rel_pos_h']) + 1) // 2
            for _, prefix in sorted(numbered.items())
            if 'rel_pos_h' in layers[prefix]
        ),
        keys=[describe_key(layers[prefix]) for _, prefix in sorted(numbered.items())],
    )


def image_size(weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Height and width in pixels, from the grid of a ViT's absolute positions."""
    positions = of_rank(3, weights.get('pos_embed'))
    if positions is None:
        return None
    side = math.isqrt(positions.shape[1])
    height, width = weights['patch_embed.projection.weight'].shape[2:]
    return side * height, side * width


def describe_key(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe the key of one attention layer.

    Args:
        parts (Mapping[str, Tensor]): The layer's weights, such as 'qkv.weight' and
            'key.scale'.

    Returns:
        dict[str, Any]: ``type``, and for a manifold ``num_charts``, ``residual``
        (whether it is added to the linear key), and ``hidden_ratio`` or SpatialK's
        ``window_tokens``. ``type`` is 'linear' for the stock key, 'unknown' where the
        names are none of ours, and names both where SpatialK and SimpleK have the same
        shapes.
    """
    key = {n.removeprefix('key.'): v for n, v in parts.items() if n.startswith('key.')}
    if not key:
        return dict(type='linear')
    residual = 'qkv.weight' in parts
    scale, conv1 = of_rank(2, key.get('scale')), of_rank(3, key.get('conv1.weight'))
    if scale is None or conv1 is None:
        return dict(type='unknown', residual=residual)
    (charts, dims), (rows, inputs) = scale.shape, conv1.shape[:2]
    common = dict(num_charts=charts, residual=residual)
    over_channels = dict(hidden_ratio=round(rows / charts / dims, 4))
    if 'membership.weight' in key:
        return dict(type='KUA', **common, **over_channels)
    if 'conv2.weight' in key:
        return dict(type='VanillaK', **common, **over_channels)
    out = of_rank(2, key.get('out.weight'))
    if out is None:
        return dict(type='unknown', **common)
    mixes_tokens = rows == charts * inputs and out.shape[1] == dims
    if mixes_tokens and inputs != dims:
        return dict(type='SpatialK', **common, window_tokens=inputs)
    kind = (
        'SimpleK or SpatialK'
        if mixes_tokens and is_window(parts, inputs)
        else 'SimpleK'
    )
    return dict(type=kind, **common, **over_channels)


def of_rank(rank: int, value: Tensor | None) -> Tensor | None:
    """The tensor, or None if it is missing, empty or of another rank."""
    fits = value is not None and value.dim() == rank and value.numel() > 0
    return value if fits else None


def is_window(parts: Mapping[str, Tensor], tokens: int) -> bool:
    """Whether ``tokens`` may be the area of this layer's window."""
    table = parts.get('relative_position_bias_table')
    if table is None:
        return math.isqrt(tokens) ** 2 == tokens
    return ((math.isqrt(len(table)) + 1) // 2) ** 2 == tokens
