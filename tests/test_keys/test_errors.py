"""Bad arguments: one clear sentence each, at construction."""

import pytest
import torch
from oracles import group_wise
from torch import nn

from mmmanikey import forms
from mmmanikey.keys import KUA, SimpleK, SpatialK, VanillaK, build_key
from mmmanikey.keys.activation import build_activation
from mmmanikey.keys.from_config import with_residual
from mmmanikey.registry import KEYS

BAD_ARGUMENTS = [
    (dict(num_charts=0), ValueError, 'num_charts must be a positive integer, got 0'),
    (dict(num_charts=-2), ValueError, 'num_charts must be a positive integer, got -2'),
    (
        dict(num_charts=8.0),
        ValueError,
        'num_charts must be a positive integer, got 8.0',
    ),
    (dict(num_charts=True), ValueError, 'num_charts must be a positive .* got True'),
    (dict(embed_dims=0), ValueError, 'embed_dims must be a positive integer, got 0'),
    (dict(out_dims=0), ValueError, 'out_dims must be a positive integer, got 0'),
    (dict(embed_dims='96'), ValueError, "embed_dims must be a positive .* got '96'"),
    (dict(act_cfg='GELU'), TypeError, "act_cfg must be None or a dict .* got 'GELU'"),
    (dict(act_cfg=dict(approximate='none')), TypeError, "dict with 'type', got {"),
    (
        dict(act_cfg=dict(type='Gelu')),
        ValueError,
        "names no activation .* 'Gelu'; take",
    ),
    (dict(act_cfg=dict(type='GELU', foo=1)), ValueError, "'foo': 1} does not work"),
    (dict(act_cfg=dict(type='GELU', approximate='x')), ValueError, 'does not work'),
    (
        dict(act_cfg=dict(type='Threshold', threshold=20, value=0)),
        ValueError,
        'does not work: it is constant',
    ),
    (dict(act_cfg=dict(type='GLU')), ValueError, "on each value alone: 'GLU'"),
    (dict(act_cfg=dict(type=nn.GLU)), ValueError, 'on each value alone: <class'),
    *(
        (dict(act_cfg=dict(type=name, **args)), ValueError, message)
        for name, args, message in (
            ('Softmax', dict(dim=-1), 'on each value alone'),
            ('Softmax', dict(dim=1), 'on each value alone'),
            ('LogSoftmax', dict(dim=0), 'on each value alone'),
            ('Softmin', dict(dim=-1), 'on each value alone'),
            ('Softmax2d', dict(), 'on each value alone'),
            ('MultiheadAttention', dict(), 'on each value alone'),
            ('RReLU', dict(), 'on each value alone'),
            ('PReLU', dict(num_parameters=2), 'does not work'),
            ('PReLU', dict(num_parameters=96), 'does not work'),
        )
    ),
    (dict(charts=8), ValueError, 'has no argument charts; it takes embed_dims, num_'),
    *(
        (dict(residual=wrong), TypeError, 'residual must be True or False, got')
        for wrong in ('True', 1, None)
    ),
]
BAD_RATIOS = [0, -1.0, float('inf'), float('nan'), '1', True]
BAD_WINDOWS = [0, -7, 7.0, (7,), (7, 7, 7), (7, 0), True]


@pytest.mark.parametrize(('kwargs', 'error', 'message'), BAD_ARGUMENTS)
@pytest.mark.parametrize('name', ['VanillaK', 'SimpleK', 'KUA', 'SpatialK'])
def test_bad_arguments(name, kwargs, error, message):
    with pytest.raises(error, match=message) as info:
        build_key(dict(type=name, **kwargs), 96, (7, 7))
    assert '\n' not in str(info.value)


ELEMENTWISE = (
    'CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish '
    'PReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink'
)


@pytest.mark.parametrize(
    'act_cfg',
    [
        *(dict(type=name) for name in ELEMENTWISE.split()),
        dict(type='Threshold', threshold=0.1, value=20),
        dict(type='ReLU', inplace=True),
    ],
)
def test_activations_of_single_values(act_cfg):
    with torch.device('meta'):
        act = build_activation(act_cfg)
    assert type(act).__name__ == act_cfg['type']
    assert all(weight.is_meta for weight in act.parameters())


@pytest.mark.parametrize('ratio', BAD_RATIOS)
@pytest.mark.parametrize('cls', [VanillaK, SimpleK, KUA])
def test_bad_hidden_ratio(cls, ratio):
    with pytest.raises(ValueError, match='hidden_ratio must be a positive number'):
        cls(96, hidden_ratio=ratio)


def test_hidden_ratio_that_leaves_no_channel():
    with pytest.raises(ValueError, match='rounds to no hidden channel'):
        VanillaK(4, hidden_ratio=0.1)


