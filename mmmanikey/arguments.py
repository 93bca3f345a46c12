"""Checks of arguments: one sentence with the value and what was allowed.

PyTorch and the frameworks take much that they fail on later, or never: a drop rate of
-0.1, or the string 'False' for False. Each check returns the value or raises.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real


def is_int(value: object) -> bool:
    """Whether ``value`` is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_list(value: object) -> bool:
    """Whether ``value`` is a list, a tuple or alike, and no string."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def positive_int(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is an int of at least 1."""
    if not is_int(value) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {value!r}')
    return value


def natural(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is an int of at least 0."""
    if not is_int(value) or value < 0:
        raise ValueError(f'{name} must be 0 or a positive integer, got {value!r}')
    return value


def positive_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) from one positive int or a pair of them."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f'{name} must be an int or (height, width), got {value!r}')
    return tuple(positive_int(name, side) for side in pair)


def number(name: str, value: float, least: float = 0, most: float = math.inf) -> float:
    """Return ``value``, or raise ValueError unless it is finite and in the range."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        allowed = f'from {least} to {most}' if most < math.inf else f'from {least} on'
        raise ValueError(f'{name} must be a number {allowed}, got {value!r}')
    return value


def positive_number(name: str, value: float) -> float:
    """As :func:`number` without 0."""
    try:
        is_positive = number(name, value) > 0
    except ValueError:
        is_positive = False
    if not is_positive:
        raise ValueError(f'{name} must be a positive number, got {value!r}')
    return value


def rate(name: str, value: float) -> float:
    """As :func:`number`, from 0 to 1."""
    return number(name, value, most=1)


def rate_below_one(name: str, value: float) -> float:
    """As :func:`rate` without 1: drop path divides by what it keeps."""
    if rate(name, value) == 1:
        raise ValueError(f'{name} must be less than 1, got {value!r}')
    return value


def switch(name: str, value: bool) -> bool:
    """Return ``value``, or raise TypeError unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')
    return value


def one_of(*allowed: object) -> Callable[[str, object], object]:
    """A check for one of the values ``allowed``."""

    def check(name: str, value: object) -> object:
        if value not in allowed:
            names = ', '.join(map(repr, allowed))
            raise ValueError(f'{name} must be one of {names}; got {value!r}')
        return value

    return check


def indices(name: str, value: Sequence[int], length: int) -> list[int]:
    """Return a list, or raise unless these are ints in 0..length - 1."""
    if not is_list(value):
        raise TypeError(f'{name} must be a list of integers, got {value!r}')
    for i in value:
        if not is_int(i) or not 0 <= i < length:
            raise ValueError(
                f'{name} must be in 0..{length - 1}, got {i!r} in {value!r}'
            )
    return list(value)


def config(name: str, value: Mapping) -> Mapping:
    """Return ``value``, or raise TypeError unless it is a dict."""
    if not isinstance(value, Mapping):
        raise TypeError(f'{name} must be a dict, got {value!r}')
    return value


def typed_config(name: str, value: Mapping) -> Mapping:
    """Return ``value``, or raise TypeError unless it is a dict that names a type."""
    if not isinstance(value, Mapping) or 'type' not in value:
        raise TypeError(f"{name} must be a dict with 'type', got {value!r}")
    return value


def configs(
    name: str,
    value: Mapping | None | Sequence[Mapping | None],
    length: int,
    each: str = 'layer',
    optional: bool = False,
) -> list[Mapping | None]:
    """Return a dict for each of some layers, from one for all or a list.

    Args:
        name (str): Name of the argument, for the error.
        value (Mapping | None | Sequence[Mapping | None]): One dict, or a list.
        length (int): How many layers there are.
        each (str): What one of them is called, for the error. Defaults to 'layer'.
        optional (bool): Whether ``None`` may stand for a dict. Defaults to False.

    Raises:
        TypeError: If it is neither a dict nor a list of dicts.
        ValueError: If a list has the wrong length.
    """
    allowed = (Mapping, type(None)) if optional else Mapping
    listed = [value] * length if isinstance(value, allowed) else value
    if not is_list(listed) or not all(isinstance(item, allowed) for item in listed):
        raise TypeError(
            f'{name} must be {"None, " * optional}a dict, or a list with one of these '
            f'per {each}; got {value!r}'
        )
    if len(listed) != length:
        raise ValueError(
            f'{name} lists {len(listed)} configs for {length} {each}s; give one dict '
            f'for all, or one entry per {each}'
        )
    return list(listed)


def heads_of(embed_dims: int, num_heads: int) -> int:
    """Return ``num_heads``, or raise ValueError unless they divide the channels."""
    positive_int('embed_dims', embed_dims)
    positive_int('num_heads', num_heads)
    if embed_dims % num_heads:
        raise ValueError(
            f'num_heads must divide embed_dims, got {num_heads} heads for '
            f'{embed_dims} channels'
        )
    return num_heads


def type_name(cfg: Mapping) -> str:
    """The bare name of a config's type: a name with its scope, or a class."""
    kind = cfg.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
