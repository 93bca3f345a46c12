"""What a backbone's weights and config say about it: architecture and keys.

The config that a checkpoint carries names the keys, as far as the weights agree.
Without it a key is named only if its names and shapes are exactly those of one of ours.
Shapes do not say everything: context broadcasting, activations and a ViT's heads leave
no trace, and what nothing tells is not in the description or is None.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mmpretrain.models import VisionTransformer
from torch import Tensor

from ..grids import extra_positions, source_grid, told_grids, window_side

ATTENTION_LAYER = {
    'Swin': re.compile(r'^stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.'),
    'ViT': re.compile(r'^layers\.(\d+)\.attn\.'),
}
#: Classes whose arguments are known: (with a key, without).
CLASSES = {
    'Swin': ('ManifoldKeySwin', 'SwinTransformer'),
    'ViT': ('ManifoldKeyViT', 'VisionTransformer'),
}
#: A weight of a key, also of one that was inserted into a stock layer.
KEY = re.compile(r'(?:\w+\.)?key\.(.*)')
OURS = ('VanillaK', 'SimpleK', 'KUA', 'SpatialK')

Weights = Mapping[str, Tensor]


def describe_backbone(
    weights: Weights, config: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Describe the backbone that these weights belong to.

    Args:
        weights (Mapping[str, Tensor]): Its state dict, without a prefix.
        config (Mapping[str, Any], optional): The backbone's config where the checkpoint
            carries it, see :func:`.config_text.backbone_config`. Defaults to None.

    Returns:
        dict[str, Any] | None: The ``type`` ('Swin' or 'ViT'), what can be told of its
        arguments, and under ``keys`` one description for each stage or layer, see
        :func:`.describe_key`. None if it is neither, or its patch embedding is missing.
    """
    patch = of_rank(4, weights.get('patch_embed.projection.weight'))
    layers: dict[str, dict[str, Tensor]] = {}
    for kind, pattern in ATTENTION_LAYER.items():
        for name, value in weights.items():
            if match := pattern.match(name):
                parts = layers.setdefault(match[0], {})
                parts[name[match.end() :]] = value
        if layers and patch is not None:
            describe = describe_swin if kind == 'Swin' else describe_vit
            config = known_config(kind, config)
            return dict(
                type=kind,
                embed_dims=len(patch),
                patch_size=tuple(patch.shape[2:]),
                **describe(weights, layers, pattern, config),
            )
    return None


def known_config(kind: str, config: Mapping | None) -> Mapping[str, Any] | None:
    """The config, if it is of a class whose arguments are known."""
    name = class_name(config)
    with_key, without = CLASSES[kind]
    if name == without:
        return {**config, 'key': None}
    return config if name == with_key else None


def class_name(config: object) -> str | None:
    """The ``type`` that a config names, without a place of ours or mmpretrain's."""
    name = config.get('type') if isinstance(config, Mapping) else None
    if not isinstance(name, str):
        return None
    return re.sub(r'^(mmmanikey|mmpretrain)\.(.*\.)?', '', name)


def key_configs(config: Mapping | None, number: int) -> list[object]:
    """The config of each stage's or layer's key; ... where it is not known."""
    if config is None:
        return [...] * number
    key = config.get('key')
    keys = list(key) if isinstance(key, (list, tuple)) else [key] * number
    return keys if len(keys) == number else [...] * number


