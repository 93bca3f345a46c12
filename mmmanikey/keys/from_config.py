"""Keys from their configs."""

import copy
import inspect
from collections.abc import Mapping, Sequence

from ..arguments import switch
from ..registry import KEYS
from .key import ManifoldKey


def with_residual(
    cfg: dict | None | Sequence[dict | None], residual: bool
) -> dict | None | list[dict | None]:
    """A backbone's ``key``, one config or a list, with this ``residual`` in each."""
    if cfg is None:
        return None
    if isinstance(cfg, Mapping):
        return {**cfg, 'residual': residual}
    if isinstance(cfg, str):
        raise TypeError(f'key must be None, a dict or a list of these, got {cfg!r}')
    return [with_residual(each, residual) for each in cfg]


def build_key(
    cfg: dict, embed_dims: int, window_size: tuple[int, int] | None = None
) -> ManifoldKey:
    """Build a key for an attention layer from its config.

    Args:
        cfg (dict): ``dict(type='SpatialK', num_charts=8, ...)``. Besides the arguments
            of its class it takes ``residual`` (bool): the key is added to a linear key,
            and zero at the start. Defaults to False.
        embed_dims (int): Channels of the layer.
        window_size (tuple[int, int], optional): The layer's window. Given to
            strategies that need one and whose config does not name it.

    Returns:
        ManifoldKey: The key. Adding it is up to the layer, see its ``residual``.

    Raises:
        TypeError: If ``cfg`` is no dict with a ``type``, the type no key, or
            ``residual`` no bool.
        ValueError: If the type is unknown or an argument is wrong.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"key must be None or a dict with 'type', got {cfg!r}")
    args = copy.deepcopy(dict(cfg))
    name = args.pop('type')
    cls = KEYS.get(name) if isinstance(name, str) else name
    if cls is None:
        known = ', '.join(sorted(KEYS.module_dict))
        raise ValueError(f'unknown key type {name!r}; registered keys are {known}')
    if not inspect.isclass(cls) or not issubclass(cls, ManifoldKey):
        raise TypeError(f'the type of a key must be a ManifoldKey, got {name!r}')
    residual = switch('residual', args.pop('residual', False))
    args.setdefault('embed_dims', embed_dims)
    if cls.needs_window and window_size is not None:
        args.setdefault('window_size', window_size)
    allowed = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in allowed.values())
    if not takes_any and (unknown := sorted(set(args) - set(allowed))):
        raise ValueError(
            f'{cls.__name__} has no argument {", ".join(unknown)}; '
            f'it takes {", ".join([*allowed, "residual"])}'
        )
    key = cls(**args)
    key.residual = residual
    if residual:
        key.zero_last_layer()
    return key