@pytest.mark.parametrize('window', BAD_WINDOWS)
def test_bad_window(window):
    with pytest.raises(ValueError, match='window_size must be'):
        SpatialK(96, window_size=window)


@pytest.mark.parametrize('value', ['False', 1, None])
def test_triton_is_a_switch(value):
    with pytest.raises(TypeError, match='^triton must be True or False, got'):
        SpatialK(96, window_size=7, triton=value)


def test_spatial_without_window():
    with pytest.raises(ValueError, match='needs window_size'):
        SpatialK(96)


def test_spatial_is_no_channel_key():
    with pytest.raises(ValueError, match='SpatialK has no argument hidden_ratio'):
        build_key(dict(type='SpatialK', hidden_ratio=2.0), 96, (7, 7))


@pytest.mark.parametrize(
    ('num_tokens', 'hw_shape', 'message'),
    [
        (48, None, 'takes 49 tokens, or hw_shape .* got 48 tokens'),
        (50, None, 'takes 49 tokens, or hw_shape .* got 50 tokens'),
        (63, (8, 8), r'63 tokens do not fill the grid of hw_shape \(8, 8\)'),
    ],
)
@pytest.mark.parametrize('choice', ['fast', 'plain'])
def test_tokens_that_do_not_fit_the_window(choice, num_tokens, hw_shape, message):
    key = SpatialK(8, window_size=7)
    with forms.use(choice), pytest.raises(ValueError, match=message):
        key(torch.randn(1, num_tokens, 8), hw_shape)


@pytest.mark.parametrize('cls', [VanillaK, SimpleK, KUA, SpatialK])
@pytest.mark.parametrize('shape', [(1, 49, 7), (49, 8), (1, 1, 49, 8)])
def test_tokens_of_another_shape(cls, shape):
    key = cls(8, **(dict(window_size=7) if cls is SpatialK else {}))
    sentence = rf'^{cls.__name__} expects tokens of shape \(B, N, 8\), got'
    with pytest.raises(ValueError, match=sentence):
        key(torch.randn(shape))


def test_unknown_type_names_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown key type 'SpacialK'.*KUA, SimpleK, S"
    ):
        build_key(dict(type='SpacialK'), 96)


@pytest.mark.parametrize('type_', [8, ['VanillaK'], nn.Linear, dict])
def test_type_that_is_no_key(type_):
    with pytest.raises(TypeError, match='the type of a key must be a ManifoldKey, got'):
        build_key(dict(type=type_), 96)


def test_type_may_be_the_class_itself():
    assert isinstance(build_key(dict(type=VanillaK), 8), VanillaK)


@pytest.mark.parametrize('cfg', ['SpatialK', dict(num_charts=8), 8])
def test_config_that_is_no_config(cfg):
    with pytest.raises(TypeError, match="must be None or a dict with 'type'"):
        build_key(cfg, 96)


def test_config_is_left_as_it_was():
    cfg = dict(type='VanillaK', act_cfg=dict(type='GELU'))
    build_key(cfg, 96)
    assert cfg == dict(type='VanillaK', act_cfg=dict(type='GELU'))


def test_a_project_registers_its_own_key():
    @KEYS.register_module()
    class HalfK(VanillaK):
        def fuse(self, z, x):
            return super().fuse(z, x) / 2

    try:
        key = build_key(dict(type='HalfK', num_charts=2), 8)
        assert isinstance(key, HalfK)
        assert isinstance(key, nn.Module)
        x = torch.randn(1, 3, 8)
        assert torch.allclose(key(x) * 2, group_wise(key, x), atol=1e-6)
    finally:
        KEYS.module_dict.pop('HalfK')


@pytest.mark.parametrize('name', ['VanillaK', 'SimpleK', 'KUA', 'SpatialK'])
def test_what_is_left_out_and_the_least_that_is_taken(name):
    key = build_key(dict(type=name), 1, (1, 1))
    assert key.num_charts == 8
    assert key(torch.randn(2, 1, 1)).shape == (2, 1, 1)


def test_a_key_that_hands_on_its_arguments():
    class Wrapping(VanillaK):
        def __init__(self, *args, extra=1, **kwargs):
            super().__init__(*args, **kwargs)

    key = build_key(dict(type=Wrapping, num_charts=2, extra=3), 8)
    assert (key.num_charts, key.embed_dims) == (2, 8)
    with pytest.raises(TypeError, match='nonsense'):
        build_key(dict(type=Wrapping, nonsense=2), 8)


def test_residual_of_what_is_no_config():
    with pytest.raises(TypeError, match="a dict or a list of these, got 'VanillaK'"):
        with_residual('VanillaK', True)
