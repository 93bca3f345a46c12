"""Built on the meta device, and given memory later, a backbone starts as usual."""

import copy

import pytest
import torch
from oracles import STRATEGIES
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

KEYS = [None, *STRATEGIES]
SWIN = dict(embed_dims=24, depths=[2, 1], num_heads=[2, 4])
VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def build(family, key, residual=False, **options):
    key = key and dict(type=key, num_charts=2, residual=residual)
    if key and options.get('act'):
        key['act_cfg'] = dict(type=options['act'])
    options.pop('act', None)
    if family == 'swin':
        options.update(window_size=4, use_abs_pos_embed=True, img_size=32)
        options.update(out_indices=(0, 1), pad_small_map=True)
        return ManifoldKeySwin(SWIN, key=key, **options)
    if key and key['type'] == 'SpatialK':
        key['window_size'] = 4
    if family == 'vit':
        options.update(with_cls_token=False, use_rel_pos=True, out_type='featmap')
    options.update(layer_scale_init_value=0.1, img_size=32, patch_size=4)
    return ManifoldKeyViT(VIT, key=key, **options)


def assert_same_start(ours, usual):
    """Equal where the usual start draws nothing, else of like mean and deviation."""
    pairs = zip(ours.state_dict().items(), usual.state_dict().values(), strict=True)
    for (name, tensor), other in pairs:
        assert tensor.dtype == other.dtype, name
        tensor, other = tensor.double(), other.double()
        if not tensor.is_floating_point() or len(other.unique()) == 1:
            assert torch.equal(tensor, other), name
            continue
        assert tensor.abs().max() <= 3 * other.abs().max(), name
        if other.numel() > 500:
            spread = other.std()
            assert abs(tensor.mean() - other.mean()) < 0.3 * spread, name
            assert 0.8 < tensor.std() / spread < 1.25, name


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit', 'classifier'])
def test_memory_first_then_the_start(family, key, residual):
    with torch.device('meta'):
        model = build(family, key, residual)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model = copy.deepcopy(model).to_empty(device='cpu')
    for tensor in model.state_dict().values():
        tensor.fill_(77)  # what happens to lie there
    model.init_weights()
    usual = build(family, key, residual)
    usual.init_weights()
    assert_same_start(model, usual)
    (out, *_) = model(torch.randn(1, 3, 32, 32))
    assert out.isfinite().all()


@pytest.mark.parametrize('key', STRATEGIES)
def test_weights_that_loaded_need_no_start(key):
    usual = build('swin', key)
    with torch.device('meta'):
        model = build('swin', key)
    model.load_state_dict(usual.state_dict(), assign=True)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(image)[0], usual.eval()(image)[0])


@pytest.mark.parametrize('key', KEYS)
def test_parameters_that_move_to_meta_one_by_one(key, monkeypatch):
    """As accelerate's ``init_empty_weights`` does; buffers stay where they are."""
    register = nn.Module.register_parameter

    def register_on_meta(self, name, parameter):
        if parameter is not None:
            parameter = nn.Parameter(parameter.to('meta'), parameter.requires_grad)
        register(self, name, parameter)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, 'register_parameter', register_on_meta)
        model = build('swin', key)
    assert all(each.is_meta for each in model.parameters())
    model.to_empty(device='cpu').init_weights()
    usual = build('swin', key)
    usual.init_weights()
    assert_same_start(model, usual)


@pytest.mark.parametrize('act', ['PReLU', 'ReLU'])
@pytest.mark.parametrize('key', STRATEGIES)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_an_activation_is_measured_alike_everywhere(family, key, act):
    """Whatever the default device and dtype; and nothing random is drawn for it."""

    def measured():
        modules = build(family, key, act=act).modules()
        return next(each.act_std for each in modules if hasattr(each, 'act_std'))

    usual = measured()
    with torch.device('meta'):
        state = torch.get_rng_state()
        assert measured() == usual
        assert torch.equal(torch.get_rng_state(), state)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            model = build(family, key, act=act)
            assert measured() == usual
            assert {p.dtype for p in model.parameters()} == {dtype}
            model.init_weights()
        finally:
            torch.set_default_dtype(torch.float32)
    torch.set_default_device('meta')
    try:
        assert measured() == usual
    finally:
        torch.set_default_device(None)
