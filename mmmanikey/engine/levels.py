"""Do neck and heads ask for the feature maps that the backbone gives?

The frameworks notice a mismatch at the first forward pass, with an assertion. Here it
is one sentence, before anything is built.
"""

from collections.abc import Sequence

from .data import type_name


def backbone_channels(backbone: dict) -> list[int] | None:
    """Channels of the maps that a backbone of ours gives; None for others.

    Raises:
        ValueError: If its ``arch`` or ``out_indices`` cannot be.
    """
    kind = type_name(backbone)
    if kind == 'ManifoldKeySwin':
        from ..backbones import ManifoldKeySwin as cls
    elif kind == 'ManifoldKeyViT':
        from ..backbones import ManifoldKeyViT as cls
    else:
        return None
    from ..backbones.arguments import arch_settings, output_indices

    arch = backbone.get('arch', 'tiny' if kind == 'ManifoldKeySwin' else 'base')
    dims = arch_settings(cls, arch)['embed_dims']
    if kind == 'ManifoldKeyViT':
        levels = output_indices(backbone.get('out_indices', -1), cls.layers_of(arch))
        return [dims] * len(levels)
    num_stages = len(cls.depths_of(arch))
    after = bool(backbone.get('out_after_downsample'))
    levels = output_indices(backbone.get('out_indices', (3,)), num_stages)
    return [dims * 2 ** min(i + after, num_stages - 1) for i in levels]


def check_levels(model: dict) -> None:
    """Compare the model's neck, or without one its heads, with its backbone.

    Args:
        model (dict): The ``model`` of a config.

    Raises:
        ValueError: If they ask for other maps than the backbone gives, or the backbone
            cannot be.
    """
    gives = backbone_channels(model.get('backbone') or {})
    if gives is None:
        return
    neck = model.get('neck')
    if neck:
        check('neck', neck.get('in_channels'), None, gives)
        return
    for name in ('decode_head', 'auxiliary_head'):
        heads = model.get(name) or []
        for head in [heads] if isinstance(heads, dict) else heads:
            check(name, head.get('in_channels'), head.get('in_index', -1), gives)


def check(
    name: str,
    in_channels: int | Sequence[int] | None,
    in_index: int | Sequence[int] | None,
    gives: Sequence[int],
) -> None:
    """Raise ValueError unless ``in_channels`` are those of the maps at ``in_index``."""
    if in_channels is None:
        return
    wants = [in_channels] if isinstance(in_channels, int) else list(in_channels)
    if in_index is None:
        indices = range(len(gives))
    else:
        indices = [in_index] if isinstance(in_index, int) else list(in_index)
    told = f'{name} asks for maps of {wants} channels, the backbone gives {list(gives)}'
    if any(not -len(gives) <= i < len(gives) for i in indices):
        raise ValueError(f'{told}: there is no level {max(indices)}')
    if wants != [gives[i] for i in indices]:
        raise ValueError(f'{told}: set in_channels, or out_indices and arch')
