"""Every form against the formula, and the formula chart by chart."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    CHANNEL_STRATEGIES,
    STRATEGIES,
    TOLERANCE,
    assert_same,
    gradients,
    group_wise,
    plain,
    randomize,
)

from mmmanikey import forms
from mmmanikey.keys import KUA, VanillaK, build_key

WINDOW = (3, 2)
ACTIVATIONS = [dict(type='GELU'), dict(type='Tanh'), None]


def make_key(name, **kwargs):
    kwargs.setdefault('embed_dims', 8)
    return randomize(build_key(dict(type=name, **kwargs), 8, WINDOW))


def assert_forms_agree(key, x, hw_shape=None):
    want = gradients(plain(lambda t: key(t, hw_shape)), x, key)
    applying = [form for form, why in forms.reasons(key, x, hw_shape) if why is None]
    assert any(form.transparent for form in applying)
    assert any(not form.transparent for form in applying) == is_gelu(key)
    for form in applying:
        got = gradients(partial(call, form, key, hw_shape), x, key)
        assert_close(got, want)
    if hw_shape is None:
        assert_close(gradients(lambda t: group_wise(key, t), x, key), want)


def call(form, key, hw_shape, x):
    return form(key, x, hw_shape)


def is_gelu(key):
    return isinstance(key.act, torch.nn.GELU)


def assert_close(got, want):
    tolerance = TOLERANCE[want[0].dtype]
    assert_same(got[0], want[0], tolerance)
    for name, grad in want[1].items():
        assert_same(got[1][name], grad, tolerance)


@pytest.mark.parametrize('dtype', list(TOLERANCE), ids=str)
@pytest.mark.parametrize('name', CHANNEL_STRATEGIES)
@given(
    batch=st.integers(1, 3),
    num_tokens=st.integers(1, 9),
    embed_dims=st.integers(1, 12),
    num_charts=st.integers(1, 5),
    hidden_ratio=st.floats(0.6, 2.0),
    act_cfg=st.sampled_from(ACTIVATIONS),
    out_dims=st.none() | st.integers(1, 12),
)
def test_channel_forms(
    name,
    dtype,
    batch,
    num_tokens,
    embed_dims,
    num_charts,
    hidden_ratio,
    act_cfg,
    out_dims,
):
    key = make_key(
        name,
        embed_dims=embed_dims,
        num_charts=num_charts,
        hidden_ratio=hidden_ratio,
        act_cfg=act_cfg,
        out_dims=out_dims,
    ).to(dtype)
    x = torch.randn(batch, num_tokens, embed_dims, dtype=dtype)
    assert key(x).shape == (batch, num_tokens, out_dims or embed_dims)
    assert_forms_agree(key, x)


@pytest.mark.parametrize('dtype', list(TOLERANCE), ids=str)
@given(
    batch=st.integers(1, 3),
    embed_dims=st.integers(1, 12),
    num_charts=st.integers(1, 5),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    grid=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_extra=st.integers(0, 2),
    act_cfg=st.sampled_from(ACTIVATIONS),
    out_dims=st.none() | st.integers(1, 12),
)
def test_spatial_forms(
    dtype, batch, embed_dims, num_charts, window, grid, num_extra, act_cfg, out_dims
):
    key = make_key(
        'SpatialK',
        embed_dims=embed_dims,
        num_charts=num_charts,
        window_size=window,
        act_cfg=act_cfg,
        out_dims=out_dims,
    ).to(dtype)
    if grid is None:
        num_tokens = window[0] * window[1]
    else:
        num_tokens = num_extra + grid[0] * grid[1]
    x = torch.randn(batch, num_tokens, embed_dims, dtype=dtype)
    assert_forms_agree(key, x, grid)


@pytest.mark.parametrize('name', STRATEGIES)
def test_gradcheck(name):
    key = make_key(name, embed_dims=4, num_charts=2).double()
    names = [n for n, _ in key.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(key, dict(zip(names, parameters)), (x,))

    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *key.parameters()))


@pytest.mark.parametrize('name', ['VanillaK', 'SimpleK'])
@pytest.mark.parametrize('out_dims', [None, 5])
def test_folded_mlp_is_the_same_function(name, out_dims):
    key = make_key(name, hidden_ratio=1.5, num_charts=3, out_dims=out_dims).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    mlp = key.fold()
    assert [type(m).__name__ for m in mlp] == ['Linear', 'GELU', 'Linear']
    assert_same(mlp(x), key(x), TOLERANCE[x.dtype])


def test_a_formula_of_its_own_does_not_fold():
    class LargestK(VanillaK):
        def fuse(self, z, x):
            return z.amax(dim=1)

    class NamedK(VanillaK):
        """The same formula."""

    for key in (LargestK(8), KUA(8)):
        with pytest.raises(NotImplementedError, match='a formula of its own, which'):
            key.fold()
    assert len(NamedK(8).fold()) == 3


def test_linear_charts_collapse_to_one_linear_key():
    key = make_key('VanillaK', act_cfg=None).double()
    x, y = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    offset = key(torch.zeros_like(x))
    assert_same(key(x + 2 * y) - offset, key(x) + 2 * key(y) - 3 * offset, 1e-10)


@pytest.mark.parametrize('name', STRATEGIES)
def test_charts_can_be_permuted(name):
    """No chart has a place of its own: their order does not change the key."""
    key = make_key(name, num_charts=4).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    before = key(x)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter_name, parameter in key.named_parameters():
            if parameter_name != 'out.weight':
                charts = parameter.unflatten(0, (4, -1))
                parameter.copy_(charts[order].flatten(0, 1).view_as(parameter))
    assert not torch.equal(key.scale, key.scale[order])
    assert_same(key(x), before, 1e-10)


def test_spatial_cuts_the_grid_into_padded_windows():
    """A 4 x 3 grid under a 3 x 2 window: four windows, zeros right and below."""
    key = make_key('SpatialK').double()
    grid = torch.randn(1, 4, 3, 8, dtype=torch.float64)
    padded = torch.zeros(1, 6, 4, 8, dtype=torch.float64)
    padded[:, :4, :3] = grid
    expected = torch.empty_like(padded)
    for top in (0, 3):
        for left in (0, 2):
            window = padded[:, top : top + 3, left : left + 2]
            out = group_wise(key, window.reshape(1, 6, 8))
            expected[:, top : top + 3, left : left + 2] = out.view(1, 3, 2, 8)
    actual = key(grid.view(1, 12, 8), hw_shape=(4, 3)).view(1, 4, 3, 8)
    assert_same(actual, expected[:, :4, :3], 1e-10)


def test_spatial_does_not_mix_extra_tokens():
    key = make_key('SpatialK').double()
    x = torch.randn(2, 1 + 12, 8, dtype=torch.float64)
    out = key(x, hw_shape=(4, 3))
    chart = torch.nn.functional.gelu(key.scale * x[:, :1])  # (B, H, C) by broadcast
    assert_same(out[:, :1], key.out(chart.mean(dim=1, keepdim=True)), 1e-10)
    assert_same(out[:, 1:], key(x[:, 1:], hw_shape=(4, 3)), 1e-10)


def test_spatial_mixes_tokens_and_channel_keys_do_not():
    """Changing one token changes the keys of others only under SpatialK."""
    for name in STRATEGIES:
        key = make_key(name)
        x = torch.randn(1, 6, 8)
        changed = x.clone()
        changed[:, 0] += 1
        others = (key(x) - key(changed))[:, 1:].abs().max()
        assert (others > 1e-3) == (name == 'SpatialK')


@pytest.mark.parametrize('name', STRATEGIES)
def test_autocast_stays_close(name):
    key = make_key(name)
    x = torch.randn(2, 6, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = key(x)
    assert_same(low.float(), key(x), 5e-2)
