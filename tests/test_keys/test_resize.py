"""SpatialK between windows: by value, and errors."""

import pytest
import torch
from oracles import assert_same, randomize

from mmmanikey.keys import SpatialK
from mmmanikey.resize import interpolation_matrix, resize_token_mixing


def load(source, target):
    target.load_state_dict(source.state_dict(), strict=True)
    return target


def test_interpolation_matrix_is_torchs_bicubic():
    grid = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(grid, size=(6, 5), mode='bicubic')
    matrix = interpolation_matrix((3, 4), (6, 5))
    assert_same((matrix @ grid.flatten()).view(1, 1, 6, 5), expected, 1e-10)


@pytest.mark.parametrize('windows', [(7, 12), (4, 6)])
def test_mixing_commutes_with_interpolation_when_growing(windows):
    """W'(A x) = A(W x), for each chart, bias included."""
    old, new = windows
    small = randomize(SpatialK(5, num_charts=3, window_size=old)).double()
    large = load(small, SpatialK(5, num_charts=3, window_size=new).double())
    grow = interpolation_matrix((old, old), (new, new))
    x = torch.randn(old * old, 5, dtype=torch.float64)
    for chart in range(3):
        part = slice(chart * old * old, (chart + 1) * old * old)
        mixed = small.conv1.weight[part, :, 0] @ x + small.conv1.bias[part, None]
        part = slice(chart * new * new, (chart + 1) * new * new)
        weight, bias = large.conv1.weight[part, :, 0], large.conv1.bias[part, None]
        assert_same(weight @ (grow @ x) + bias, grow @ mixed, 1e-9)


def test_shrinking_is_the_stated_product():
    large = randomize(SpatialK(5, num_charts=2, window_size=14)).double()
    small = load(large, SpatialK(5, num_charts=2, window_size=7).double())
    shrink = interpolation_matrix((14, 14), (7, 7))
    weight = large.conv1.weight.view(2, 196, 196)
    expected = shrink @ weight @ torch.linalg.pinv(shrink)
    assert_same(small.conv1.weight.view(2, 49, 49), expected, 1e-9)
    assert_same(
        small.conv1.bias.view(2, 49), large.conv1.bias.view(2, 196) @ shrink.t(), 1e-9
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_resized_tensors_keep_their_dtype(dtype):
    source = SpatialK(5, num_charts=2, window_size=2).to(dtype)
    weight, bias = source.conv1.weight, source.conv1.bias
    resized = resize_token_mixing(weight, bias, (2, 2), (3, 3))
    assert [tensor.dtype for tensor in resized] == [dtype, dtype]


def test_same_window_loads_bit_for_bit():
    source = randomize(SpatialK(5, num_charts=2, window_size=4))
    target = load(source, SpatialK(5, num_charts=2, window_size=4))
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_other_number_of_charts():
    source = SpatialK(5, num_charts=2, window_size=4)
    with pytest.raises(ValueError, match='has 2 charts and the key 3'):
        load(source, SpatialK(5, num_charts=3, window_size=4))


@pytest.mark.parametrize('window', [(2, 3), (1, 16)])
@pytest.mark.parametrize('target', [(4, 4), (4, 6)])
def test_a_state_dict_tells_its_window(window, target):
    """Also where another window holds as many tokens."""
    source = randomize(SpatialK(5, num_charts=2, window_size=window)).double()
    loaded = load(source, SpatialK(5, num_charts=2, window_size=target).double())
    weight, bias = source.conv1.weight, source.conv1.bias
    matrix = interpolation_matrix(window, target)
    expected = matrix @ weight.view(2, matrix.shape[1], -1) @ torch.linalg.pinv(matrix)
    assert_same(loaded.conv1.weight.view_as(expected), expected, 1e-9)
    assert_same(loaded.conv1.bias.view(2, -1), bias.view(2, -1) @ matrix.t(), 1e-9)


def test_a_window_that_is_neither_told_nor_square():
    weights = dict(SpatialK(5, num_charts=2, window_size=(2, 3)).state_dict())
    key = SpatialK(5, num_charts=2, window_size=4)
    with pytest.raises(ValueError, match='6 rows, which belong to no square') as info:
        key.load_state_dict(weights)
    assert 'set window_size to' in str(info.value)
    assert '\n' not in str(info.value)
    same = SpatialK(5, num_charts=2, window_size=(3, 2))
    same.load_state_dict(weights)  # as many tokens: as in any other network
    assert torch.equal(same.conv1.weight, weights['conv1.weight'])


@pytest.mark.parametrize(
    ('weight', 'bias'),
    [
        ((18, 9, 3), (18,)),  # a wider kernel
        ((20, 9, 1), (20,)),  # rows of no whole charts
        ((20, 9, 3), (18,)),
        ((18, 9, 1), (9,)),  # biases of other rows
        ((0, 0, 1), (0,)),
        ((18, 9), (18,)),
    ],
)
def test_what_is_no_token_mixing_is_left_alone(weight, bias):
    key = SpatialK(5, num_charts=2, window_size=4)
    weights = {'conv1.weight': torch.randn(weight), 'conv1.bias': torch.randn(bias)}
    before = dict(weights)
    assert not list(key.adapt(weights, '', None))
    assert all(weights[name] is before[name] for name in before)


def test_a_bias_of_another_dtype_is_left_alone():
    key = SpatialK(5, num_charts=2, window_size=4)
    weights = dict(SpatialK(5, num_charts=2, window_size=3).state_dict())
    weights['conv1.bias'] = weights['conv1.bias'].double()
    assert not list(key.adapt(weights, '', None))


def test_as_many_tokens_as_the_keys_own_window():
    """A window that is told and has as many tokens is still another one."""
    key = SpatialK(5, num_charts=2, window_size=(2, 3))
    weights = dict(SpatialK(5, num_charts=2, window_size=(3, 2)).state_dict())
    assert [name for name, why in key.adapt(weights, '', (3, 2)) if not why] == [
        'conv1.weight',
        'conv1.bias',
    ]
    assert not list(key.adapt(weights, '', None))
