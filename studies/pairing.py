"""Runs of one seed are paired: what arms have in common starts from the same weights.

The order of the images and what augmentation makes of them follow from the seed as
well: the sampler has the run's seed, and ``mmmanikey.EpochSeedHook`` seeds each epoch.
"""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from mmmanikey.registry import MODELS

CONFIGS = Path(__file__).resolve().parent / 'configs'


def built(cfg: Config, seed: int) -> nn.Module:
    """The model of a whole config as it starts with this seed."""
    init_default_scope(cfg.default_scope)
    set_random_seed(seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@torch.no_grad()
def start_alike(model: nn.Module, other: nn.Module, skip: str = '') -> list[str]:
    """Copy what two models have in common, by name and shape.

    A manifold key in place of the linear key leaves query and value of the stock layer:
    rows of ``qkv`` become those of ``qv``.

    Args:
        model (nn.Module): What is changed.
        other (nn.Module): Where weights are taken from.
        skip (str): Names with this prefix are left alone. Defaults to '', none.

    Returns:
        list[str]: The names in ``model`` that were set.
    """
    own, given = model.state_dict(), other.state_dict()
    for name, tensor in list(given.items()):
        if '.qkv.' in name:
            query, _, value = tensor.chunk(3)
            given[name.replace('.qkv.', '.qv.')] = torch.cat([query, value])
    common = [
        name
        for name in own
        if not (skip and name.startswith(skip))
        and name in given
        and own[name].shape == given[name].shape
    ]
    for name in common:
        own[name].copy_(given[name])
    return common


@HOOKS.register_module()
class PairedStart(Hook):
    """Start as another config's model of the same seed does, where both agree.

    Args:
        config (str): File of the other config, in ``studies/configs``.
        skip (str): Prefix of weights that keep their own start. Defaults to ''.
    """

    def __init__(self, config: str, skip: str = '') -> None:
        self.config, self.skip = config, skip

    def before_train(self, runner: Runner) -> None:
        if runner.iter == 0:
            other = built(Config.fromfile(CONFIGS / self.config), runner.seed)
            start_alike(runner.model, other, self.skip)
