"""Comparisons shared by the tests, with their tolerances in one place."""

import torch

#: Largest allowed difference, relative to the largest magnitude compared (at least 1).
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
STOCK_TOLERANCE = 1e-6

STRATEGIES = ('VanillaK', 'SimpleK', 'KUA', 'SpatialK')
CHANNEL_STRATEGIES = STRATEGIES[:3]


def assert_same(actual, expected, tolerance):
    """Compare tensors, relative to the largest magnitude, with absolute floor 1."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    bound = tolerance * max(1.0, expected.abs().max().item())
    difference = (actual - expected).abs().max().item()
    assert difference <= bound, f'differs by {difference}, allowed {bound}'


def randomize(module, std=0.3):
    """Move every parameter off its start: ones and zeros hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return module


def gradients(function, x, module):
    """Output, and gradients of a random projection of it by input and parameters."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    out = function(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view_as(out)
    (out * weight).sum().backward()
    grads = {'input': x.grad}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f'{name} gets no gradient'
        grads[name] = parameter.grad.clone()
    return out.detach(), grads


def kept(function, x, module):
    """Tensors that a forward pass keeps, without the module's parameters and views."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    tensors = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x)
    return tensors
