"""Patches of patch merging against torch.nn.Unfold, and padding against mmcv's."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import AdaptivePadding
from torch import nn

from mmmanikey.backbones.patches import PatchPadding, PatchUnfold


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
    ours = PatchUnfold(**settings)
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
    ours = PatchUnfold((2, 2), (1, 1), (0, 0), (2, 2))
    assert ours(x).transpose(1, 2).is_contiguous()
    assert not stock(x).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize('padding', ['corner', 'same'])
@pytest.mark.parametrize(
    ('kernel_size', 'stride', 'dilation'),
    [(4, 4, 1), ((3, 2), (3, 2), 1), (7, 4, 1), (3, 2, 2), (2, 4, 1)],
    ids=['patches', 'oblong', 'overlapping', 'dilated', 'gaps'],
)
def test_padding_is_mmcvs(kernel_size, stride, dilation, padding):
    stock = AdaptivePadding(kernel_size, stride, dilation, padding)
    ours = PatchPadding(kernel_size, stride, dilation, padding)
    for size in [(8, 12), (9, 11), (1, 7), (12, 14)]:
        x = torch.randn(2, 3, *size)
        assert torch.equal(ours(x), stock(x))


def test_whole_patches_are_not_copied():
    x = torch.randn(2, 3, 8, 12)
    assert PatchPadding(4, 4)(x) is x
