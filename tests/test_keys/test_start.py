"""Parameters: names, shapes, counts, the matched start, and what softmax ignores."""

import pytest
import torch
from oracles import STRATEGIES, randomize
from torch import nn

from mmmanikey.keys import (
    KUA,
    SimpleK,
    SpatialK,
    VanillaK,
    build_key,
    with_residual,
)
from mmmanikey.keys.activation import activation_std

SWIN_DIMS = (96, 128, 192, 256, 384, 512, 768, 1024)
VIT_DIMS = (192, 384, 768)


def deviation_over_tokens(key):
    """Root mean square over channels of the deviation over tokens, in each window."""
    return key.var(dim=1).mean().sqrt().item()


@pytest.mark.parametrize('num_charts', [1, 2, 4, 8, 16])
@pytest.mark.parametrize('embed_dims', sorted({*SWIN_DIMS, *VIT_DIMS}))
@pytest.mark.parametrize('name', STRATEGIES)
def test_matched_start(name, embed_dims, num_charts):
    with torch.no_grad():
        key = build_key(dict(type=name, num_charts=num_charts), embed_dims, (7, 7))
        stock = nn.Linear(embed_dims, embed_dims)
        nn.init.trunc_normal_(stock.weight, std=0.02)
        x = torch.randn(6, 49, embed_dims)
        ratio = deviation_over_tokens(key(x)) / deviation_over_tokens(stock(x))
    assert 0.85 <= ratio <= 1.15


@pytest.mark.parametrize('out_dims', [96, 768])
@pytest.mark.parametrize('name', STRATEGIES)
def test_matched_start_of_a_narrower_and_a_wider_key(name, out_dims):
    with torch.no_grad():
        key = build_key(dict(type=name, out_dims=out_dims), 384, (7, 7))
        ratio = deviation_over_tokens(key(torch.randn(6, 49, 384))) / (0.02 * 384**0.5)
    assert 0.85 <= ratio <= 1.15


@pytest.mark.parametrize('act_cfg', [None, dict(type='ReLU'), dict(type='Tanh')])
def test_matched_start_for_other_activations(act_cfg):
    with torch.no_grad():
        key = VanillaK(384, act_cfg=act_cfg)
        x = torch.randn(4, 49, 384)
        ratio = deviation_over_tokens(key(x)) / (0.02 * 384**0.5)
    assert 0.85 <= ratio <= 1.15


def test_matched_start_for_vit_windows():
    with torch.no_grad():
        key = SpatialK(384, window_size=14)
        x = torch.randn(4, 196, 384)
        ratio = deviation_over_tokens(key(x)) / (0.02 * 384**0.5)
    assert 0.85 <= ratio <= 1.15


def test_activation_std_by_hand():
    assert activation_std(None) == pytest.approx(1, abs=1e-3)
    # E[relu^2] - E[relu]^2 = 1/2 - 1/(2 pi)
    assert activation_std(dict(type='ReLU')) == pytest.approx(
        (0.5 - 0.5 / torch.pi) ** 0.5, abs=1e-3
    )


def test_measuring_leaves_the_activation_as_it_is():
    """PReLU has a parameter, and it is measured in float64."""
    assert VanillaK(8, act_cfg=dict(type='PReLU')).act.weight.dtype == torch.float32


@pytest.mark.parametrize('name', STRATEGIES)
def test_init_weights_restores_the_start(name):
    """An outer init_cfg overwrites every Linear; the key puts its own back."""
    torch.manual_seed(1)
    key = build_key(dict(type=name), 96, (7, 7))
    fresh = {n: p.std().item() for n, p in key.named_parameters() if p.numel() > 2000}
    nn.init.constant_(key.scale, 5.0)
    for parameter in key.parameters():
        nn.init.constant_(parameter, 5.0)
    key.init_weights()
    assert torch.equal(key.scale, torch.ones_like(key.scale))
    for parameter_name, std in fresh.items():
        restored = dict(key.named_parameters())[parameter_name].std().item()
        assert restored == pytest.approx(std, rel=0.05, abs=1e-9)