def describe_swin(
    weights: Weights,
    blocks: dict[str, dict[str, Tensor]],
    pattern: re.Pattern,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Depths, heads, window and keys by stage, where its blocks agree."""
    stages: dict[int, list[dict[str, Tensor]]] = {}
    for prefix, parts in blocks.items():
        stages.setdefault(int(pattern.match(prefix)[1]), []).append(parts)
    first = [parts[0] for _, parts in sorted(stages.items())]
    tables = [of_rank(2, parts.get('relative_position_bias_table')) for parts in first]
    known = all(table is not None for table in tables)
    keys = []
    for number, key in zip(sorted(stages), key_configs(config, len(stages))):
        found = [describe_key(parts, key) for parts in stages[number]]
        agree = all(each == found[0] for each in found)
        keys.append(found[0] if agree else dict(type='unknown'))
    return dict(
        depths=tuple(len(parts) for _, parts in sorted(stages.items())),
        num_heads=tuple(table.shape[1] for table in tables) if known else None,
        window_size=window_side(tables[0]) if known else None,
        output_norms=tuple(i for i in sorted(stages) if f'norm{i}.weight' in weights),
        keys=keys,
    )


def describe_vit(
    weights: Weights,
    layers: dict[str, dict[str, Tensor]],
    pattern: re.Pattern,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Depth, MLP, image, relative positions and keys by layer."""
    numbered = {int(pattern.match(prefix)[1]): prefix for prefix in layers}
    parts = [layers[prefix] for _, prefix in sorted(numbered.items())]
    hidden = weights.get(f'layers.{min(numbered)}.ffn.layers.0.0.weight')
    registers = of_rank(3, weights.get('register_tokens'))
    keys = zip(parts, key_configs(config, len(parts)))
    return dict(
        num_layers=len(parts),
        num_heads=num_heads(weights, parts[0], config),
        feedforward_channels=None if hidden is None else len(hidden),
        img_size=image_size(weights, config),
        with_cls_token='cls_token' in weights,
        num_registers=0 if registers is None else registers.shape[1],
        relative_positions=tuple(
            (len(each['rel_pos_h']) + 1) // 2 for each in parts if 'rel_pos_h' in each
        ),
        keys=[describe_key(each, key) for each, key in keys],
    )


def num_heads(
    weights: Weights, parts: Weights, config: Mapping[str, Any] | None
) -> int | None:
    """A ViT's heads, from its relative positions, else from the config."""
    dims = len(weights['patch_embed.projection.weight'])
    rel_pos = of_rank(2, parts.get('rel_pos_h'))
    if rel_pos is not None:
        return dims // rel_pos.shape[1]
    arch = config and config.get('arch', 'base')
    if isinstance(arch, str):
        arch = VisionTransformer.arch_zoo.get(arch.lower())
    fits = isinstance(arch, Mapping) and arch.get('embed_dims') == dims
    return arch.get('num_heads') if fits else None


def image_size(
    weights: Weights, config: Mapping[str, Any] | None
) -> tuple[int, int] | None:
    """Height and width in pixels, from the grid of a ViT's absolute positions.

    It is the grid that the weights tell, that of the config's image if it is as large,
    else a square one, see :mod:`mmmanikey.grids`.
    """
    positions = of_rank(3, weights.get('pos_embed'))
    if positions is None:
        return None
    patch = weights['patch_embed.projection.weight'].shape[2:]
    size = None if config is None else config.get('img_size', 224)
    size = (size, size) if isinstance(size, int) else size
    try:
        own = tuple(
            -(-side // length) for side, length in zip(size, patch, strict=True)
        )
    except (TypeError, ValueError):  # not known
        own = None
    told, extras = told_grids(weights).get(''), extra_positions(weights)
    found = source_grid(positions.shape[1], extras, own, told)
    if found is None:
        return None
    (rows, cols), _ = found
    return rows * patch[0], cols * patch[1]


def describe_key(parts: Weights, config: object = ...) -> dict[str, Any]:
    """Describe the key of one attention layer.

    Args:
        parts (Mapping[str, Tensor]): The layer's weights, such as 'qkv.weight' and
            'key.scale'.
        config (object): The key's config, where it is known: a dict, or None for the
            linear key. Defaults to ``...``, not known.

    Returns:
        dict[str, Any]: ``type``, and for a manifold ``num_charts``, ``residual``
        (whether it is added to the linear key), and ``hidden_ratio`` or SpatialK's
        ``window_tokens``. ``type`` is 'linear' for the stock key. It names both where
        SpatialK and SimpleK have the same shapes and the config does not decide. It is
        'unknown' where names or shapes are none of ours, or not those of the key that
        the config names. A class of yours is called what the config calls it, with the
        config's arguments.
    """
    named = ((KEY.fullmatch(name), value) for name, value in parts.items())
    key = {match[1]: value for match, value in named if match}
    if not key:
        return dict(type='linear' if 'qkv.weight' in parts else 'unknown')
    residual = 'qkv.weight' in parts
    fitting = keys_of_ours(key, residual, window_area(parts))
    name = class_name(config)
    if config is ... and fitting:
        return dict(type=' or '.join(fitting), **next(iter(fitting.values())))
    if name in fitting:
        return dict(type=name, **fitting[name])
    if name is None or name in OURS:
        return dict(type='unknown', residual=residual)
    return {**config, 'type': name, 'residual': residual}


def keys_of_ours(
    key: Weights, residual: bool, window: int | None
) -> dict[str, dict[str, Any]]:
    """Our keys that have exactly these parameters, and what can be told of them.

    ``window`` is the number of tokens of the layer's window, where it is known.
    """
    shapes = {name: tuple(value.shape) for name, value in key.items()}
    scale, conv1 = shapes.get('scale', ()), shapes.get('conv1.weight', ())
    if len(scale) != 2 or len(conv1) != 3 or not math.prod(scale + conv1):
        return {}
    (charts, dims), (rows, inputs, _) = scale, conv1
    width = rows // charts  # of a chart's first layer
    first = {
        'scale': (charts, dims),
        'conv1.weight': (charts * width, inputs, 1),
        'conv1.bias': (charts * width,),
    }
    second = {'conv2.weight': (charts * dims, width, 1)}
    gate = {'membership.weight': (charts, dims), 'membership.bias': (charts,)}
    over_channels = dict(
        VanillaK={**first, **second},
        KUA={**first, **second, 'conv2.bias': (charts * dims,), **gate},
        SimpleK={**first, 'out.weight': (dims, width)},
    )
    common, found = dict(num_charts=charts, residual=residual), {}
    for name, expected in over_channels.items():
        if shapes == expected and inputs == dims:
            found[name] = dict(common, hidden_ratio=round(width / dims, 4))
    over_tokens = {**first, 'out.weight': (dims, dims)}
    if shapes == over_tokens and width == inputs and window in (None, inputs):
        found['SpatialK'] = dict(common, window_tokens=inputs)
    return found


def window_area(parts: Weights) -> int | None:
    """Tokens of the window of one of Swin's layers; None for a ViT's."""
    table = of_rank(2, parts.get('relative_position_bias_table'))
    side = None if table is None else window_side(table)
    return None if side is None else side**2


def of_rank(rank: int, value: Tensor | None) -> Tensor | None:
    """The tensor, or None if it is missing, empty or of another rank."""
    fits = value is not None and value.dim() == rank and value.numel() > 0
    return value if fits else None
