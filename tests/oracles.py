"""Comparisons shared by the tests, with their tolerances in one place."""

import torch
import torch.nn.functional as F

from mmmanikey import forms

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
    weight = torch.linspace(-1, 1, out.numel(), dtype=x.dtype, device=x.device)
    weight = weight.view_as(out)
    (out * weight).sum().backward()
    grads = {'input': x.grad}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f'{name} gets no gradient'
        grads[name] = parameter.grad.clone()
    return out.detach(), grads


def plain(function):
    """The function with all forms switched off."""

    def call(*args):
        with forms.use('plain'):
            return function(*args)

    return call


def group_wise(key, x):
    """The key's formula chart by chart, each with its own slice of the parameters.

    Args:
        key (ManifoldKey): One of ours.
        x (Tensor): (B, N, C); for SpatialK one window.
    """
    charts = []
    for h in range(key.num_charts):
        u = x * key.scale[h]
        first = rows(key.conv1.weight, h, key), rows(key.conv1.bias, h, key)
        if hasattr(key, 'window_size'):  # over tokens
            z = key.act(first[0] @ u + first[1][:, None])
        else:
            z = key.act(F.linear(u, *first))
        if hasattr(key, 'conv2'):
            z = z @ rows(key.conv2.weight, h, key).t()
            if key.conv2.bias is not None:
                z = z + rows(key.conv2.bias, h, key)
        charts.append(z)
    if hasattr(key, 'membership'):
        q = torch.softmax(F.linear(x, key.membership.weight, key.membership.bias), -1)
        return sum(q[..., h, None] * z for h, z in enumerate(charts))
    mean = sum(charts) / key.num_charts
    return F.linear(mean, key.out.weight) if hasattr(key, 'out') else mean


def rows(parameter, chart, key):
    """The part of a group-wise convolution's parameter that belongs to one chart."""
    parameter = parameter.flatten(1) if parameter.dim() > 1 else parameter
    return parameter.unflatten(0, (key.num_charts, -1))[chart]


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
