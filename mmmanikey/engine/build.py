"""Models of configs, built without the weights that they start from."""

import copy

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .cli import UsageError, drop_init_cfg, in_one_line


def set_scope(cfg: Config) -> None:
    """Look names up where the config says; Python-style ones say ``None``: nowhere."""
    scope = cfg.get('default_scope', 'mmmanikey')
    if scope is not None:
        init_default_scope(scope)


def is_detector(cfg: Config) -> bool:
    """Whether a config is of one of mmdet's detectors."""
    kind = cfg.model.get('type')
    if isinstance(kind, str):
        set_scope(cfg)
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return 'BaseDetector' in [base.__name__ for base in getattr(kind, '__mro__', ())]


def build_from(cfg: Config, whole: bool = False, **changes: object) -> nn.Module:
    """Build the backbone of a config, or all of its model, with random weights.

    Args:
        cfg (Config): From :func:`.cli.read_config`. Not changed.
        whole (bool): The whole model. Defaults to False.
        **changes (object): Arguments of the backbone that replace the config's.

    Raises:
        UsageError: If there is no backbone, or the model cannot be built.
    """
    model = cfg.get('model') or {}
    if not model.get('backbone'):
        raise UsageError(f'{cfg.filename!r} has no model with a backbone')
    set_scope(cfg)
    try:
        return build_model(model, whole, **changes)
    except Exception as error:  # constructors of any project
        part = 'model' if whole else 'backbone'
        raise UsageError(
            f'cannot build the {part} of {cfg.filename!r}: {in_one_line(error)}'
        ) from error


def build_model(model: dict, whole: bool = False, **changes: object) -> nn.Module:
    """As :func:`build_from`, of a model's config, and with the errors as they are."""
    model = copy.deepcopy(dict(model))
    drop_init_cfg(model['backbone'])
    model['backbone'] = {**model['backbone'], **changes}
    return MODELS.build(model if whole else model['backbone'])
