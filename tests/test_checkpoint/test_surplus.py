"""What a backbone has no place for is refused with the argument that makes it."""

import re

import pytest
import timm
import torch
from mmpretrain.models import SwinTransformer
from mmpretrain.models.backbones.deit import DistilledVisionTransformer
from oracles import assert_same, randomize

import mmmanikey
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone

SWIN = dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3])
VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
DENSE = dict(with_cls_token=False, out_type='featmap')
VANILLA = dict(type='VanillaK', num_charts=2)


def swin(**options):
    settings = dict(arch=SWIN, img_size=64, window_size=4, out_indices=(1,))
    return randomize(ManifoldKeySwin(**{**settings, **options})).train(False)


def vit(**options):
    settings = dict(arch=VIT, img_size=64, patch_size=16, out_type='raw')
    return randomize(ManifoldKeyViT(**{**settings, **options})).train(False)


def save(path, model, prefix='backbone.', **extra):
    weights = {f'{prefix}{n}': v for n, v in model.state_dict().items()}
    torch.save(dict(state_dict={**weights, **extra}), path)
    return str(path)


#: (network, options of the file's, options of the one that loads, argument named)
LOSSES = {
    'layer-scale': (
        vit,
        dict(layer_scale_init_value=0.1),
        {},
        'layer_scale_init_value=1e-5',
    ),
    'qkv-bias': (vit, {}, dict(qkv_bias=False), 'qkv_bias=True'),
    'qkv-bias-swin': (
        swin,
        {},
        dict(stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False)))),
        'stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=True)))',
    ),
    'qv-bias': (
        vit,
        dict(key=VANILLA),
        dict(key=VANILLA, qkv_bias=False),
        'qkv_bias=True',
    ),
    'absolute-positions': (
        swin,
        dict(use_abs_pos_embed=True),
        {},
        'use_abs_pos_embed=True',
    ),
    'relative-positions': (
        vit,
        dict(DENSE, use_rel_pos=True),
        DENSE,
        'use_rel_pos=True',
    ),
    'patch-norm': (
        swin,
        {},
        dict(patch_cfg=dict(norm_cfg=None)),
        "patch_cfg=dict(norm_cfg=dict(type='LN'))",
    ),
    'blocks': (
        swin,
        dict(arch=dict(SWIN, depths=[2, 4])),
        {},
        'an arch with depths=[2, 4]',
    ),
    'stages': (
        swin,
        dict(arch=dict(embed_dims=12, depths=[2, 2, 1], num_heads=[2, 3, 4])),
        {},
        'an arch with depths=[2, 2, 1], of which out_indices=(0, 1) gives the first',
    ),
    'layers': (
        vit,
        dict(arch=dict(VIT, num_layers=3)),
        {},
        'an arch with num_layers=3',
    ),
    'residual-key': (
        vit,
        dict(key=dict(VANILLA, residual=True)),
        {},
        "key=dict(type='VanillaK', num_charts=2, residual=True)",
    ),
    'residual-key-swin': (
        swin,
        dict(key=dict(type='KUA', num_charts=2, residual=True)),
        {},
        "key=dict(type='KUA', num_charts=2, residual=True)",
    ),
    'membership': (
        vit,
        dict(key=dict(type='KUA', num_charts=2)),
        dict(key=VANILLA),
        "key=dict(type='KUA', num_charts=2)",
    ),
}


@pytest.mark.parametrize('loss', LOSSES)
def test_what_would_be_lost_is_refused_and_loads_as_told(tmp_path, loss):
    build, options, without, argument = LOSSES[loss]
    source = build(**options)
    path = save(tmp_path / 'w.pth', source)
    model = build(**without)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as info:
        PretrainedBackbone(path).load(model)
    sentence, _, table = str(info.value).partition('\n')
    lost = source.state_dict().keys() - before.keys()
    lost = {name for name in lost if not re.match(r'norm\d', name)}
    number, names, groups = re.search(
        r'holds (\d+) weights that the backbone has no place for, such as (.*?); build '
        r'it with .*, or throw these away with allow_unexpected=(\(.*\))$',
        sentence,
    ).groups()
    assert int(number) == len(lost - {n for n in lost if n.endswith('_index')})
    assert set(names.split(', ')) <= lost
    assert f'; build it with {argument}' in sentence
    assert 'unexpected' in table
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name

    groups = tuple(re.findall("'(.*?)'", groups))
    PretrainedBackbone(path, allow_unexpected=groups).load(model)
    for name, value in model.state_dict().items():
        if name in source.state_dict():
            assert torch.equal(value, source.state_dict()[name]), name

    told = build(**options)
    PretrainedBackbone(path).load(told)
    x = torch.randn(1, 3, 64, 64)
    for actual, expected in zip(told(x), source(x)):
        assert_same(actual, expected, 1e-6)


