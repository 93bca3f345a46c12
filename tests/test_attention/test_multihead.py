"""ViT's attention: the windows of the key and of the attention."""

import pytest
from oracles import CHANNEL_STRATEGIES

from mmmanikey.attention import ManifoldKeyAttention


@pytest.mark.parametrize('window', [0, 1, 7])
@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
def test_keys_over_channels_go_with_any_window(name, window):
    layer = ManifoldKeyAttention(12, 3, key=dict(type=name), window_size=window)
    assert layer.window_size == window


@pytest.mark.parametrize('window', [0, 14, 28])
def test_the_keys_window_divides_the_attentions(window):
    key = dict(type='SpatialK', num_charts=1)
    layer = ManifoldKeyAttention(12, 3, key=key, window_size=window)
    assert layer.key.window_size == (14, 14)
    with pytest.raises(ValueError, match=r'\(14, 14\) does not divide .* \(7, 7\)'):
        ManifoldKeyAttention(12, 3, key=key, window_size=7)
    with pytest.raises(ValueError, match=r'\(7, 4\) does not divide .* \(14, 14\)'):
        ManifoldKeyAttention(12, 3, key=dict(key, window_size=(7, 4)), window_size=14)
