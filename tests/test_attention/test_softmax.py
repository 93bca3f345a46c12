"""The attention that tracers see, and what fused CUDA kernels are given."""

import pytest
import torch
from oracles import TOLERANCE, assert_same
from torch._subclasses import FakeTensorMode

from mmmanikey.attention.vit import attention
from mmmanikey.forms.window_attention import aligned


def tensors():
    parts = torch.randn(3, 2, 4, 5, 3, dtype=torch.float64)
    return *parts, torch.randn(2, 1, 5, 5, dtype=torch.float64)[0]


@pytest.mark.parametrize('biased', [False, True])
def test_a_trace_has_the_products_of_the_fused_form(biased):
    *parts, bias = tensors()
    bias = bias if biased else None
    want = attention(*parts, bias, 0.3)
    traced = torch.jit.trace(lambda *parts: attention(*parts, bias, 0.3), parts)
    assert 'scaled_dot_product' not in str(traced.graph)
    assert_same(traced(*parts), want, TOLERANCE[want.dtype])


def test_dropout_in_both_forms():
    """Everything dropped is zero."""
    *parts, bias = tensors()

    def drop(*parts):
        return attention(*parts, bias, 0.3, 1.0)

    assert not drop(*parts).any()
    assert not torch.jit.trace(drop, tuple(parts))(*parts).any()


@pytest.mark.parametrize(('length', 'row'), [(49, 56), (64, 64), (1, 8)])
def test_rows_of_the_bias_are_aligned_on_cuda(length, row):
    with FakeTensorMode():
        bias = torch.empty(3, length, length, device='cuda')
        rows = aligned(bias)
    assert rows.shape == bias.shape
    assert rows.stride(1) == row