@pytest.mark.parametrize(
    ('name', 'value', 'argument'),
    [
        ('register_tokens', torch.ones(1, 4, 24), 'build it with num_registers=4'),
        ('dist_token', torch.ones(1, 1, 24), 'model without distillation'),
        ('layers.0.ffn.w12.weight', torch.ones(2), "ffn_type='swiglu_fused'"),
        ('layers.0.attn.gate.weight', torch.ones(2), 'check its arguments'),
        ('adapter.weight', torch.ones(2), 'check its arguments'),
        ('extra', torch.ones(2), 'check its arguments'),
        ('stages.0.blocks.0.attn.x', torch.ones(2), 'check its arguments'),
        ('ln1.extra', torch.ones(2), 'check its arguments'),
    ],
)
def test_weights_of_other_networks(tmp_path, name, value, argument):
    path = save(tmp_path / 'w.pth', vit(), **{f'backbone.{name}': value})
    message = rf'holds 1 weights .* such as {name}; .*{argument}'
    with pytest.raises(CheckpointError, match=message):
        PretrainedBackbone(path).load(vit())


@pytest.mark.parametrize(
    ('options', 'without', 'lacks', 'argument'),
    [
        # with a norm before the layers the patch embedding has no bias
        (dict(pre_norm=True), {}, 'projection.bias', 'pre_norm=True'),
        (
            dict(key=VANILLA),
            {},
            'layers.0.attn.qkv.weight',
            r"key=dict\(type='VanillaK', num_charts=2\)\n",
        ),
        (
            {},
            dict(key=VANILLA),
            'layers.0.attn.key.scale',
            "residual=True in the key's config\n",
        ),
    ],
)
def test_what_a_file_lacks_is_told_with_what_it_has(
    tmp_path, options, without, lacks, argument
):
    path = save(tmp_path / 'w.pth', vit(**options))
    message = f'lacks or .*{lacks} .missing.; .*its other weights ask for {argument}'
    with pytest.raises(CheckpointError, match=message):
        PretrainedBackbone(path).load(vit(**without))


BESIDE = [
    'head.fc.weight',
    'head.layers.head.weight',
    'fc.weight',
    'classifier.weight',
    'cls_head.weight',
    'bbox_head.fc_cls.weight',
    'roi_head.bbox_head.fc_cls.weight',
    'decode_head.conv_seg.weight',
    'auxiliary_head.conv_seg.weight',
    'neck.lateral_convs.0.weight',
    'fpn.inner_blocks.0.weight',
    'decoder.0.weight',
    'decoder_blocks.0.weight',
    'decoder_pos_embed',
    'projector.0.weight',
    'predictor.0.weight',
    'mask_token',
    'masked_embed',
    'data_preprocessor.mean',
]


@pytest.mark.parametrize('build', [swin, vit])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_what_stands_beside_a_backbone_is_left_out(tmp_path, build, prefix):
    """Also where nothing but its own name tells it from the backbone."""
    source, model = build(), build()
    extra = {f'{prefix}{name}': torch.ones(2) for name in BESIDE}
    path = save(tmp_path / 'w.pth', source, prefix, **extra)
    coverage = PretrainedBackbone(path).load(model)
    assert not coverage.unexpected
    for reason in ('head', 'neck', 'used in pretraining alone', 'preprocessing'):
        assert f'({reason})' in coverage.source
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ('source', 'model', 'dropped'),
    [
        (vit, lambda: vit(**DENSE, final_norm=False), {'cls_token', 'ln1'}),
        (
            lambda: vit(out_type='avg_featmap'),
            lambda: vit(out_type='cls_token'),
            {'ln2'},
        ),
        (lambda: swin(out_indices=(0, 1)), swin, {'norm0'}),
    ],
    ids=['dense', 'pooling', 'output-norms'],
)
def test_what_a_backbone_does_without_by_design(tmp_path, source, model, dropped):
    source, model = source(), model()
    coverage = PretrainedBackbone(save(tmp_path / 'w.pth', source)).load(model)
    assert {name.split('.')[0] for name in coverage.dropped} == dropped
    assert coverage.dropped.keys() == set(coverage.unexpected)
    assert 'left out: ' in str(coverage)


