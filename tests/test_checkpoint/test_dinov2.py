"""DINOv2, with registers and without, against timm's models of the same name."""

import copy

import pytest
import timm
import torch
from oracles import STRATEGIES, assert_same
from timm.models.vision_transformer import checkpoint_filter_fn

from mmmanikey.backbones import ManifoldKeyViT
from mmmanikey.checkpoint import (
    CheckpointError,
    PretrainedBackbone,
    find_layout,
    from_ours,
    to_ours,
)

CONVERTED = 1e-5
SIDE = 56  # 4 x 4 patches
NARROW = dict(embed_dim=48, num_heads=4, depth=2)
#: Name here: (name in timm, its arguments). The small one is of full width.
SIZES = {
    'dinov2-small': ('small', dict(depth=2)),
    'base': ('base', NARROW),
    'large': ('large', NARROW),
    'dinov2-giant': ('giant', NARROW),
}
sizes = pytest.mark.parametrize('arch', SIZES)
registers = pytest.mark.parametrize('num_registers', [0, 4])


def with_power(model):
    """Layer scales around 1, and no bias, token or position at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if 'gamma' in name:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.add_(noise, alpha=0.3 if parameter.dim() != 2 else 0.05)
    return model.eval()


def theirs(arch, num_registers, **kwargs):
    size, narrow = SIZES[arch]
    name = f'vit_{size}_patch14_{"reg4_" if num_registers else ""}dinov2'
    kwargs = {'img_size': SIDE, **narrow, **kwargs}
    return with_power(timm.create_model(name, **kwargs))


def ours(arch, num_registers, **kwargs):
    """By the name of the zoo, and by a dict where it is narrower than that."""
    settings = dict(ManifoldKeyViT.arch_zoo[arch], num_layers=2)
    if arch != 'dinov2-small':
        settings.update(embed_dims=48, num_heads=4, feedforward_channels=192)
    if arch == 'dinov2-giant':
        kwargs['layer_cfgs'] = dict(ffn_type='swiglu_fused')
    model = ManifoldKeyViT(
        settings,
        patch_size=14,
        layer_scale_init_value=1e-5,
        num_registers=num_registers,
        **{'img_size': SIDE, 'out_type': 'raw', **kwargs},
    )
    return model.eval()


@sizes
@registers
def test_tokens_are_timms(arch, num_registers, tmp_path):
    reference, model = theirs(arch, num_registers), ours(arch, num_registers)
    torch.save(reference.state_dict(), tmp_path / 'w.pth')
    coverage = PretrainedBackbone(str(tmp_path / 'w.pth')).load(model)
    assert not coverage.unexpected
    assert not coverage.missing
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = reference.forward_features(x)
        assert expected.shape[1] == 1 + num_registers + 16
        assert_same(model(x)[0], expected, CONVERTED)


@registers
@pytest.mark.parametrize('image', [(56, 112), (84, 126)])
def test_images_that_are_not_square(num_registers, image, tmp_path):
    """Beside registers timm's class token has no position; 6 x 9 are 49 and 5."""
    reference = theirs('base', num_registers, img_size=image)
    model = ours('base', num_registers, img_size=image)
    torch.save(reference.state_dict(), tmp_path / 'w.pth')
    PretrainedBackbone(str(tmp_path / 'w.pth')).load(model)
    x = torch.randn(2, 3, *image)
    assert_same(model(x)[0], reference.forward_features(x), CONVERTED)
    other = ours('base', num_registers)
    with pytest.raises(CheckpointError, match='set img_size to'):
        PretrainedBackbone(str(tmp_path / 'w.pth')).load(other)


@registers
def test_by_the_name_of_the_zoo(num_registers, tmp_path, monkeypatch):
    settings = dict(ManifoldKeyViT.arch_zoo['dinov2-small'], num_layers=2)
    monkeypatch.setitem(ManifoldKeyViT.arch_zoo, 'dinov2-small', settings)
    reference = theirs('dinov2-small', num_registers)
    torch.save(reference.state_dict(), tmp_path / 'w.pth')
    model = ManifoldKeyViT(
        'dinov2-small',
        img_size=SIDE,
        patch_size=14,
        layer_scale_init_value=1e-5,
        num_registers=num_registers,
    ).eval()
    PretrainedBackbone(str(tmp_path / 'w.pth')).load(model)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert_same(model(x)[0], reference(x), CONVERTED)


