"""The arguments of other frameworks' stock backbones, in mmpretrain's words.

Our backbones extend mmpretrain's classes. A config of mmdet or mmseg whose backbone
becomes one of ours keeps the arguments of its own stock class, with their meaning and
their defaults: each table below lists them, as the class of that name does in
https://github.com/open-mmlab/mmdetection and
https://github.com/open-mmlab/mmsegmentation.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..arguments import (
    is_list,
    positive_int,
    positive_number,
    positive_pair,
    rate,
    switch,
    typed_config,
)

Arguments = Mapping[str, object]


class Unsaid(str):
    """A default by which a function sees that it was not given another value."""


@dataclass(frozen=True)
class Spelling:
    """The arguments of one stock class.

    Args:
        stock (str): Name of the class, for errors.
        defaults (Mapping[str, object]): Its arguments, with their defaults.
        translate (Callable): The arguments of our backbone, from all of these.
    """

    stock: str
    defaults: Arguments
    translate: Callable[[Arguments], dict[str, object]]


def translated(
    given: Arguments,
    stock: str,
    known: Collection[str],
    own: Arguments,
    spellings: Sequence[Spelling],
) -> dict[str, object]:
    """Arguments for our backbone, in whichever spelling they were given.

    The first spelling that knows all of them counts, mmpretrain's before all others.

    Args:
        given (Mapping[str, object]): Arguments by name, without our own.
        stock (str): Name of mmpretrain's class, for errors.
        known (Collection[str]): Arguments of mmpretrain's class.
        own (Mapping[str, object]): Arguments of our backbone, which go with every
            spelling.
        spellings (Sequence[Spelling]): The others.

    Returns:
        dict[str, object]: Arguments of mmpretrain's class, and what the translation of
        a spelling adds to them.

    Raises:
        TypeError: If an argument is unknown, or two spellings are mixed.
    """
    words = {stock: [*known], **{each.stock: [*each.defaults] for each in spellings}}
    if not [name for name in given if name not in known]:
        return dict(given)
    for each in spellings:
        if all(name in each.defaults for name in given):
            shared = {n: value for n, value in own.items() if n in each.defaults}
            named = each.translate({**each.defaults, **given, **shared})
            if twice := [n for n in named if own.get(n) and n not in shared]:
                raise TypeError(
                    f'{", ".join(twice)} says again what the arguments of '
                    f'{each.stock} say; leave it out'
                )
            return named
    raise TypeError(no_spelling_words(given, words, [*own, 'init_cfg', 'pretrained']))


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

    Args:
        name (str): Name of the argument, for errors.
        img_size (int | tuple[int]): One side or two, also as ``(side,)``.
        patch_size (int | tuple[int, int]): Side or sides of a patch.
    """
    if is_list(img_size) and len(img_size) == 1:
        img_size = img_size[0]
    image = positive_pair(name, img_size)
    patch = positive_pair('patch_size', patch_size)
    return tuple(i // p * p for i, p in zip(image, patch))


def from_mmdet_swin(given: Arguments) -> dict[str, object]:
    """mmdet's and mmseg's ``SwinTransformer``.

    What mmpretrain's class does not do by itself: every norm is ``norm_cfg``'s,
    ``drop_rate`` is also that of attention and MLP, positions are those of the whole
    patches of ``pretrain_img_size``, and maps of any size are padded.
    """
    positive_number('mlp_ratio', given['mlp_ratio'])
    typed_config('norm_cfg', given['norm_cfg'])
    norm = given['norm_cfg'] if switch('patch_norm', given['patch_norm']) else None
    switch('convert_weights', given['convert_weights'])  # a file's names tell
    arch = {name: given[name] for name in ('embed_dims', 'depths', 'num_heads')}
    stages = len(arch['depths']) if is_list(arch['depths']) else 1
    strides = stage_strides(given['strides'], stages, given['patch_size'])
    blocks = dict(
        ffn_ratio=given['mlp_ratio'],
        norm_cfg=given['norm_cfg'],
        attn_cfgs=dict(
            qkv_bias=switch('qkv_bias', given['qkv_bias']),
            qk_scale=given['qk_scale'],
            attn_drop=rate('attn_drop_rate', given['attn_drop_rate']),
            proj_drop=rate('drop_rate', given['drop_rate']),
        ),
        ffn_cfgs=dict(
            ffn_drop=given['drop_rate'],
            act_cfg=typed_config('act_cfg', given['act_cfg']),
        ),
    )
    same = ('in_channels', 'patch_size', 'window_size', 'out_indices', 'drop_rate')
    same += ('drop_path_rate', 'use_abs_pos_embed', 'norm_cfg')
    return dict(
        arch=arch,
        img_size=whole_patches(
            'pretrain_img_size', given['pretrain_img_size'], given['patch_size']
        ),
        pad_small_map=True,
        patch_cfg=dict(norm_cfg=norm),
        stage_cfgs=[
            dict(block_cfgs=blocks, downsample_cfg=dict(norm_cfg=norm, stride=stride))
            for stride in [*strides[1:stages], 2]  # the last stage has no merging
        ],
        classifier_norm=False,
        **{name: given[name] for name in same},
    )


#: Both frameworks have this class; ``convert_weights`` is mmdet's.
MMDET_SWIN = Spelling(
    stock="mmdet's SwinTransformer",
    defaults=dict(
        pretrain_img_size=224,
        in_channels=3,
        embed_dims=96,
        patch_size=4,
        window_size=7,
        mlp_ratio=4,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        strides=(4, 2, 2, 2),
        out_indices=(0, 1, 2, 3),
        qkv_bias=True,
        qk_scale=None,
        patch_norm=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
        use_abs_pos_embed=False,
        act_cfg=dict(type='GELU'),
        norm_cfg=dict(type='LN'),
        convert_weights=False,
    ),
    translate=from_mmdet_swin,
)
