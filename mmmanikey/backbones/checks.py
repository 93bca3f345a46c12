"""The backbones' arguments, checked before anything is built.

mmpretrain's classes accept much that fails later, or is ignored without a word.
"""

import inspect
from collections.abc import Mapping, Sequence

from mmcv.cnn.bricks import DropPath
from torch import nn

from ..arguments import (
    config,
    indices,
    is_int,
    is_list,
    one_of,
    positive_int,
    positive_pair,
    rate,
    rate_below_one,
    switch,
)
from .spellings import in_stock_words

#: What Swin and ViT share.
CHECKS = dict(
    img_size=positive_pair,
    patch_size=positive_pair,
    in_channels=positive_int,
    drop_rate=rate,
    drop_path_rate=rate_below_one,
    interpolate_mode=one_of('bilinear', 'bicubic'),
    patch_cfg=config,
    context_broadcasting=switch,
    with_cp=switch,
)


def check_arguments(
    cls: type, args: Sequence, kwargs: Mapping, **own: object
) -> dict[str, object]:
    """Check the arguments of a backbone, and say them in mmpretrain's words.

    ``args`` and ``kwargs`` are those of a stock class, ``own`` those of the backbone
    itself. The result is as :func:`.in_stock_words`, and ``init_cfg``.
    """
    names = dict(zip(inspect.signature(cls.stock_class).parameters, args))
    if twice := names.keys() & kwargs:
        raise TypeError(f'{cls.__name__} got {", ".join(twice)} twice')
    given = {**names, **kwargs}
    init_cfg = start_from(given.pop('pretrained', None), given.pop('init_cfg', None))
    named = in_stock_words(cls, given, own)
    for name, value in {**named, **own}.items():
        if name in cls.checks:
            cls.checks[name](name, value)
    return {**named, 'init_cfg': init_cfg}


def start_from(pretrained: str | None, init_cfg: object) -> object:
    """``init_cfg``, or the one that mmdet's and mmseg's older ``pretrained`` means."""
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise TypeError(f'pretrained must be a path, a URL or None, got {pretrained!r}')
    if init_cfg:
        raise ValueError(
            f'pretrained={pretrained!r} and init_cfg={init_cfg!r} both say how the '
            'weights start; give one of them'
        )
    return dict(type='Pretrained', checkpoint=pretrained)


def arch_settings(cls: type, arch: str | Mapping) -> Mapping:
    """The settings that ``arch`` names or is; raises ValueError if it is none."""
    fields = list(next(iter(cls.arch_zoo.values())))
    if isinstance(arch, str) and arch.lower() in cls.arch_zoo:
        return cls.arch_zoo[arch.lower()]
    if isinstance(arch, Mapping) and set(arch) == set(fields):
        return arch
    raise ValueError(
        f'arch must be one of {", ".join(cls.arch_zoo)}, or a dict of '
        f'{", ".join(fields)}; got {arch!r}'
    )


def output_indices(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Which of ``length`` layers give an output; negative ones count from the last."""
    listed = [value] if is_int(value) else value
    fits = is_list(listed) and len(listed) > 0
    if not fits or not all(is_int(i) and -length <= i < length for i in listed):
        raise ValueError(
            f'out_indices must be integers in {-length}..{length - 1}, got {value!r}'
        )
    return tuple(i % length for i in listed)


def check_drop_paths(backbone: nn.Module) -> None:
    """Make rates Python's floats, as NumPy's break graphs; ValueError unless below 1.

    Configs of single blocks may bring rates of their own.
    """
    for module in backbone.modules():
        if isinstance(module, DropPath):
            drop_prob = rate_below_one('drop_path_rate', module.drop_prob)
            module.drop_prob = float(drop_prob)


def check_dense_arguments(
    vit: nn.Module,
    window_size: int,
    global_attn_indexes: Sequence[int],
    use_rel_pos: bool,
) -> None:
    """Raise ValueError for windows and indexes that cannot be."""
    indices('global_attn_indexes', global_attn_indexes, vit.num_layers)
    if vit.num_extra_tokens and (window_size or use_rel_pos):
        raise ValueError(
            'a class token or registers have no place in windows or relative '
            'positions; set with_cls_token=False and num_registers=0'
        )
    fits = is_int(vit.frozen_stages) and vit.frozen_stages >= -1
    if not fits or vit.frozen_stages > vit.num_layers:
        raise ValueError(
            f'frozen_stages must be -1 (none), 0 (embeddings) to {vit.num_layers} '
            f'(all layers), got {vit.frozen_stages!r}'
        )
