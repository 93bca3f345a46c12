"""Weight decay leaves out what a key says. (Not from the paper.)

A chart's scale starts at one and multiplies its input, as a norm's weight does; decay
would pull it to zero. mmengine's constructors of optimisers tell parameters apart by
their names, their dimensions and the kind of norm they belong to
(``DefaultOptimWrapperConstructor.add_params`` in
https://github.com/open-mmlab/mmengine, mmengine/optim/optimizer), so there is nothing
that a parameter could be to be exempt under every config. But all constructors of
mmengine, mmdet, mmseg and mmpretrain make the optimiser in one method of their common
class, and here that method is extended. Models without such keys are not touched.
"""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from operator import attrgetter

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn
from torch.optim import Optimizer

from .key import ManifoldKey


def exempt_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the keys of a model name in ``free_of_decay``."""
    return {
        f'{name}.{part}': attrgetter(part)(key)
        for name, key in model.named_modules()
        if isinstance(key, ManifoldKey)
        for part in key.free_of_decay
    }


def exempt(optimizer: Optimizer, parameters: Collection[nn.Parameter]) -> None:
    """Move parameters into groups without decay, which are otherwise those they had."""
    free = set(map(id, parameters))
    for group in [*optimizer.param_groups]:
        here = [id(parameter) in free for parameter in group['params']]
        if not any(here) or not group.get('weight_decay'):
            continue
        if all(here):
            group['weight_decay'] = 0.0
            continue
        moved = {**group, 'weight_decay': 0.0}
        for entry in ('params', 'param_names'):  # the names are there in some groups
            if entry in group:
                listed = [*zip(group[entry], here)]
                moved[entry] = [value for value, is_free in listed if is_free]
                group[entry] = [value for value, is_free in listed if not is_free]
        optimizer.add_param_group(moved)


def decided(name: str, paramwise_cfg: Mapping) -> bool:
    """Whether a config itself speaks of a parameter, by the end of its name."""
    return any(
        key in name and key.rpartition('.')[2] == name.rpartition('.')[2]
        for key in paramwise_cfg.get('custom_keys', {})
    )


def exempting(make: Callable) -> Callable:
    """The method that makes an optimiser, extended."""

    @wraps(make)
    def call(self: DefaultOptimWrapperConstructor, model: nn.Module) -> OptimWrapper:
        wrapper = make(self, model)
        parameters = exempt_parameters(model)
        exempt(
            wrapper.optimizer,
            [p for n, p in parameters.items() if not decided(n, self.paramwise_cfg)],
        )
        return wrapper

    return call


DefaultOptimWrapperConstructor.__call__ = exempting(
    DefaultOptimWrapperConstructor.__call__
)
