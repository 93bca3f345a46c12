"""Registries of mmmanikey.

All but ``KEYS`` are children of mmengine's root registries in the scope ``mmmanikey``:
mmdet, mmseg and mmpretrain find what they hold through the scope prefix,
``type='mmmanikey.ManifoldKeySwin'``. ``KEYS`` holds the key strategies;
a project adds its own with ``@KEYS.register_module()`` and names it in a config.

From here on mmengine also resolves ``mmmanikey::pretrain/...`` in ``_base_``.
"""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

# Without an entry mmengine refuses the prefix.
MODULE2PACKAGE['mmmanikey'] = 'mmmanikey'

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmmanikey',
    locations=['mmmanikey.backbones', 'mmmanikey.necks'],
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_WEIGHT_INITIALIZERS,
    scope='mmmanikey',
    locations=['mmmanikey.checkpoint'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmmanikey',
    locations=['mmmanikey.engine.layer_decay'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmmanikey',
    locations=['mmmanikey.engine.bfloat16'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmmanikey',
    locations=['mmmanikey.engine.resume'],
)
STRATEGIES = Registry(
    'strategy',
    parent=MMENGINE_STRATEGIES,
    scope='mmmanikey',
    locations=['mmmanikey.engine.sharding'],
)
FUNCTIONS = Registry(
    'function',
    parent=MMENGINE_FUNCTIONS,
    scope='mmmanikey',
    locations=['mmmanikey.engine.sharding'],
)
KEYS = Registry('key', scope='mmmanikey', locations=['mmmanikey.keys'])
