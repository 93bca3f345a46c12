"""Checks that neck and heads take the feature maps that the backbone gives.

The frameworks notice a mismatch at the first forward pass, with an assertion. Here it
is one sentence, before anything is built.
"""

from collections.abc import Sequence

from ..arguments import type_name

#: Necks that take the last map alone, however many there are.
OF_THE_LAST = ('CTResNetNeck', 'DilatedEncoder', 'LinearNeck')


def check_levels(model: dict) -> None:
    """Compare the model's neck, or without one its heads, with its backbone.

    Backbones of other projects are not looked at.

    Args:
        model (dict): The ``model`` of a config.

    Raises:
        ValueError: If they ask for other maps than the backbone gives, or the backbone
            cannot be.
    """
    from .. import backbones  # which takes seconds, and few tools need it

    backbone = dict(model.get('backbone') or {})
    name = type_name(backbone)
    tell = getattr(getattr(backbones, name, None), 'output_channels', None)
    if tell is None:
        return
    gives = tell(**backbone)
    neck = model.get('neck')
    if isinstance(neck, (list, tuple)):  # mmdet runs them one after the other
        neck = neck[0] if neck else None
    levels = range(len(gives))
    if neck:
        # the second is the name in mmdet's ViTDet, whose in_channels are of its levels
        channels = neck.get('backbone_channel', neck.get('in_channels'))
        if type_name(neck) == 'YOLOV3Neck':
            levels = levels[::-1]
        elif type_name(neck) in OF_THE_LAST:
            levels = -1
        check_channels('neck', channels, levels, gives)
    if neck and type_name(neck) != 'GlobalAveragePooling':  # which keeps the channels
        return
    for name in ('decode_head', 'auxiliary_head', 'panoptic_head', 'head'):
        heads = model.get(name) or []
        for head in [heads] if isinstance(heads, dict) else heads:
            channels = head.get('in_channels')
            # a list without indices is of all levels
            index = -1 if isinstance(channels, int) else levels
            check_channels(name, channels, head.get('in_index', index), gives)


def check_channels(
    name: str,
    in_channels: int | Sequence[int] | None,
    in_index: int | Sequence[int],
    gives: Sequence[int],
) -> None:
    """Raise ValueError unless ``in_channels`` are those of the maps at ``in_index``."""
    if in_channels is None:
        return
    wants = [in_channels] if isinstance(in_channels, int) else list(in_channels)
    indices = [in_index] if isinstance(in_index, int) else list(in_index)
    told = f'{name} asks for maps of {wants} channels, the backbone gives {gives}'
    if any(not -len(gives) <= i < len(gives) for i in indices):
        raise ValueError(f'{told}: there is no level {max(indices)}')
    if wants != [gives[i] for i in indices]:
        raise ValueError(f'{told}: set in_channels, or out_indices and arch')
