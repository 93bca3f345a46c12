"""Every architecture by its name: built, run and stepped, with every key.

A wide one has no key and one of them in turn. The depth is reduced and the keys are
narrow; widths and heads are the architecture's.
"""

import itertools

import pytest
import torch
from oracles import STRATEGIES, assert_same, randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

KEYS = [None, *STRATEGIES]
#: How mmpretrain's configs and DINOv2 build these, where it is not the default.
DINOV2 = dict(img_size=28, patch_size=14, layer_scale_init_value=1e-5)
FAMILY = {
    'dinov2-s': DINOV2,
    'dinov2-g': dict(DINOV2, layer_cfgs=dict(ffn_type='swiglu_fused')),
    'eva-g': dict(img_size=28, patch_size=14, out_type='avg_featmap', final_norm=False),
}


def families(zoo):
    """One name for each entry of a zoo and each way to build it."""
    names = {}
    for name, settings in zoo.items():
        family = next((f for f in FAMILY if name.startswith(f)), None)
        names.setdefault((str(settings), family), name)
    return [(name, family) for (_, family), name in names.items()]


def is_wide(settings):
    """A layer of over 1,000 channels takes seconds."""
    return settings['embed_dims'] * 2 ** (len(settings.get('depths', [0])) - 1) > 1000


def cases(zoo):
    """(name, family, key): every key, and for the wide none and the next, from last."""
    turn = itertools.cycle(reversed(STRATEGIES))
    for name, family in families(zoo):
        wide = is_wide(zoo[name])
        for key in [None, next(turn)] if wide else KEYS:
            marks = [pytest.mark.slow] if wide else []
            yield pytest.param(name, family, key, id=f'{name}-{key}', marks=marks)


def narrow(key):
    if key is None:
        return None
    own = dict(window_size=2) if key == 'SpatialK' else dict(hidden_ratio=0.25)
    return dict(type=key, num_charts=2, **own)


def shallow(monkeypatch, cls, name):
    """Put an architecture of fewer layers under a name of the zoo."""
    settings = dict(cls.arch_zoo[name])
    if 'num_layers' in settings:
        settings['num_layers'] = 1
    else:
        settings['depths'] = [1 for _ in settings['depths']]
    monkeypatch.setitem(cls.arch_zoo, name, settings)
    return settings


def step(model, images):
    """One step of training that reaches everything."""
    model.train()
    sum(out.sin().sum() for out in model(images)).backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(('name', 'family', 'key'), cases(ManifoldKeyViT.arch_zoo))
def test_vit(name, family, key, monkeypatch):
    settings = shallow(monkeypatch, ManifoldKeyViT, name)
    kwargs = FAMILY.get(family, dict(img_size=32))
    model = ManifoldKeyViT(name, key=narrow(key), **kwargs)
    side = kwargs['img_size']
    step(model, torch.randn(1, 3, side, side))
    assert model.embed_dims == settings['embed_dims']
    (layer,) = model.layers
    assert layer.attn.num_heads == settings['num_heads']
    assert type(layer.attn.key).__name__ == (key or 'NoneType')
    model.eval()
    with torch.no_grad():
        (out,) = model(torch.randn(1, 3, side, side + 7))
    assert out.shape == (1, settings['embed_dims'])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(('name', 'family', 'key'), cases(ManifoldKeySwin.arch_zoo))
def test_swin(name, family, key, monkeypatch):
    settings = shallow(monkeypatch, ManifoldKeySwin, name)
    key_cfg = narrow(key)
    if key == 'SpatialK':
        del key_cfg['window_size']  # the attention's
    model = ManifoldKeySwin(name, window_size=2, key=key_cfg, drop_path_rate=0.0)
    step(model, torch.randn(1, 3, 64, 64))
    heads = [stage.blocks[0].attn.w_msa.num_heads for stage in model.stages]
    assert heads == list(settings['num_heads'])
    model.eval()
    with torch.no_grad():
        (out,) = model(torch.randn(1, 3, 64, 70))
    assert out.shape == (1, settings['embed_dims'] * 8, 2, 3)


@pytest.mark.parametrize('cls', [ManifoldKeySwin, ManifoldKeyViT])
def test_every_name_is_covered(cls):
    tried = [case.values for case in cases(cls.arch_zoo)]
    covered = [cls.arch_zoo[name] for name, _, _ in tried]
    assert all(settings in covered for settings in cls.arch_zoo.values())
    found = {family for _, family, _ in tried}
    assert cls is ManifoldKeySwin or found == {None, *FAMILY}


GIANT = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=48)


@pytest.mark.parametrize('layer_scale_init_value', [0.0, 0.5])
@pytest.mark.parametrize('context_broadcasting', [False, True])
def test_a_network_of_another_class(layer_scale_init_value, context_broadcasting):
    """SwiGLU, scaled or not, by its formula; the broadcast before drop path."""
    model = ManifoldKeyViT(
        GIANT,
        img_size=32,
        layer_scale_init_value=layer_scale_init_value,
        layer_cfgs=dict(ffn_type='swiglu_fused'),
        context_broadcasting=context_broadcasting,
        key=dict(type='VanillaK', num_charts=2),
    )
    layer = randomize(model).double().eval().layers[0]
    x = torch.randn(2, 1 + 6, 12, dtype=torch.float64)
    middle = x + layer.attn(layer.ln1(x), (2, 3))
    gate, value = layer.ffn.w12(layer.ln2(middle)).chunk(2, dim=-1)
    mlp = layer.ffn.w3(gate * torch.sigmoid(gate) * value)
    if context_broadcasting:
        mlp = (mlp + mlp.mean(dim=1, keepdim=True)) / 2
    if layer_scale_init_value:
        mlp = mlp * layer.ffn.gamma2.weight
    assert_same(layer(x, (2, 3)), middle + mlp, 1e-10)
