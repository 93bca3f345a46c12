"""What is said about a backbone, against what it was built with."""

import builtins

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import SwinTransformer, VisionTransformer
from oracles import CHANNEL_STRATEGIES, STRATEGIES
from torch import nn

import mmmanikey
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import describe_backbone
from mmmanikey.checkpoint.config_text import backbone_config
from mmmanikey.keys import ManifoldKey, VanillaK
from mmmanikey.registry import KEYS

SWIN = dict(embed_dims=12, depths=[2, 1, 3], num_heads=[2, 3, 6])
VIT = dict(embed_dims=24, num_layers=3, num_heads=4, feedforward_channels=40)
SWIN_SHAPE = dict(
    type='Swin',
    embed_dims=12,
    patch_size=(4, 4),
    depths=(2, 1, 3),
    num_heads=(2, 3, 6),
    window_size=5,
    output_norms=(0, 2),
)
VIT_SHAPE = dict(
    type='ViT',
    embed_dims=24,
    patch_size=(8, 8),
    num_layers=3,
    num_heads=None,
    feedforward_channels=40,
    img_size=(48, 48),
    with_cls_token=True,
    num_registers=0,
    relative_positions=(),
)
LINEAR = dict(type='linear')


def swin(key=None, cls=ManifoldKeySwin, **kwargs):
    kwargs = kwargs if cls is SwinTransformer else dict(key=key, **kwargs)
    return cls(SWIN, window_size=5, out_indices=(0, 2), **kwargs).state_dict()


def vit(key=None, cls=ManifoldKeyViT, **kwargs):
    kwargs = kwargs if cls is VisionTransformer else dict(key=key, **kwargs)
    return cls(VIT, img_size=48, patch_size=8, **kwargs).state_dict()


def key_config(strategy, window):
    """A config, and the description of it."""
    config = dict(type=strategy, num_charts=3)
    described = dict(type=strategy, num_charts=3, residual=False)
    if strategy == 'SpatialK':
        return config, dict(described, window_tokens=window**2)
    return dict(config, hidden_ratio=0.5), dict(described, hidden_ratio=0.5)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('residual', [False, True])
def test_every_strategy(strategy, residual):
    key, expected = key_config(strategy, 5)
    key['residual'] = expected['residual'] = residual
    assert describe_backbone(swin(key)) == dict(SWIN_SHAPE, keys=[expected] * 3)
    key, expected = key_config(strategy, 14)
    key['residual'] = expected['residual'] = residual
    assert describe_backbone(vit(key)) == dict(VIT_SHAPE, keys=[expected] * 3)


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_inserted_keys(strategy):
    model = SwinTransformer(SWIN, img_size=80, window_size=5, out_indices=(2,))
    config, described = key_config(strategy, 5)
    mmmanikey.insert_keys(model, config)
    found = describe_backbone(model.state_dict())
    assert found['keys'] == [{**described, 'residual': True}] * 3


@pytest.mark.parametrize('strategy', CHANNEL_STRATEGIES)
def test_hidden_layers_as_wide_as_the_key(strategy):
    key = dict(type=strategy, num_charts=2)
    expected = dict(type=strategy, num_charts=2, residual=False, hidden_ratio=1.0)
    assert describe_backbone(swin(key))['keys'] == [expected] * 3


def test_equal_shapes_are_called_equal():
    """SimpleK over 16 channels, and SpatialK over 16 tokens of 16 channels."""
    arch = dict(embed_dims=16, depths=[1], num_heads=[2])
    for strategy in ('SimpleK', 'SpatialK'):
        model = ManifoldKeySwin(
            arch, window_size=4, out_indices=(0,), key=dict(type=strategy)
        )
        (key,) = describe_backbone(model.state_dict())['keys']
        assert key['type'] == 'SimpleK or SpatialK'


@pytest.mark.parametrize('cls', [SwinTransformer, ManifoldKeySwin])
def test_stock_swin(cls):
    assert describe_backbone(swin(cls=cls)) == dict(SWIN_SHAPE, keys=[LINEAR] * 3)


@pytest.mark.parametrize('cls', [VisionTransformer, ManifoldKeyViT])
def test_stock_vit(cls):
    assert describe_backbone(vit(cls=cls)) == dict(VIT_SHAPE, keys=[LINEAR] * 3)


def test_a_key_per_stage_and_per_layer():
    spatial, described = key_config('SpatialK', 5)
    kua, described_kua = key_config('KUA', 5)
    found = describe_backbone(swin([spatial, None, kua]))
    assert found['keys'] == [described, LINEAR, described_kua]
    assert describe_backbone(vit([None, kua, None]))['keys'][1] == described_kua


def test_vitdet():
    found = describe_backbone(
        vit(
            with_cls_token=False,
            out_type='featmap',
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        )
    )
    expected = dict(
        VIT_SHAPE, with_cls_token=False, num_heads=4, relative_positions=(4, 6, 4)
    )
    assert found == dict(expected, keys=[LINEAR] * 3)


