"""Patches of patch merging against torch.nn.Unfold."""

import pytest
import torch
from torch import nn

from mmmanikey.backbones.patches import PatchUnfold


@pytest.mark.parametrize(
    'settings',
    [
        dict(kernel_size=(2, 2), stride=(2, 2)),
        dict(kernel_size=(3, 2), stride=(3, 2)),
        dict(kernel_size=(3, 3), stride=(2, 2)),  # overlapping
        dict(kernel_size=(2, 2), stride=(2, 2), padding=(1, 1)),
        dict(kernel_size=(2, 2), stride=(2, 2), dilation=(2, 2)),
    ],
)
@pytest.mark.parametrize('size', [(6, 8), (7, 9)])
def test_as_unfold(settings, size):
    settings = dict(dilation=(1, 1), padding=(0, 0)) | settings
    stock = nn.Unfold(**settings)
    ours = PatchUnfold(stock)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ours(x), stock(x))
    weights = torch.randn_like(stock(x))
    (actual,), (expected,) = (
        torch.autograd.grad((layer(x) * weights).sum(), x) for layer in (ours, stock)
    )
    assert torch.equal(actual, expected)


def test_tokens_need_no_copy():
    x = torch.randn(2, 6, 8, 3).permute(0, 3, 1, 2)  # channels last in memory
    stock = nn.Unfold((2, 2), (1, 1), (0, 0), (2, 2))
    assert PatchUnfold(stock)(x).transpose(1, 2).is_contiguous()
    assert not stock(x).transpose(1, 2).is_contiguous()
