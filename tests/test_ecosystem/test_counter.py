"""mmengine's counter of parameters and FLOPs, against counts by hand.

It reads a trace of the model and prints what mmdet's, mmpretrain's and mmseg's
``get_flops.py`` print: a multiply-accumulate is one, and an element of a norm is five.
"""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from oracles import STRATEGIES

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.keys import build_key

CHARTS = 8
NORM = 5
#: By strategy: multiply-accumulates per token of c channels in a window of n tokens,
#: and parameters.
MACS = {
    None: lambda c, n: c * c,
    'VanillaK': lambda c, n: 2 * CHARTS * c * c,
    'SimpleK': lambda c, n: CHARTS * c * c + c * c,
    'KUA': lambda c, n: 2 * CHARTS * c * c + CHARTS * c,
    'SpatialK': lambda c, n: CHARTS * n * c + c * c,
}
PARAMS = {
    None: lambda c, n: c * c + c,
    'VanillaK': lambda c, n: CHARTS * (c + c * c + c + c * c),
    'SimpleK': lambda c, n: CHARTS * (c + c * c + c) + c * c,
    'KUA': lambda c, n: CHARTS * (c + c * c + c + c * c + c) + c * CHARTS + CHARTS,
    'SpatialK': lambda c, n: CHARTS * (c + n * n + n) + c * c,
}


def block_params(c):
    """Two norms, query and value, the output, and an MLP four times as wide."""
    return 4 * c + 2 * (c * c + c) + c * c + c + 8 * c * c + 5 * c


def swin_t(strategy):
    """FLOPs and parameters at 224 x 224, where every map is whole windows of 7 x 7."""
    patch = 4 * 4 * 3
    flops = 56**2 * (patch * 96 + NORM * 96) + NORM * 49 * 768
    params = patch * 96 + 96 + 2 * 96 + 2 * 768
    for depth, heads, c, side in zip(
        (2, 2, 6, 2), (3, 6, 12, 24), (96, 192, 384, 768), (56, 28, 14, 7)
    ):
        key = MACS[strategy](c, 49)
        token = 3 * c * c + key + 2 * 49 * c + 8 * c * c + 2 * NORM * c
        flops += depth * side**2 * token
        table = 13**2 * heads
        params += depth * (block_params(c) + PARAMS[strategy](c, 49) + table)
        if side > 7:  # merging of 2 x 2 tokens
            flops += side**2 // 4 * (4 * c * 2 * c + NORM * 4 * c)
            params += 4 * c * 2 * c + 2 * 4 * c
    return flops, params


def vit_b(strategy):
    """FLOPs and parameters at 224 x 224: a class token and 14 x 14 patches."""
    c, grid = 768, 14**2
    tokens = grid + 1
    key = tokens * MACS[strategy](c, grid)
    if strategy == 'SpatialK':
        key -= CHARTS * grid * c  # the class token is not mixed
    layer = key + tokens * (3 * c * c + 2 * tokens * c + 8 * c * c + 2 * NORM * c)
    flops = grid * 16 * 16 * 3 * c + 12 * layer + NORM * tokens * c
    params = 16 * 16 * 3 * c + c + c + tokens * c + 2 * c
    params += 12 * (block_params(c) + PARAMS[strategy](c, grid))
    return flops, params


@pytest.fixture
def zero_weights(monkeypatch):
    """Drawing a hundred million weights would take longer than counting them."""
    for name in ('trunc_normal_', 'kaiming_uniform_'):
        monkeypatch.setattr(torch.nn.init, name, lambda x, **_: torch.nn.init.zeros_(x))


@torch.no_grad()
@pytest.mark.parametrize('strategy', MACS)
@pytest.mark.parametrize(
    ('backbone', 'arch', 'by_hand'),
    [(ManifoldKeySwin, 'tiny', swin_t), (ManifoldKeyViT, 'deit-base', vit_b)],
    ids=['swin_t', 'vit_b'],
)
def test_swin_t_and_vit_b(zero_weights, backbone, arch, by_hand, strategy):
    """What ``get_model_complexity_info`` returns, without its count of activations."""
    model = backbone(arch, key=strategy and dict(type=strategy, num_charts=CHARTS))
    flops = FlopAnalyzer(model.eval(), torch.zeros(1, 3, 224, 224)).total()
    assert (flops, parameter_count(model)['']) == by_hand(strategy)


class Reference(torch.nn.Module):
    """A key in the paper's form, with group-wise convolutions."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def forward(self, x):
        return self.key.fuse(self.key.charts(x), x)


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_grouped_convolutions(strategy):
    c, n = 12, 16
    cfg = dict(type=strategy, num_charts=CHARTS)
    key = build_key(cfg, c, window_size=(4, 4))
    flops = FlopAnalyzer(Reference(key), torch.zeros(2, n, c)).total()
    assert flops == 2 * n * MACS[strategy](c, n)