def test_what_is_neither():
    assert describe_backbone({'fc.weight': torch.ones(2, 2)}) is None
    weights = swin(dict(type='KUA'))
    del weights['patch_embed.projection.weight']
    assert describe_backbone(weights) is None
    for name in list(weights := swin(dict(type='KUA'))):
        if name.endswith('conv1.weight'):
            weights[name] = weights[name].flatten()
    unknown = dict(type='unknown', residual=False)
    assert describe_backbone(weights)['keys'] == [unknown] * 3
    for name in list(weights := swin(dict(type='SimpleK', num_charts=2))):
        if name.endswith('out.weight'):
            del weights[name]
    assert describe_backbone(weights)['keys'] == [unknown] * 3


def test_a_vit_without_positions():
    """Its image size cannot be told, nor SimpleK from SpatialK over as many tokens."""
    arch = dict(VIT, embed_dims=16)
    model = ManifoldKeyViT(arch, img_size=48, key=dict(type='SimpleK', num_charts=2))
    weights = model.state_dict()
    del weights['pos_embed']
    found = describe_backbone(weights)
    assert found['img_size'] is None
    assert {key['type'] for key in found['keys']} == {'SimpleK or SpatialK'}


class OwnKey(ManifoldKey):
    """Another second layer than VanillaK's, of the same name."""

    def __init__(self, embed_dims, num_charts=8, act_cfg=None, flavour='plain'):
        super().__init__(embed_dims, num_charts, act_cfg)
        self.conv1 = nn.Conv1d(embed_dims * num_charts, num_charts, 1, num_charts)
        self.conv2 = nn.Linear(embed_dims, embed_dims)

    def charts(self, x, hw_shape=None):
        return self.expand(x)

    def fuse(self, z, x):
        return self.conv2(x)

    def reset_parameters(self):
        pass

    zero_last_layer = reset_parameters


@pytest.fixture
def own_keys(monkeypatch):
    """Two keys of a user: one of other shapes than ours, one of VanillaK's."""
    monkeypatch.setitem(KEYS.module_dict, 'OwnKey', OwnKey)
    twin = type('TwinK', (VanillaK,), {})
    monkeypatch.setitem(KEYS.module_dict, 'TwinK', twin)


def text_of(backbone):
    """As mmengine's trainings leave it in the meta of a checkpoint."""
    config = Config(
        dict(
            model=dict(type='Net', backbone=backbone),
            optim_wrapper=dict(custom_keys={'.key.scale': dict(decay_mult=0.0)}),
        )
    )
    return dict(cfg=config.pretty_text, epoch=3)


def trained(cls, arch, **kwargs):
    """Weights, and the config that lies beside them."""
    config = dict(type=f'mmmanikey.{cls.__name__}', arch=arch, **kwargs)
    meta = text_of(config)
    return cls(arch, **kwargs).state_dict(), backbone_config(meta)


CASES = [
    (ManifoldKeySwin, SWIN, dict(window_size=5, out_indices=[2])),
    (ManifoldKeyViT, VIT, dict(img_size=48, patch_size=8)),
]


@pytest.mark.parametrize(('cls', 'arch', 'kwargs'), CASES)
def test_keys_of_users_are_called_what_the_config_calls_them(
    cls, arch, kwargs, own_keys
):
    for name, arguments in (('OwnKey', dict(flavour='odd')), ('TwinK', {})):
        key = dict(type=name, num_charts=2, **arguments)
        weights, config = trained(cls, arch, key=key, **kwargs)
        expected = dict(key, residual=False)
        assert describe_backbone(weights, config)['keys'] == [expected] * 3
    weights, _ = trained(cls, arch, key=dict(type='OwnKey', num_charts=2), **kwargs)
    unknown = dict(type='unknown', residual=False)
    assert describe_backbone(weights)['keys'] == [unknown] * 3


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize(('cls', 'arch', 'kwargs'), CASES)
def test_our_keys_with_a_config(cls, arch, kwargs, strategy):
    """By stage or layer; and what the config says of a ViT's heads and image."""
    own = dict(window_size=6) if (strategy, arch) == ('SpatialK', VIT) else {}
    keys = [dict(type=strategy, num_charts=2, **own), None, None]
    keys[2] = dict(type=f'mmmanikey.{strategy}', num_charts=2, **own)
    weights, config = trained(cls, arch, key=keys, **kwargs)
    found = describe_backbone(weights, config)
    # as a Python-style config is dumped
    keys[0]['type'] = f'mmmanikey.keys.{strategy}'
    python = dict(config, key=keys, type=f'mmmanikey.backbones.{cls.__name__}')
    assert describe_backbone(weights, python) == found
    assert [key['type'] for key in found['keys']] == [strategy, 'linear', strategy]
    alone = describe_backbone(weights)
    if arch is VIT:
        assert alone.pop('num_heads') is None
        assert found.pop('num_heads') == 4
    for key in alone['keys']:  # a layer over 24 channels, or a window of 24 tokens
        key['type'] = key['type'].removesuffix(' or SpatialK')
    assert found == alone


