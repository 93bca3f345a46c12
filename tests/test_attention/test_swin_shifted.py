"""Shifted windows as one permutation, against mmpretrain's copies and masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import ShiftWindowMSA
from oracles import TOLERANCE, assert_same, gradients, randomize
from torch._subclasses import FakeTensorMode

from mmmanikey.attention import ManifoldKeyShiftWindowMSA
from mmmanikey.forms import crossovers
from mmmanikey.forms import pieces as common
from mmmanikey.forms.window_grid import from_windows, to_windows, window_grid
from mmmanikey.keys.windows import MASKED, window_masks


def make_pair(window=3, shift=0, **kwargs):
    """mmpretrain's layer, and ours with its weights."""
    settings = dict(window_size=window, shift_size=shift, pad_small_map=True)
    stock = randomize(ShiftWindowMSA(8, 2, **settings)).double()
    ours = ShiftWindowMSA(8, 2, **settings, **kwargs)
    ours = ManifoldKeyShiftWindowMSA.adopt(ours).double()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


# So little dropout switches the forms off, and drops nothing.
@pytest.mark.parametrize('attn_drop', [0.0, 1e-30])
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.integers(2, 4),
    shifted=st.booleans(),
)
def test_equals_mmpretrain_with_all_gradients(
    attn_drop, batch, height, width, window, shifted
):
    shift = window // 2 if shifted else 0
    stock, ours = make_pair(window, shift, attn_drop=attn_drop)
    x = torch.randn(batch, height * width, 8, dtype=torch.float64)
    hw_shape = (height, width)
    want, want_grads = gradients(lambda t: stock(t, hw_shape), x, stock)
    got, got_grads = gradients(lambda t: ours(t, hw_shape), x, ours)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


@pytest.mark.filterwarnings('error:An output with one or more elements was resized')
@pytest.mark.parametrize('buffer_bytes', [1, 3000])
def test_pieces_of_any_size_give_the_same(buffer_bytes, monkeypatch):
    stock, ours = make_pair(shift=1)
    x = torch.randn(2, 56, 8, dtype=torch.float64)
    want, want_grads = gradients(lambda t: stock(t, (7, 8)), x, stock)
    monkeypatch.setitem(common.BUFFER_BYTES, 'cpu', buffer_bytes)
    got, got_grads = gradients(lambda t: ours(t, (7, 8)), x, ours)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


def test_dropout_of_the_weights_takes_the_other_way():
    """Everything dropped leaves the projection's bias; in eval mode nothing is."""
    stock, ours = make_pair(shift=1, attn_drop=1.0)
    x = torch.randn(1, 30, 8, dtype=torch.float64)
    bias = ours.w_msa.proj.bias.expand(1, 30, 8)
    assert_same(ours(x, (5, 6)), bias, 1e-10)
    ours.train(False)
    assert_same(ours(x, (5, 6)), stock(x, (5, 6)), 1e-10)


@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.integers(2, 4),
    shift=st.integers(0, 1),
)
def test_windows_and_back(batch, height, width, window, shift):
    x = torch.randn(batch * height * width, 2)
    grid = window_grid(batch, height, width, window, shift, x.device, x.dtype)
    windows = to_windows(x, grid)
    assert len(windows) == sum(grid.counts)
    assert len(grid.masks) == len(grid.counts)
    assert torch.equal(from_windows(windows, grid), x)
    assert windows.count_nonzero() == x.numel()  # the rest is padding


def test_masks_by_hand():
    """Windows of 2 x 2 shifted by 1: in the corner every token is alone."""
    grid = window_grid(1, 4, 4, 2, 1, torch.device('cpu'), torch.float32)
    assert grid.counts == (1, 1, 1, 1)
    apart = (grid.masks[..., :4] == MASKED).int()
    assert apart[0].sum() == 0
    assert apart[1].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert apart[2].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert apart[3].tolist() == (1 - torch.eye(4, dtype=torch.int)).tolist()


def test_grids_made_at_inference_serve_training():
    window_grid.cache_clear()
    _, ours = make_pair(shift=1)
    x = torch.randn(1, 30, 8, dtype=torch.float64)
    with torch.inference_mode(), crossovers.ignored():
        ours(x, (5, 6))
    ours(x, (5, 6)).sum().backward()
    assert window_grid.cache_info().hits == 1


def test_the_cache_of_grids_is_bounded():
    for size in range(1, 200):
        window_grid(1, size, 1, 2, 1, torch.device('cpu'), torch.float32)
    assert window_grid.cache_info().currsize <= 64


def test_grids_are_made_where_and_as_wanted():
    like = torch.ones(1, device='meta', dtype=torch.float16)
    grid = window_grid(2, 5, 6, 4, 2, like.device, like.dtype)
    assert {grid.places.device, grid.tokens.device} == {like.device}
    assert (grid.masks.device, grid.masks.dtype) == (like.device, like.dtype)
    masks = window_masks(5, 6, 4, 2, like=like)
    assert (masks.device, masks.dtype) == (like.device, like.dtype)
    assert masks.shape == (4, 16, 16)
    with FakeTensorMode():  # stands for a GPU, whose tensors do not mix with others
        like = torch.ones(1, device='cuda', dtype=torch.float16)
        masks = window_masks(5, 6, 4, 2, like=like)
    assert masks.device.type == 'cuda'


def test_too_small_a_map_is_one_sentence():
    _, ours = make_pair()
    ours.pad_small_map = False
    with pytest.raises(
        ValueError, match='2 x 5 tokens is smaller than the window of 3'
    ):
        ours(torch.randn(1, 10, 8, dtype=torch.float64), (2, 5))


def test_a_single_window_is_shifted_only_where_small_maps_are_padded():
    _, ours = make_pair(shift=1)
    assert ours.shift_for(3, 9) == ours.shift_for(2, 9) == 1
    ours.pad_small_map = False
    assert ours.shift_for(3, 9) == ours.shift_for(9, 3) == 0
    assert ours.shift_for(4, 9) == 1


@pytest.mark.parametrize('hw_shape', [(14, 14), (7, 7), (98, 2)])
def test_tokens_that_do_not_fill_the_grid(hw_shape):
    """Twice as many would mix two images of the batch."""
    _, ours = make_pair()
    with pytest.raises(ValueError, match='98 tokens do not fill a grid of'):
        ours(torch.randn(2, 98, 8, dtype=torch.float64), hw_shape)


def test_only_the_stock_layer_is_adopted():
    class Other(ShiftWindowMSA):
        pass

    with pytest.raises(TypeError, match='expected a ShiftWindowMSA, got a Other'):
        ManifoldKeyShiftWindowMSA.adopt(Other(8, 2, window_size=3))
