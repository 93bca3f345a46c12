"""SimpleFPN: strides, shapes, gradients, and where it refuses."""

import pytest
import torch
from mmengine.registry import MODELS

from mmmanikey.necks import SimpleFPN


@pytest.mark.parametrize('num_outs', [4, 5])
@pytest.mark.parametrize('size', [(8, 8), (12, 10), (7, 9)])
def test_shapes_and_strides(num_outs, size):
    """A map of stride 16 becomes strides 4, 8, 16, 32 and 64."""
    neck = MODELS.build(
        dict(
            type='mmmanikey.SimpleFPN',
            in_channels=16,
            out_channels=6,
            num_outs=num_outs,
        )
    )
    height, width = size
    outs = neck((torch.randn(2, 16, height, width),))
    expected = [
        (4 * height, 4 * width),
        (2 * height, 2 * width),
        (height, width),
        (height // 2, width // 2),
        (-(-(height // 2) // 2), -(-(width // 2) // 2)),
    ]
    assert [tuple(out.shape) for out in outs] == [
        (2, 6, *shape) for shape in expected[:num_outs]
    ]


def test_every_parameter_gets_a_gradient():
    neck = SimpleFPN(16, 6)
    sum(out.sin().sum() for out in neck((torch.randn(1, 16, 8, 8),))).backward()
    assert not [n for n, p in neck.named_parameters() if p.grad is None]


def test_levels_are_normalised_over_channels():
    outs = SimpleFPN(16, 32)((torch.randn(1, 16, 8, 8),))
    for out in outs:
        torch.testing.assert_close(
            out.mean(dim=1), torch.zeros_like(out[:, 0]), atol=1e-5, rtol=0
        )


def test_fifth_level_is_the_fourth_subsampled():
    outs = SimpleFPN(16, 6)((torch.randn(1, 16, 8, 8),))
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


def test_a_map_that_stands_in_no_tuple():
    """As mmdet's ViTDet gives it, and ours in its words."""
    neck, x = SimpleFPN(16, 6), torch.randn(2, 16, 8, 8)
    for one, other in zip(neck(x), neck((x,)), strict=True):
        assert torch.equal(one, other)


def test_a_backbone_with_more_maps():
    with pytest.raises(ValueError, match='from one map, the backbone gives 4'):
        SimpleFPN(16)([torch.randn(1, 16, 8, 8)] * 4)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(in_channels=0), 'in_channels must be a positive integer'),
        (dict(in_channels=16, out_channels=2.5), 'out_channels must be a positive'),
        (dict(in_channels=16, num_outs=3), 'num_outs must be 4 .* got 3'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SimpleFPN(**kwargs)
