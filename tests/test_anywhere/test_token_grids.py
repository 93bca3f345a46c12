"""Keys over tokens know the window that they mix, or say that they do not."""

import copy

import pytest
import torch
from test_families import BY_NAME, case_of, fixed
from torch import nn

import mmmanikey
from mmmanikey.attention import keyed

KEY = dict(type='SpatialK', num_charts=2, residual=True)
OWN = ('timm-Swin', 'timm-Swin V2', 'torchvision-Swin', 'torchvision-Swin V2')
OWN += ('mmpretrain-Swin V2', 'mmdet-Swin', 'transformers-Swin')
#: Attention modules, the grid that is declared for them, tokens before it.
DECLARED = {
    'timm-ViT': ('*', 4, 1),
    'timm-MaxViT': ('stages.0.*', (2, 2), 0),
    'timm-CoAtNet': ('stages.2.*', 4, 0),
    'torchvision-MaxViT': ('*', 4, 0),
    'mmpretrain-ViTSAM': ('layers.0.*', 4, 0),
    'mmdet-ViTDet of its projects (a stand-in)': ('blocks.0.*', 4, 0),
}
NOT_KNOWN = ('timm-ViT', 'timm-Hiera', 'torchvision-MaxViT', 'mmpretrain-ViTSAM')


def insert(case, **options):
    model = copy.deepcopy(case.stock)
    options = dict(case.family.around, example=case.x, **options)
    return model, mmmanikey.insert_keys(model, KEY, **options)


@pytest.mark.parametrize('name', OWN)
def test_the_attention_s_own_window(name):
    case = case_of(name)
    model, table = insert(case)
    assert {row['window'] for row in table} == {'4x4'}
    assert (fixed(model, case.x) - case.expected).abs().max() < 1e-6
    assert_mixes_windows(model, case)


@pytest.mark.parametrize('name', DECLARED)
def test_a_declared_grid(name):
    case = case_of(name)
    where, grid, extra = DECLARED[name]
    model, table = insert(case, where=where, window=grid)
    pair = grid if isinstance(grid, tuple) else (grid, grid)
    assert {row['window'] for row in table} == {f'{pair[0]}x{pair[1]}'}
    assert {m.key_place[1:] for m in keyed.keyed_layers(model).values()} == {
        (pair, extra)
    }
    assert (fixed(model, case.x) - case.expected).abs().max() < 1e-6
    assert_mixes_windows(model, case)


def assert_mixes_windows(model, case):
    """Each key gets sequences of tokens that it takes for a window, and learns."""
    layers = keyed.keyed_layers(model)
    shapes = []
    for layer in layers.values():
        nn.init.normal_(layer.key.out.weight)
        layer.key.register_forward_pre_hook(lambda key, args: shapes.append(args))
    assert (fixed(model, case.x) - case.expected).abs().max() > 0
    assert len(shapes) >= len(layers)
    for (tokens, grid), layer in zip(shapes, layers.values()):
        assert grid == layer.key_place[1]
        assert tokens.shape[1] == grid[0] * grid[1] + layer.key_place[2]


@pytest.mark.parametrize('name', NOT_KNOWN)
def test_a_window_is_never_guessed(name):
    with pytest.raises(ValueError, match=r'window=\(height, width\)'):
        insert(case_of(name))


def test_tokens_of_another_number_later():
    model, _ = insert(case_of('timm-ViT'), window=4)
    layer = model.blocks[0].attn.qkv
    with pytest.raises(
        ValueError, match=r'a key for 17 tokens, .* got .*\(2, 26, 16\)'
    ):
        layer(torch.randn(2, 26, 16))


SHAPES = [(3, 16, 8), (2, 3, 16, 8), (3, 4, 4, 8), (16, 8), (4, 4, 8), (2, 16, 4, 4, 8)]


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_windows_in_any_shape(shape):
    """Tokens of windows, windows as grids, or one window: the same numbers."""
    from mmmanikey.keys import build_key

    layer = nn.Linear(8, 24)
    layer.__class__ = keyed.keyed_class(nn.Linear, keyed.KeyedLayer)
    layer.put_key(
        build_key(dict(KEY, residual=False), 8, (4, 4)), torch.arange(8, 16), (4, 4), 0
    )
    x = torch.randn(shape)
    expected = layer.key(x.reshape(-1, 16, 8), (4, 4)).reshape(*shape[:-1], 8)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    change = layer(x) - plain
    assert torch.allclose(change[..., 8:16], expected, atol=1e-6)
    assert change[..., :8].abs().max() == change[..., 16:].abs().max() == 0


def test_names_exist():
    assert {*OWN, *DECLARED, *NOT_KNOWN} <= set(BY_NAME)
