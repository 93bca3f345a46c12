"""The backbones' arguments, checked before anything is built.

mmpretrain's classes accept much that fails later, or is ignored without a word.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence

from ..arguments import (
    config,
    is_int,
    is_list,
    one_of,
    positive_int,
    positive_pair,
    rate,
    rate_below_one,
    switch,
)

Checks = Mapping[str, Callable[[str, object], object]]

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
    stock: type, checks: Checks, args: Sequence, kwargs: Mapping, **own: object
) -> dict[str, object]:
    """Check the arguments of a backbone.

    Args:
        stock (type): mmpretrain's class, which the backbone extends.
        checks (Checks): A check for each argument that has one.
        args (Sequence): Arguments for that class, after ``arch``.
        kwargs (Mapping): More of them, by name.
        **own: Arguments of the backbone itself.

    Returns:
        dict[str, object]: ``args`` and ``kwargs`` by name, and ``out_indices``.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If it is of another kind, or unknown.
    """
    parameters = inspect.signature(stock).parameters
    names = [name for name in parameters if name not in (*own, 'arch', 'init_cfg')]
    if 'key_residual' in kwargs:
        raise TypeError(
            f"key_residual={kwargs['key_residual']!r} is now part of the key's config: "
            f"key=dict(type='SpatialK', num_charts=8, "
            f'residual={kwargs["key_residual"]!r})'
        )
    if unknown := [name for name in kwargs if name not in names]:
        raise TypeError(
            f'the backbone has no argument {", ".join(unknown)}; it takes '
            f'{", ".join(["arch", *own, *names, "init_cfg"])}'
        )
    named = {**dict(zip([*parameters][1:], args)), **kwargs}
    for name, value in {**named, **own}.items():
        if name in checks:
            checks[name](name, value)
    named.setdefault('out_indices', parameters['out_indices'].default)
    return named


def arch_settings(cls: type, arch: str | Mapping) -> Mapping:
    """The settings that ``arch`` names or is.

    Raises:
        ValueError: If the name is unknown, or the dict has other entries than those of
            the known ones.
    """
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
    """Which of ``length`` layers give an output; negative ones count from the last.

    Raises:
        ValueError: If there is none or one is out of range.
    """
    listed = [value] if is_int(value) else value
    fits = is_list(listed) and len(listed) > 0
    if not fits or not all(is_int(i) and -length <= i < length for i in listed):
        raise ValueError(
            f'out_indices must be integers in {-length}..{length - 1}, got {value!r}'
        )
    return tuple(i % length for i in listed)
