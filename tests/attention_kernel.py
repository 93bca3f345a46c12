"""What a kernel of CUDA computes, for hosts without a GPU."""

import pytest
import torch

from mmmanikey.forms import fused_windows


def attend(query, key, value, bias, learns, scale):
    """What the kernel of CUDA computes; it returns more, for its backward pass."""
    assert learns is True
    assert all(x.stride(-1) == 1 for x in (query, key, value))  # it takes no others
    weights = (scale * query @ key.transpose(2, 3) + bias).softmax(dim=-1)
    out = (weights @ value).transpose(1, 2).contiguous().transpose(1, 2)
    return out, weights.new_ones(1), weights.new_ones(2), weights.new_ones(3)


def attend_backward(
    grad, query, key, value, bias, out, one, two, three, dropout, needed, scale
):
    assert (len(one), len(two), len(three), dropout) == (1, 2, 3, 0)
    leaves = [x.detach().requires_grad_() for x in (query, key, value, bias)]
    with torch.enable_grad():
        again, *_ = attend(*leaves, True, scale)
    assert torch.equal(again, out)
    return torch.autograd.grad(again, leaves, grad)


@pytest.fixture(scope='module')
def on_cpu():
    """The kernel's two operators exist on CUDA alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_windows, 'efficient_attention', attend)
        patch.setattr(fused_windows, 'efficient_attention_backward', attend_backward)
        yield