def test_the_config_decides_between_equal_shapes():
    arch = dict(embed_dims=16, depths=[1], num_heads=[2])
    for strategy in ('SimpleK', 'SpatialK'):
        kwargs = dict(window_size=4, out_indices=[0], key=dict(type=strategy))
        weights, config = trained(ManifoldKeySwin, arch, **kwargs)
        (key,) = describe_backbone(weights, config)['keys']
        assert key['type'] == strategy


@pytest.mark.parametrize('says', [None, dict(type='KUA'), [None, None], 7, 'VanillaK'])
def test_a_config_that_is_not_that_of_the_weights(says):
    """Another key, too few of them, or no config at all."""
    config = dict(type='ManifoldKeyViT', arch=VIT, key=says)
    found = describe_backbone(vit(dict(type='VanillaK', num_charts=3)), config)
    if says == [None, None]:  # as without a config
        assert {key['type'] for key in found['keys']} == {'VanillaK'}
    else:
        assert {key['type'] for key in found['keys']} == {'unknown'}


@pytest.mark.parametrize('name', ['VanillaK', 'SimpleK', 'KUA', 'SpatialK'])
def test_one_odd_shape_or_name_is_enough(name):
    """Every parameter of a key in turn."""
    key, _ = key_config(name, 5)
    for part in [n for n in swin(key) if n.startswith('stages.0.') and '.key.' in n]:
        odd = swin(key)
        odd[part] = torch.cat([odd[part], odd[part]])
        missing = {n: v for n, v in swin(key).items() if n != part}
        more = dict(swin(key), **{f'{part}_too': torch.ones(1)})
        for weights in (odd, missing, more):
            found = describe_backbone(weights)['keys']
            assert found[0]['type'] == 'unknown', part
            assert found[1]['type'] == name


def test_blocks_that_disagree():
    weights = swin(dict(type='VanillaK'))
    other = swin(dict(type='KUA'))
    for name in [name for name in weights if name.startswith('stages.0.blocks.1.')]:
        del weights[name]
    weights |= {n: v for n, v in other.items() if n.startswith('stages.0.blocks.1.')}
    kinds = [key['type'] for key in describe_backbone(weights)['keys']]
    assert kinds == ['unknown', 'VanillaK', 'VanillaK']


@pytest.mark.parametrize(('size', 'told'), [((32, 64), True), ((16, 128), False)])
def test_images_that_are_not_square(size, told):
    """From the metadata, from the config, else not at all where it is no square."""
    kwargs = dict(img_size=size, patch_size=8)
    weights, config = trained(ManifoldKeyViT, VIT, **kwargs)
    assert describe_backbone(weights)['img_size'] == size
    plain = dict(weights)
    assert describe_backbone(plain, config)['img_size'] == size
    assert describe_backbone(plain)['img_size'] is None


def test_registers_and_swiglu():
    swiglu = dict(ffn_type='swiglu_fused')
    model = ManifoldKeyViT(VIT, num_registers=4, layer_cfgs=swiglu)
    found = describe_backbone(model.state_dict())
    assert found['num_registers'] == 4
    assert found['feedforward_channels'] is None


CODE = [
    'model = dict(backbone=dict(type=open("ran", "w").name))',
    'model = dict(backbone=exec("import os"))',
    'model = dict(backbone=dict(type=[open(n, "w") for n in ["ran"]]))',
    'open("ran", "w")\nmodel = make()',
    'model = dict(backbone={"type": (lambda: open("ran", "w"))()})',
    'model = dict(**open("ran", "w"))',
    'model = Dict(backbone=dict(type="A"))',
    'model = dict(backbone=dict(type=f"{1}"))',
    'model = dict(backbone=' + '(' * 500,
    'model = dict(backbone=' + '-' * 100000 + '1)',
    'model = dict(backbone=dict(a={[]: 1}))',
    'model = dict(backbone=10**10**10)',
    'backbone = dict(type="A")',
    'model = dict(head=1)',
    'model = 7',
    '',
    'no Python at all',
    '\0',
]


@pytest.mark.parametrize('text', CODE)
def test_no_code_of_a_config_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('exec', 'eval'):
        monkeypatch.setattr(builtins, name, lambda *_: pytest.fail('ran'))
    assert backbone_config(dict(cfg=text)) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('meta', [None, [], {}, dict(cfg=None), dict(cfg={'model': 1})])
def test_a_meta_without_config(meta):
    assert backbone_config(meta) is None


def test_what_is_read_of_a_config():
    """As mmengine writes it, and in other literals; the last ``model`` counts."""
    backbone = dict(a=[1, (2.5, None)], b={'.c': True, 'd': dict(e=-1)}, f='"x"')
    assert backbone_config(text_of(backbone)) == backbone
    text = f'x = open\nmodel = 1\nmodel = {{"backbone": {backbone!r}, "head": x()}}'
    assert backbone_config(dict(cfg=text)) == backbone
    text = 'model = dict(**{"backbone": dict({"a": 1}, b=2, **{"c": 3})})'
    assert backbone_config(dict(cfg=text)) == dict(a=1, b=2, c=3)
