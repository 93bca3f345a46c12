"""The attention of ViT that tracers see."""

import pytest
import torch
from oracles import TOLERANCE, assert_same

from mmmanikey.forms.fused_attention import fused_attention


def tensors():
    parts = torch.randn(3, 2, 4, 5, 3, dtype=torch.float64)
    return *parts, torch.randn(2, 1, 5, 5, dtype=torch.float64)[0]


@pytest.mark.parametrize('biased', [False, True])
def test_a_trace_has_the_products_of_the_fused_form(biased):
    *parts, bias = tensors()
    bias = bias if biased else None
    want = fused_attention(*parts, bias, 0.3)
    traced = torch.jit.trace(lambda *parts: fused_attention(*parts, bias, 0.3), parts)
    assert 'scaled_dot_product' not in str(traced.graph)
    assert_same(traced(*parts), want, TOLERANCE[want.dtype])


def test_dropout_in_both_forms():
    """Everything dropped is zero."""
    *parts, bias = tensors()

    def drop(*parts):
        return fused_attention(*parts, bias, 0.3, 1.0)

    assert not drop(*parts).any()
    assert not torch.jit.trace(drop, tuple(parts))(*parts).any()
