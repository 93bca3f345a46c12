"""Registries of mmmanikey.

All but ``KEYS`` are children of mmengine's root registries in the scope ``mmmanikey``:
mmdet, mmseg and mmpretrain find what they hold through the scope prefix,
``type='mmmanikey.ManifoldKeySwin'``. ``KEYS`` holds the key strategies;
a project adds its own with ``@KEYS.register_module()`` and names it in a config.

From here on mmengine also resolves ``mmmanikey::pretrain/...`` in ``_base_``.
"""

from mmengine import registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

# Without an entry mmengine refuses the prefix.
MODULE2PACKAGE['mmmanikey'] = 'mmmanikey'


def child(parent: Registry, *modules: str) -> Registry:
    """Our registry below one of mmengine's; these modules fill it when it is asked."""
    locations = [f'mmmanikey.{module}' for module in modules]
    return Registry(parent.name, parent=parent, scope='mmmanikey', locations=locations)


MODELS = child(registry.MODELS, 'backbones', 'necks')
WEIGHT_INITIALIZERS = child(registry.WEIGHT_INITIALIZERS, 'checkpoint')
OPTIM_WRAPPER_CONSTRUCTORS = child(
    registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine.layer_decay'
)
OPTIM_WRAPPERS = child(registry.OPTIM_WRAPPERS, 'engine.bfloat16')
HOOKS = child(registry.HOOKS, 'engine.resume')
STRATEGIES = child(registry.STRATEGIES, 'engine.sharding')
FUNCTIONS = child(registry.FUNCTIONS, 'engine.sharding')
KEYS = Registry('key', scope='mmmanikey', locations=['mmmanikey.keys'])
