"""Arguments that are left out mean what they mean in the stock layers."""

import inspect

import pytest
from mmpretrain.models.utils import MultiheadAttention, WindowMSA

from mmmanikey.attention import ManifoldKeyAttention, ManifoldKeyWindowMSA


@pytest.mark.parametrize(
    ('ours', 'stock', 'args'),
    [
        (ManifoldKeyWindowMSA, WindowMSA, (12, (4, 4), 3)),
        (ManifoldKeyAttention, MultiheadAttention, (12, 3)),
    ],
)
def test_defaults_are_the_stock_layers(ours, stock, args):
    own = inspect.signature(ours).parameters
    shared = [p for p in inspect.signature(stock).parameters.values() if p.name in own]
    assert len(shared) > 4
    assert all(own[p.name].default == p.default for p in shared)
    layer = ours(*args)
    assert layer.state_dict().keys() == stock(*args).state_dict().keys()
    assert layer.key_residual is False
