"""Register tokens: what they are, what they are not, and that without them nothing is.

timm's models with registers are compared in test_checkpoint/test_dinov2.py.
"""

import pytest
import torch
from oracles import STRATEGIES, assert_same, gradients, plain, randomize

from mmmanikey.backbones import ManifoldKeyViT

NANO = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24)
KEYS = [None, *STRATEGIES]
tokens = pytest.mark.parametrize('with_cls_token', [True, False])


def make(key=None, num_registers=3, **kwargs):
    if key is not None:
        own = dict(window_size=4) if key == 'SpatialK' else {}
        key = dict(type=key, num_charts=2, **own)
    kwargs = dict(img_size=64, patch_size=8, out_type='raw', **kwargs)
    return ManifoldKeyViT(NANO, key=key, num_registers=num_registers, **kwargs)


def by_hand(model, x):
    """Embeddings with positions, then registers behind the class token; raw tokens."""
    x, hw_shape = model.patch_embed(x)
    if model.with_cls_token:
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    x = list((x + model.pos_embed).unbind(dim=1))
    at = int(model.with_cls_token)
    x[at:at] = [token.expand(len(x[0]), -1) for token in model.register_tokens[0]]
    x = model.pre_norm(torch.stack(x, dim=1))
    for layer in model.layers:
        x = x + layer.attn(layer.ln1(x), hw_shape)
        x = x + layer.ffn.layers(layer.ln2(x))
    return model.ln1(x)


@tokens
@pytest.mark.parametrize('pre_norm', [False, True])
@pytest.mark.parametrize('key', KEYS)
def test_outputs_by_hand(key, pre_norm, with_cls_token):
    model = make(key, pre_norm=pre_norm, with_cls_token=with_cls_token)
    randomize(model).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    raw = by_hand(model, x)
    assert raw.shape == (2, with_cls_token + 3 + 64, 12)
    assert_same(model(x)[0], raw, 1e-10)
    grid = raw[:, with_cls_token + 3 :]
    expected = dict(featmap=grid.transpose(1, 2).unflatten(2, (8, 8)))
    if with_cls_token:
        expected['cls_token'] = raw[:, 0]
    for out_type, wanted in expected.items():
        model.out_type = out_type
        assert_same(model(x)[0], wanted, 1e-10)
    model.out_type, model.ln2 = 'avg_featmap', torch.nn.Identity()
    assert_same(model(x)[0], grid.mean(dim=1), 1e-10)


@pytest.mark.parametrize('key', KEYS)
def test_the_key_mixes_no_registers(key):
    """As the formula of each key says; also on a grid that windows do not divide."""
    model = randomize(make(key)).double().eval()
    x = torch.randn(2, 3, 72, 56, dtype=torch.float64)
    expected = model(x)[0]
    assert_same(plain(model)(x)[0], expected, 1e-10)
    if key is not None:  # the keys of registers say nothing of the grid, nor it of them
        layer = model.layers[0].attn.key
        first, second = torch.randn(2, 1, 1 + 3 + 64, 12, dtype=torch.float64)
        mixed = torch.cat([first[:, :4], second[:, 4:]], dim=1)
        keys = [layer(part, (8, 8)) for part in (first, second, mixed)]
        assert torch.equal(keys[2][:, :4], keys[0][:, :4])
        assert_same(keys[2][:, 4:], keys[1][:, 4:], 1e-10)


@tokens
@pytest.mark.parametrize('key', KEYS)
def test_without_registers_nothing_changes(key, with_cls_token):
    """The same names, and the formula without them."""
    kwargs = dict(with_cls_token=with_cls_token)
    model = randomize(make(key, num_registers=0, **kwargs)).eval()
    assert not [name for name in model.state_dict() if 'register' in name]
    assert model.num_extra_tokens == with_cls_token
    x = torch.randn(2, 3, 64, 64)
    model.register_tokens = torch.empty(1, 0, 12)  # none, by hand
    expected = by_hand(model, x)
    model.register_tokens = None
    assert_same(model(x)[0], expected, 1e-6)


@tokens
def test_registers_learn_and_start_apart(with_cls_token):
    """Equal registers would stay equal."""
    model = make(with_cls_token=with_cls_token)
    start = model.register_tokens.detach()
    assert start.shape == (1, 3, 12)
    assert 0 < start.abs().max() < 1e-5
    assert len({tuple(token.tolist()) for token in start[0]}) == 3
    _, grads = gradients(lambda t: model(t)[0], torch.randn(2, 3, 64, 64), model)
    assert grads['register_tokens'].any(dim=-1).all()


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1])
def test_frozen_with_the_embeddings(frozen_stages):
    model = make(frozen_stages=frozen_stages)
    for _ in range(2):
        assert model.register_tokens.requires_grad == (frozen_stages < 0)
        model.train()


@tokens
def test_positions_are_resized_without_registers(with_cls_token):
    small = randomize(make(with_cls_token=with_cls_token))
    large = ManifoldKeyViT(
        NANO,
        img_size=128,
        patch_size=8,
        out_type='featmap',
        with_cls_token=with_cls_token,
        num_registers=3,
    )
    assert large.pos_embed.shape == (1, 256 + with_cls_token, 12)
    large.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(large.register_tokens, small.register_tokens)
    grid = small.pos_embed[:, with_cls_token:].transpose(1, 2).unflatten(2, (8, 8))
    grid = torch.nn.functional.interpolate(
        grid, (16, 16), mode='bicubic', align_corners=False
    )
    expected = grid.flatten(2).transpose(1, 2)
    assert torch.equal(large.pos_embed[:, with_cls_token:], expected)


@pytest.mark.parametrize('kwargs', [dict(window_size=4), dict(use_rel_pos=True)])
def test_no_place_in_windows(kwargs):
    with pytest.raises(ValueError, match='and num_registers=0') as info:
        make(with_cls_token=False, **kwargs)
    assert '\n' not in str(info.value)


@pytest.mark.parametrize('key', KEYS)
def test_checkpointing_equals_none(key):
    model = make(key).double()
    recomputed = make(key, with_cp=True).double()
    recomputed.load_state_dict(randomize(model).state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    out, expected = gradients(lambda t: model(t)[0], x, model)
    again, actual = gradients(lambda t: recomputed(t)[0], x, recomputed)
    assert_same(again, out, 1e-10)
    for name, grad in expected.items():
        assert_same(actual[name], grad, 1e-10)
