"""The arguments of other frameworks' stock backbones, in mmpretrain's words.

Our backbones extend mmpretrain's classes. A config of mmdet or mmseg whose backbone
becomes one of ours keeps the arguments of its own stock class, with their meaning and
their defaults: the signature of each translation below lists them, as the class of that
name does in https://github.com/open-mmlab/mmdetection and
https://github.com/open-mmlab/mmsegmentation.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence

from ..arguments import (
    is_list,
    positive_int,
    positive_number,
    positive_pair,
    rate,
    switch,
    typed_config,
)

LAYER_NORM, GELU = dict(type='LN'), dict(type='GELU')


class Unsaid(str):
    """A default by which a function sees that it was not given another value."""


def defaults_of(translate: Callable) -> dict[str, object]:
    """The arguments of a function, and so of a stock class, with their defaults."""
    parameters = inspect.signature(translate).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def in_stock_words(cls: type, given: Mapping, own: Mapping) -> dict[str, object]:
    """Arguments by the names that mmpretrain's class has for them.

    The first spelling that knows all ``given`` ones counts, mmpretrain's before all
    others; those of the backbone itself, ``own``, go with every spelling. The result
    has ``arch`` and ``out_indices``, and what the translation of a spelling adds.
    """
    if 'key_residual' in given:
        raise TypeError(
            f"key_residual={given['key_residual']!r} is now part of the key's config: "
            f"key=dict(type='SpatialK', num_charts=8, "
            f'residual={given["key_residual"]!r})'
        )
    parameters = inspect.signature(cls.stock_class).parameters
    known = [name for name in parameters if name not in (*own, 'init_cfg')]
    given = {n: value for n, value in given.items() if not isinstance(value, Unsaid)}
    named = dict(given)
    if not all(name in known for name in given):
        named = translated(given, known, own, cls.spellings)
    if named is None:
        words = {f"mmpretrain's {cls.stock_class.__name__}": known}
        words |= {stock: [*defaults_of(f)] for stock, f in cls.spellings.items()}
        beside = [*own, 'init_cfg', 'pretrained']
        raise TypeError(no_spelling_words(given, words, beside))
    for name in ('arch', 'out_indices'):
        named.setdefault(name, parameters[name].default)
    return named


def translated(
    given: Mapping, known: Collection, own: Mapping, spellings: Mapping[str, Callable]
) -> dict[str, object] | None:
    """Arguments in a spelling that knows all of them, translated; None if none does."""
    for stock, translate in spellings.items():
        defaults = defaults_of(translate)
        if all(name in defaults for name in given):
            shared = {n: value for n, value in own.items() if n in defaults}
            said = {**defaults, **given, **shared}
            same = {n: value for n, value in said.items() if n in known or n in own}
            named = {**same, **translate(**said)}
            if twice := [n for n in named if own.get(n) and n not in shared]:
                raise TypeError(
                    f'{", ".join(twice)} says again what the arguments of {stock} say; '
                    'leave it out'
                )
            return named
    return None


def no_spelling_words(
    given: Collection[str], words: Mapping[str, Sequence[str]], own: Collection[str]
) -> str:
    """Why arguments are those of no stock class, in one sentence."""
    nearest = max(words, key=lambda stock: sum(name in words[stock] for name in given))
    strange = [name for name in given if name not in words[nearest]]
    known = {name: stock for stock in words for name in words[stock]}
    if unknown := [name for name in given if name not in known]:
        listed = ', '.join(dict.fromkeys([*own, *words[nearest]]))
        return (
            f'the backbone has no argument {", ".join(unknown)}; it takes {listed} as '
            f'{nearest} does; where the others come from a base config with a backbone '
            'of another kind, begin with _delete_=True'
        )
    other = known[strange[0]]
    of_nearest = [name for name in given if name not in words[other]]
    return (
        f'the arguments of two classes are mixed: {", ".join(of_nearest)} of {nearest} '
        f'and {", ".join(strange)} of {other}; spell all of them as one of these does'
    )


def stage_strides(strides: object, stages: int, patch_size: object) -> Sequence[int]:
    """mmdet's strides of patch embedding and patch merging, one for each stage."""
    if not is_list(strides) or len(strides) < stages:
        raise ValueError(
            f'strides must list a number for each of {stages} stages, got {strides!r}'
        )
    for stride in strides:
        positive_int('each of strides', stride)
    if positive_pair('patch_size', patch_size) != (strides[0], strides[0]):
        raise ValueError(
            f'the first of strides must be patch_size, {patch_size}, since patches do '
            f'not overlap; got {strides!r}'
        )
    return strides


def whole_patches(name: str, img_size: object, patch_size: object) -> tuple[int, ...]:
    """The part of an image that mmdet and mmseg make positions for.

    ``img_size`` is one side or two, also as ``(side,)``.
    """
    if is_list(img_size) and len(img_size) == 1:
        img_size = img_size[0]
    image = positive_pair(name, img_size)
    patch = positive_pair('patch_size', patch_size)
    return tuple(i // p * p for i, p in zip(image, patch))


def from_mmdet_swin(
    pretrain_img_size: int | Sequence[int] = 224,
    in_channels: int = 3,
    embed_dims: int = 96,
    patch_size: int = 4,
    window_size: int = 7,
    mlp_ratio: float = 4,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    strides: Sequence[int] = (4, 2, 2, 2),
    out_indices: Sequence[int] = (0, 1, 2, 3),
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    patch_norm: bool = True,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    use_abs_pos_embed: bool = False,
    act_cfg: dict = GELU,
    norm_cfg: dict = LAYER_NORM,
    convert_weights: bool = False,
) -> dict[str, object]:
    """mmdet's and mmseg's ``SwinTransformer``; ``convert_weights`` is mmdet's.

    What mmpretrain's class does not do by itself: every norm is ``norm_cfg``'s,
    ``drop_rate`` is also that of attention and MLP, positions are those of the whole
    patches of ``pretrain_img_size``, and maps of any size are padded.
    """
    positive_number('mlp_ratio', mlp_ratio)
    typed_config('norm_cfg', norm_cfg)
    norm = norm_cfg if switch('patch_norm', patch_norm) else None
    switch('convert_weights', convert_weights)  # a file's names tell
    stages = len(depths) if is_list(depths) else 1
    strides = stage_strides(strides, stages, patch_size)
    blocks = dict(
        ffn_ratio=mlp_ratio,
        norm_cfg=norm_cfg,
        attn_cfgs=dict(
            qkv_bias=switch('qkv_bias', qkv_bias),
            qk_scale=qk_scale,
            attn_drop=rate('attn_drop_rate', attn_drop_rate),
            proj_drop=rate('drop_rate', drop_rate),
        ),
        ffn_cfgs=dict(ffn_drop=drop_rate, act_cfg=typed_config('act_cfg', act_cfg)),
    )
    return dict(
        arch=dict(embed_dims=embed_dims, depths=depths, num_heads=num_heads),
        img_size=whole_patches('pretrain_img_size', pretrain_img_size, patch_size),
        pad_small_map=True,
        patch_cfg=dict(norm_cfg=norm),
        stage_cfgs=[
            dict(block_cfgs=blocks, downsample_cfg=dict(norm_cfg=norm, stride=stride))
            for stride in [*strides[1:stages], 2]  # the last stage has no merging
        ],
        classifier_norm=False,
    )