@registers
@pytest.mark.parametrize('with_cls_token', [True, False])
def test_maps_are_those_of_timms_patches(num_registers, with_cls_token):
    """Dense prediction: the grid alone, from a network with or without class token."""
    kwargs = {} if with_cls_token else dict(class_token=False, global_pool='avg')
    reference = theirs('base', num_registers, **kwargs)
    x = torch.randn(2, 3, SIDE, SIDE)
    grid = reference.forward_features(x)[:, with_cls_token + num_registers :]
    model = ours(
        'base',
        num_registers,
        out_type='featmap',
        with_cls_token=with_cls_token,
        final_norm=with_cls_token,
    )
    model.load_state_dict(to_ours(reference.state_dict()), strict=False)
    expected = grid.transpose(1, 2).unflatten(2, (4, 4))
    assert_same(model(x)[0], expected, CONVERTED)


@sizes
@registers
def test_the_way_back(arch, num_registers):
    model, reference = (
        with_power(ours(arch, num_registers)),
        theirs(arch, num_registers),
    )
    reference.load_state_dict(from_ours(model.state_dict(), 'timm').weights)
    x = torch.randn(2, 3, SIDE, SIDE)
    assert_same(reference.forward_features(x), model(x)[0], CONVERTED)
    again = ours(arch, num_registers)
    again.load_state_dict(to_ours(reference.state_dict()))
    assert_same(again(x)[0], model(x)[0], CONVERTED)


@registers
def test_there_and_back(num_registers):
    """Beside registers timm's class token has no position, and gets none."""
    weights = theirs('base', num_registers).state_dict()
    back = from_ours(to_ours(weights), 'timm').weights
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    if num_registers:
        wide = theirs('base', num_registers, img_size=(84, 126)).state_dict()
        with pytest.raises(ValueError, match='54 rows, which belong to no square grid'):
            from_ours(to_ours(wide), 'timm')


@pytest.mark.parametrize('arch', ['base', 'dinov2-giant'])
@registers
def test_files_of_dinov2_itself(arch, num_registers):
    """Its class token has a position, also beside registers; timm folds it in."""
    reference = theirs(arch, num_registers)
    weights = copy.deepcopy(dict(reference.state_dict()))
    weights['mask_token'] = torch.randn(1, 48)
    if num_registers:
        weights['register_tokens'] = weights.pop('reg_token')
        position = torch.randn(1, 1, 48)
        weights['pos_embed'] = torch.cat([position, weights['pos_embed']], dim=1)
    if arch == 'dinov2-giant':
        weights = {
            name.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'): value
            for name, value in weights.items()
        }
    assert find_layout(weights).name == 'timm ViT'
    converted = to_ours(weights)
    reference.load_state_dict(checkpoint_filter_fn(dict(weights), reference))
    model = ours(arch, num_registers)
    model.load_state_dict(converted)
    x = torch.randn(2, 3, SIDE, SIDE)
    assert_same(model(x)[0], reference.forward_features(x), CONVERTED)


def test_registers_that_have_positions():
    """As in some of timm's models without class token: they become part of them."""
    kwargs = dict(class_token=False, global_pool='avg', fc_norm=False)
    reference = theirs('base', 4, no_embed_class=False, **kwargs)
    assert reference.pos_embed.shape[1] == 16 + 4
    model = ours('base', 4, with_cls_token=False)
    model.load_state_dict(to_ours(reference.state_dict()))
    x = torch.randn(2, 3, SIDE, SIDE)
    assert_same(model(x)[0], reference.forward_features(x), CONVERTED)


@pytest.mark.parametrize('key', STRATEGIES)
def test_a_residual_key_starts_as_dinov2(key, tmp_path):
    own = dict(window_size=2) if key == 'SpatialK' else {}
    reference = theirs('dinov2-giant', 4)
    torch.save(reference.state_dict(), tmp_path / 'w.pth')
    model = ours('dinov2-giant', 4, key=dict(type=key, residual=True, **own))
    PretrainedBackbone(str(tmp_path / 'w.pth')).load(model)
    x = torch.randn(2, 3, SIDE, SIDE)
    assert_same(model(x)[0], reference.forward_features(x), CONVERTED)
