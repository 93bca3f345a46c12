"""What models take, hold and return does not stand in the way of a trial."""

import pytest
import small
import torch
from torch import nn

import mmmanikey

KEY = dict(type='VanillaK', num_charts=2, residual=True)
X = torch.rand(2, 5, 8)


class ChangesItsInput(small.Attention):
    def forward(self, x):
        return super().forward(x.sub_(0.5).mul_(3))


class Boxes(small.Attention):
    """A detector that finds nothing."""

    def forward(self, x):
        out = super().forward(x)
        return dict(features=out, boxes=out.flatten(0, 1)[:0])


class Counts(small.Attention):
    """It has parameters that are no numbers to learn."""

    def __init__(self):
        super().__init__()
        for name, dtype in (('steps', torch.long), ('mask', torch.bool)):
            zeros = nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=False)
            self.register_parameter(name, zeros)


class Rotates(small.Attention):
    """Rotary positions by complex numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer('angles', torch.polar(torch.ones(5, 2), torch.rand(5, 2)))

    def attend(self, q, k, v):
        q, k = (torch.view_as_complex(t.unflatten(-1, (2, 2))) for t in (q, k))
        angles = torch.view_as_real(self.angles).view(5, 2, 2)
        q, k = (t * torch.view_as_complex(angles) for t in (q, k))
        q, k = (torch.view_as_real(t).flatten(-2) for t in (q, k))
        return super().attend(q, k, v)


@pytest.mark.parametrize(
    'kind', [ChangesItsInput, Boxes, Counts, Rotates], ids=lambda kind: kind.__name__
)
def test_models(kind):
    x = X.clone()
    (row,) = mmmanikey.insert_keys(nn.Sequential(kind()), KEY, example=x)
    assert row['layout'] == '8:16 of 24'
    assert torch.equal(x, X)


def test_images_of_half_precision_in_a_list():
    class Batched(small.Attention):
        def forward(self, images, more):
            return super().forward(torch.stack([*images, more['last']]))

    images = list(X.half())
    example = (images, dict(last=images[0]))
    (row,) = mmmanikey.insert_keys(Batched().half(), KEY, example=example)
    assert row['layout'] == '8:16 of 24'