def test_mmpretrains_distilled_deit_in_dense_use(tmp_path):
    """Neither of its tokens is used; with a class token its other one is missed."""
    arch = dict(VIT)
    theirs = DistilledVisionTransformer(arch, img_size=64, patch_size=16)
    path = save(tmp_path / 'w.pth', randomize(theirs))
    coverage = PretrainedBackbone(path).load(vit(**DENSE))
    assert coverage.dropped.keys() == {'cls_token', 'dist_token'}
    with pytest.raises(CheckpointError, match='model without distillation'):
        PretrainedBackbone(path).load(vit())


@pytest.mark.parametrize('name', ['allow_missing', 'allow_unexpected'])
def test_unknown_groups(name):
    with pytest.raises(ValueError, match=rf"{name} names \['keys'\], the groups are"):
        PretrainedBackbone('w.pth', **{name: ('keys',)})

    with pytest.raises(TypeError, match=rf"{name} must be a list of groups, got 'key'"):
        PretrainedBackbone('w.pth', **{name: 'key'})


def test_keys_that_were_inserted(tmp_path):
    stock = SwinTransformer(SWIN, img_size=64, window_size=4, out_indices=(0, 1))
    mmmanikey.insert_keys(stock, VANILLA)
    path = save(tmp_path / 'w.pth', stock)
    with pytest.raises(CheckpointError, match='; build it with mmmanikey.with_keys, '):
        PretrainedBackbone(path).load(swin())


@pytest.mark.parametrize('name', ['ema', 'sum_channels'])
def test_switches_are_switches(name):
    with pytest.raises(TypeError, match=f'{name} must be True or False'):
        PretrainedBackbone('w.pth', **{name: 'yes'})


def test_timms_dinov2(tmp_path):
    """By its architecture's name; it takes the layer scale to be the same network."""
    theirs = timm.create_model('vit_small_patch14_dinov2', img_size=56)
    theirs = randomize(theirs, std=0.02).eval()
    torch.save(theirs.state_dict(), tmp_path / 'w.pth')
    settings = dict(img_size=56, patch_size=14, out_type='raw')
    path = str(tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='layer_scale_init_value=1e-5'):
        PretrainedBackbone(path).load(ManifoldKeyViT('dinov2-small', **settings))
    ours = ManifoldKeyViT('dinov2-small', layer_scale_init_value=1e-5, **settings)
    PretrainedBackbone(path).load(ours.eval())
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        assert_same(ours(x)[0], theirs.forward_features(x), 1e-5)


@pytest.mark.parametrize('build', [swin, vit])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64])
def test_one_channel(tmp_path, build, dtype):
    """A grey image gives what it gives as three equal channels; timm's way."""
    source = build().to(dtype).to(torch.float32)
    path = save(tmp_path / 'w.pth', source.to(dtype))
    source.to(torch.float32)
    grey = build(in_channels=1)
    message = (
        r'such as patch_embed.projection.weight \([^;]*\); the backbone is of images '
        r"with 1 channels, in patches of .*, and sum_channels=True sums the file's; "
        r"allow_missing=\('patch embedding',\) leaves"
    )
    with pytest.raises(CheckpointError, match=message):
        PretrainedBackbone(path).load(grey)
    PretrainedBackbone(path, sum_channels=True).load(grey)
    x = torch.randn(2, 1, 64, 64)
    tolerance = 2e-2 if dtype is torch.float16 else 1e-5  # the sum is rounded
    assert_same(grey(x)[0], source(x.expand(-1, 3, -1, -1))[0], tolerance)
    expected = timm.models.adapt_input_conv(1, source.patch_embed.projection.weight)
    actual = grey.patch_embed.projection.weight
    assert_same(actual, expected, 1e-3 if dtype is torch.float16 else 1e-6)


def test_channels_are_summed_for_one_channel_only(tmp_path):
    path = save(tmp_path / 'w.pth', vit())
    rgb = vit()
    PretrainedBackbone(path, sum_channels=True).load(rgb)
    with pytest.raises(CheckpointError) as info:
        PretrainedBackbone(path, sum_channels=True).load(vit(in_channels=4))
    assert 'sum_channels' not in str(info.value)
    four = vit(in_channels=4)
    start = four.patch_embed.projection.weight.clone()
    PretrainedBackbone(path, allow_missing=('patch embedding',)).load(four)
    assert torch.equal(four.patch_embed.projection.weight, start)
    assert torch.equal(four.ln1.weight, rgb.ln1.weight)