def test_names_and_shapes():
    C, H, d, N = 12, 3, 18, 6
    channel = {
        'scale': (H, C),
        'conv1.weight': (H * d, C, 1),
        'conv1.bias': (H * d,),
    }
    expected = {
        VanillaK: {**channel, 'conv2.weight': (H * C, d, 1)},
        SimpleK: {**channel, 'out.weight': (C, d)},
        KUA: {
            **channel,
            'conv2.weight': (H * C, d, 1),
            'conv2.bias': (H * C,),
            'membership.weight': (H, C),
            'membership.bias': (H,),
        },
        SpatialK: {
            'scale': (H, C),
            'conv1.weight': (H * N, N, 1),
            'conv1.bias': (H * N,),
            'out.weight': (C, C),
        },
    }
    for cls, shapes in expected.items():
        own = dict(window_size=(3, 2)) if cls is SpatialK else dict(hidden_ratio=1.5)
        key = cls(C, num_charts=H, **own)
        assert {n: tuple(p.shape) for n, p in key.state_dict().items()} == shapes
        convs = [m for m in key.modules() if isinstance(m, nn.Conv1d)]
        assert all(conv.groups == H and conv.kernel_size == (1,) for conv in convs)


@pytest.mark.parametrize(
    ('C', 'H', 'ratio'), [(96, 8, 1.0), (40, 4, 0.25), (32, 1, 8.0)]
)
def test_parameter_counts_follow_the_formulas(C, H, ratio):
    d, N = round(ratio * C), 49
    formulas = {
        VanillaK(C, H, ratio): H * C + H * d * C + H * d + H * C * d,
        SimpleK(C, H, ratio): H * C + H * d * C + H * d + C * d,
        KUA(C, H, ratio): H * C + H * d * C + H * d + H * C * d + H * C + H * C + H,
        SpatialK(C, H, 7): H * C + H * N * N + H * N + C * C,
    }
    for key, count in formulas.items():
        assert sum(p.numel() for p in key.parameters()) == count


def attention(query, key):
    return (query @ key.transpose(-1, -2) * 8**-0.5).softmax(dim=-1)


def test_a_constant_on_all_keys_is_invisible():
    """Why biases on what becomes the key are absent."""
    query, key = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    constant = torch.randn(8, dtype=torch.float64)
    assert torch.allclose(attention(query, key), attention(query, key + constant))


def test_biases_that_stay_are_seen_by_attention():
    """Every remaining bias moves the attention; the absent ones could not."""
    for name in STRATEGIES:
        key = randomize(build_key(dict(type=name, num_charts=3), 8, (3, 3)).double())
        x = torch.randn(2, 9, 8, dtype=torch.float64)
        query = torch.randn(2, 9, 8, dtype=torch.float64)
        weight = torch.randn(2, 9, 9, dtype=torch.float64)
        (attention(query, key(x)) * weight).sum().backward()
        assert not any(n in ('out.bias',) for n, _ in key.named_parameters())
        for parameter_name, parameter in key.named_parameters():
            assert parameter.grad.abs().max() > 1e-6, f'{name}.{parameter_name}'


@pytest.mark.parametrize('name', STRATEGIES)
def test_zero_last_layer_makes_the_key_zero_but_able_to_learn(name):
    key = build_key(dict(type=name), 16, (3, 3))
    key.zero_last_layer()
    x = torch.randn(2, 9, 16)
    assert not key(x).any()
    key(x).mul(torch.randn(2, 9, 16)).sum().backward()
    grads = [p.grad.abs().max() for n, p in key.named_parameters() if n in LAST_LAYERS]
    assert grads
    assert min(grads) > 0


LAST_LAYERS = ('out.weight', 'conv2.weight', 'conv2.bias')


@pytest.mark.parametrize('name', STRATEGIES)
def test_a_residual_key_starts_at_zero(name):
    """Alone as well, and after whatever an outer initialisation made of it."""
    x = torch.randn(2, 16, 12)
    key = build_key(dict(type=name, residual=True), 12, (4, 4))
    other = build_key(dict(type=name, residual=False), 12, (4, 4))
    assert key.residual
    assert not key(x).any()
    assert not other.residual
    assert other(x).any()
    for each in key, other:
        randomize(each)
        each.init_weights()
    assert not key(x).any()
    assert other(x).any()
    assert key.state_dict().keys() == other.state_dict().keys()
    parts = zip(key.parameters(), other.parameters())
    zeros = [bool(one.any()) != bool(two.any()) for one, two in parts]
    assert sum(zeros) == 1  # the last layer alone, so that it learns


def test_residual_in_the_config_of_each_stage():
    key = dict(type='VanillaK', residual=False)
    assert with_residual([None, key], True) == [None, dict(key, residual=True)]
    assert with_residual(key, True) == dict(key, residual=True)
