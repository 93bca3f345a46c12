"""Keys in any registered backbone of a config."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmmanikey
from mmmanikey.attention import keyed
from mmmanikey.engine import cli
from mmmanikey.engine.build import build_from

sys.path.append(str(Path(__file__).parents[1] / 'test_anywhere'))
import families  # noqa: E402

VIT = dict(type='mmpretrain.VisionTransformer', arch=families.ARCH, img_size=32)
VIT.update(patch_size=8)
SWIN = dict(
    type='SwinTransformer',
    embed_dims=16,
    depths=[2, 1],
    num_heads=[2, 2],
    window_size=4,
    strides=(4, 2),
    out_indices=(0, 1),
)
TIMM = dict(type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224')
TIMM.update(families.VIT)
PVT = dict(type='mmdet.PyramidVisionTransformerV2', **families.MM_PVT)
MIT = dict(type='mmseg.MixVisionTransformer', **families.MM_PVT)
BACKBONES = {'ViT': VIT, 'Swin': SWIN, 'TIMMBackbone': TIMM, 'PVT': PVT, 'MiT': MIT}
#: SimpleK and SpatialK end in a Linear layer, which mmdet's Swin draws.
KEY = dict(type='SimpleK', num_charts=2, residual=True)
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def config(backbone, **options):
    # pyramids look at so few tokens of 32 pixels that one of them is left
    size = 64 if backbone['type'] in (PVT['type'], MIT['type']) else 32
    return dict(
        type='mmmanikey.with_keys',
        backbone=backbone,
        key=KEY,
        example=(1, 3, size, size),
        **options,
    )


def built(cfg):
    init_default_scope('mmdet')
    return MODELS.build(Config(dict(model=cfg)).model)


@pytest.mark.parametrize('name', BACKBONES)
def test_that_very_backbone(name):
    stock, model = built(BACKBONES[name]), built(config(BACKBONES[name]))
    assert isinstance(model, type(stock))
    gained = set(model.state_dict()) - set(stock.state_dict())
    assert set(stock.state_dict()) < set(model.state_dict())
    assert gained == set(mmmanikey.key_state_dict(model))
    mmmanikey.remove_keys(model)
    assert type(model) is type(stock)
    assert set(model.state_dict()) == set(stock.state_dict())


@pytest.mark.parametrize('name', BACKBONES)
def test_initialisation_leaves_keys_at_zero(name):
    model = built(config(BACKBONES[name]))
    for layer in keyed.keyed_layers(model).values():
        torch.nn.init.ones_(layer.key.out.weight)
        torch.nn.init.ones_(layer.key.conv1.weight)
    model.init_weights()
    for layer in keyed.keyed_layers(model).values():
        assert not layer.key.out.weight.any()
        assert layer.key.conv1.weight.std() > 0.1


@pytest.mark.parametrize('name', BACKBONES)
def test_keys_of_a_checkpoint_stay(name, tmp_path):
    model = built(config(BACKBONES[name]))
    for p in mmmanikey.key_parameters(model):
        torch.nn.init.normal_(p)
    path = str(tmp_path / 'keys.pth')
    prefix = 'backbone.' if name == 'Swin' else ''  # mmdet's reads those of detectors
    weights = {f'{prefix}{n}': x for n, x in model.state_dict().items()}
    torch.save(dict(state_dict=weights), path)
    pretrained = dict(type='Pretrained', checkpoint=path)
    other = built(config(dict(BACKBONES[name], init_cfg=pretrained)))
    other.init_weights()
    for p, q in zip(mmmanikey.key_parameters(model), mmmanikey.key_parameters(other)):
        assert torch.equal(p, q)


def test_a_whole_detector_that_a_runner_initialises():
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmmanikey.config_path('demo/mask_rcnn_swin_nano_spatialk.py'))
    swin = dict(SWIN, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], strides=(4, 2, 2, 2))
    swin.update(embed_dims=32, out_indices=(0, 1, 2, 3))
    cfg.model.backbone = dict(config(swin), _delete_=True)
    cfg.model.backbone.pop('_delete_')
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    assert len(keyed.keyed_layers(detector)) == 4
    for layer in keyed.keyed_layers(detector).values():
        assert not layer.key.out.weight.any()


def test_a_config_whose_weights_a_checkpoint_replaces():
    """Tools build it, tests and resumed trainings run it, without pretrained ones."""
    vit = dict(VIT, init_cfg=dict(type='Pretrained', checkpoint='none.pth'))
    cfg = Config(dict(model=dict(backbone=config(vit))))
    assert keyed.keyed_layers(build_from(cfg))
    cli.drop_pretrained(cfg)
    model = built(cfg.model.backbone)
    model.init_weights()
    assert keyed.keyed_layers(model)


def test_key_learning_rate_of_a_config():
    from mmengine.optim import build_optim_wrapper

    model = built(config(VIT))
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.1),
            paramwise_cfg=dict(custom_keys={'.key.': dict(lr_mult=10)}),
        ),
    )
    rates = {
        id(p): group['lr'] for group in wrapper.param_groups for p in group['params']
    }
    keys = {id(p) for p in mmmanikey.key_parameters(model)}
    assert {rate for p, rate in rates.items() if p in keys} == {1.0}
    assert {rate for p, rate in rates.items() if p not in keys} == {0.1}


def test_weights_that_a_segmentor_of_mmseg_hands_to_its_backbone():
    """They are those of the stock backbone."""
    backbone = dict(type='mmseg.BEiT', img_size=32, patch_size=8, embed_dims=16)
    backbone.update(num_layers=2, num_heads=2, init_values=0.1)
    model = dict(
        type='mmseg.EncoderDecoder',
        backbone=config(backbone, read='intercept'),
        decode_head=dict(type='mmseg.FCNHead', in_channels=16, channels=8),
        pretrained='beit.pth',
    )
    model['decode_head']['num_classes'] = 2
    segmentor = built(model)
    expected = dict(type='Pretrained', checkpoint='beit.pth')
    assert segmentor.backbone.init_cfg == expected


def test_errors_name_the_argument():
    with pytest.raises(
        TypeError, match="backbone must be a dict with 'type', got None"
    ):
        MODELS.build(dict(type='mmmanikey.with_keys', backbone=None, key=KEY))
    resnet = dict(type='mmdet.ResNet', depth=18)
    with pytest.raises(ValueError, match='ResNet has no softmax of a product of query'):
        built(config(resnet))


@pytest.mark.slow
def test_importing_the_package_stays_light():
    code = (
        'import sys, mmmanikey;'
        "heavy = {'torch', 'mmengine', 'mmpretrain'} & set(sys.modules);"
        'assert not heavy, heavy;'
        'mmmanikey.insert_keys;'
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
