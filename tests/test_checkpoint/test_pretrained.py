"""PretrainedBackbone: prefixes, the official layout, coverage, refusals."""

import logging

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones import SwinTransformer as MMDetSwin
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmpretrain.models import SwinTransformer
from mmseg.models import VisionTransformer as MMSegViT
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same, randomize
from tiny import vit

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone
from mmmanikey.keys import VanillaK
from mmmanikey.registry import KEYS

NANO = dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3])
SETTINGS = dict(window_size=4, out_indices=(0, 1), pad_small_map=True)


def make(**kwargs):
    return ManifoldKeySwin(NANO, **SETTINGS, **kwargs)


def stock_weights():
    return randomize(SwinTransformer(NANO, **SETTINGS)).state_dict()


def save(path, content):
    torch.save(content, path)
    return str(path)


def official_weights():
    """Random weights under the names and shapes of Swin's own repository."""
    C = NANO['embed_dims']
    shapes = {
        'patch_embed.proj.weight': (C, 3, 4, 4),
        'patch_embed.proj.bias': (C,),
        'patch_embed.norm.weight': (C,),
        'patch_embed.norm.bias': (C,),
        'norm.weight': (2 * C,),
        'norm.bias': (2 * C,),
        'head.weight': (1000, 2 * C),
        'head.bias': (1000,),
        'layers.0.downsample.reduction.weight': (2 * C, 4 * C),
        'layers.0.downsample.norm.weight': (4 * C,),
        'layers.0.downsample.norm.bias': (4 * C,),
    }
    for stage, heads in enumerate(NANO['num_heads']):
        dims = C * 2**stage
        for block in range(2):
            linears = {
                'attn.qkv': (3 * dims, dims),
                'attn.proj': (dims, dims),
                'mlp.fc1': (4 * dims, dims),
                'mlp.fc2': (dims, 4 * dims),
            }
            at = f'layers.{stage}.blocks.{block}'
            for layer, shape in linears.items():
                shapes[f'{at}.{layer}.weight'] = shape
                shapes[f'{at}.{layer}.bias'] = shape[:1]
            for norm in ('norm1', 'norm2'):
                shapes[f'{at}.{norm}.weight'] = shapes[f'{at}.{norm}.bias'] = (dims,)
            shapes[f'{at}.attn.relative_position_bias_table'] = (49, heads)
            shapes[f'{at}.attn_mask'] = (4, 16, 16)
    weights = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    index = make().stages[0].blocks[0].attn.w_msa.relative_position_index
    for name in list(weights):
        if name.endswith('bias_table'):
            weights[name.replace('bias_table', 'index')] = index
    return weights


@pytest.mark.parametrize('residual', [False, True])
def test_official_swin_equals_mmdets_conversion(tmp_path, residual):
    """mmdet's own Swin reads the same file; both must see the same features."""
    path = save(tmp_path / 'swin.pth', dict(model=official_weights()))
    theirs = MMDetSwin(
        embed_dims=12,
        depths=[2, 2],
        num_heads=[2, 3],
        window_size=4,
        strides=(4, 2),
        out_indices=(0, 1),
        convert_weights=True,
        init_cfg=ConfigDict(type='Pretrained', checkpoint=path),
    )
    theirs.init_weights()
    key = dict(type='SpatialK', residual=True) if residual else None
    start = dict(type='mmmanikey.PretrainedBackbone', checkpoint=path)
    ours = make(init_cfg=start, key=key)
    ours.init_weights()
    for model in (ours, theirs):
        model.train(False)
        # norm0 is detection's own, and mmdet drops the file's final norm
        model.norm0.load_state_dict(ours.norm0.state_dict())
        model.norm1.load_state_dict(ours.norm1.state_dict())
    x = torch.randn(2, 3, 48, 40)
    for actual, expected in zip(ours(x), theirs(x)):
        assert_same(actual, expected, STOCK_TOLERANCE)


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', 'module.', ''])
@pytest.mark.parametrize('wrapper', ['state_dict', 'model', None])
def test_prefix_and_wrapper_are_found(tmp_path, prefix, wrapper):
    weights = stock_weights()
    content = {f'{prefix}{name}': value for name, value in weights.items()}
    content['head.fc.weight'] = torch.zeros(2, 2)
    path = save(
        tmp_path / 'w.pth', {wrapper: content, 'meta': {}} if wrapper else content
    )
    model = make()
    PretrainedBackbone(path)(model)
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('prefix', ['model.backbone', 'model.backbone.'])
def test_a_prefix_with_and_without_its_dot(tmp_path, prefix):
    weights = stock_weights()
    content = {f'model.backbone.{name}': value for name, value in weights.items()}
    model = make()
    PretrainedBackbone(save(tmp_path / 'w.pth', content), prefix=prefix)(model)
    assert torch.equal(model.state_dict()['norm1.weight'], weights['norm1.weight'])


def test_a_key_that_counts(tmp_path):
    """A buffer of integers loads from a file of the same."""

    @KEYS.register_module(force=True)
    class Counting(VanillaK):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer('seen', torch.tensor(0))

    model, other = (make(key=dict(type='Counting', num_charts=2)) for _ in range(2))
    randomize(model)
    for name, buffer in model.named_buffers():
        if name.endswith('seen'):
            buffer.fill_(7)
    PretrainedBackbone(save(tmp_path / 'w.pth', model.state_dict()))(other)
    seen = [b for n, b in other.named_buffers() if n.endswith('seen')]
    assert seen
    assert all(each == 7 for each in seen)


def test_patches_of_another_size(tmp_path):
    weights = vit().state_dict()
    weights['patch_embed.projection.weight'] = torch.zeros(8, 3, 8, 8)
    path = save(tmp_path / 'w.pth', weights)
    told = 'images with 3 channels, in patches of 4 x 4'
    with pytest.raises(CheckpointError, match=told):
        PretrainedBackbone(path)(vit())


def test_coverage_is_logged(tmp_path):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    path = save(tmp_path / 'w.pth', {**stock_weights(), 'head.weight': torch.ones(2)})
    larger = {**SETTINGS, 'window_size': 5}
    key = dict(type='SpatialK', residual=True)
    PretrainedBackbone(path)(ManifoldKeySwin(NANO, **larger, key=key))
    logger.removeHandler(handler)
    first, _, *lines = records[-1].splitlines()
    assert first == (
        f'pretrained backbone from {path}: the file itself, no prefix, mmpretrain '
        'layout; left out: 1 (head); residual keys that are not in the file start at '
        'zero: all 4'
    )
    rows = {}
    for line in lines:
        *group, loaded, resized, missing, misshapen, unexpected = line.split()
        counts = (loaded, resized, missing, misshapen, unexpected)
        rows[' '.join(group)] = tuple(map(int, counts))
    # 4 blocks of qkv, proj (weight, bias) and a table; SpatialK's 4 parameters each
    assert rows['attention'] == (16, 4, 0, 0, 0)
    assert rows['key'] == (0, 0, 16, 0, 0)
    assert rows['patch embedding'] == (4, 0, 0, 0, 0)
    assert rows['norms'] == (22, 0, 0, 0, 0)
    assert rows['other'] == (1, 0, 0, 0, 0)


def drop(part):
    return lambda weights: {n: v for n, v in weights.items() if part not in n}


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (drop('proj.weight'), 'misshapes 4 .* such as stages.*proj.weight'),
        (drop('qkv.bias'), 'misshapes 4 .* such as stages.*qkv.bias'),
        (drop('ffn'), 'misshapes 16 .* such as stages.*ffn'),
        (drop('patch_embed'), 'misshapes 4 .* such as patch_embed'),
        (
            lambda weights: {
                n: v.t() if v.dim() == 2 else v for n, v in weights.items()
            },
            'lacks or misshapes',
        ),
    ],
)
def test_incomplete_weights_are_refused(tmp_path, damage, message):
    path = save(tmp_path / 'w.pth', damage(stock_weights()))
    with pytest.raises(ValueError, match=message):
        PretrainedBackbone(path)(make())


def test_stock_weights_for_a_manifold_key_are_refused(tmp_path):
    path = save(tmp_path / 'w.pth', stock_weights())
    with pytest.raises(ValueError, match='check the architecture, the key'):
        PretrainedBackbone(path)(make(key=dict(type='SpatialK')))


@pytest.mark.parametrize(
    ('shapes', 'sentence'),
    [
        (
            {'visual.conv1.weight': 2, 'visual.proj': 2, 'text.a': 1, 'text.b': 1},
            r'no Swin or ViT whose names are known here; .* is visual\.conv1\.weight$',
        ),
        (  # some are named as ours, and fit
            {'cls_token': (1, 1, 12), 'x.weight': 2, 'norm.bias': 2, 'norm.weight': 2},
            r'no known project does \(cls_token, x.weight, norm.bias, ...\); rename '
            r'them as one of these does \(mmseg ViT, mmpretrain, Microsoft Swin, '
            r'.*vision ViT\)',
        ),
    ],
)
def test_names_of_an_unknown_project(tmp_path, shapes, sentence):
    content = {name: torch.ones(shape) for name, shape in shapes.items()}
    arch = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=12)
    with pytest.raises(CheckpointError, match=sentence) as info:
        PretrainedBackbone(save(tmp_path / 'w.pth', content))(ManifoldKeyViT(arch))
    assert 'check the architecture' not in str(info.value)
    assert '\n' not in str(info.value)


def test_a_known_project_and_another_architecture(tmp_path):
    arch = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=12)
    path = save(tmp_path / 'w.pth', ManifoldKeyViT(arch, img_size=32).state_dict())
    with pytest.raises(CheckpointError, match='check the architecture'):
        PretrainedBackbone(path)(make())


@pytest.mark.parametrize('content', [[1, 2], dict(epoch=3), dict(state_dict={})])
def test_files_without_weights(tmp_path, content):
    with pytest.raises(ValueError, match='holds no'):
        PretrainedBackbone(save(tmp_path / 'w.pth', content))(make())


def test_missing_file():
    with pytest.raises(FileNotFoundError, match='not found: no/such.pth'):
        PretrainedBackbone('no/such.pth')(make())


def test_unknown_group():
    with pytest.raises(ValueError, match=r"allow_missing names \['keys'\]"):
        PretrainedBackbone('w.pth', allow_missing=('keys',))


def interpolated(grid, size, mode):
    """(rows, cols, channels), or (rows, channels), resized along its grid."""
    grid = F.interpolate(grid.movedim(-1, 0)[None], size=size, mode=mode)
    return grid[0].movedim(0, -1)


def load_into(path, source, target):
    """Load; names that were resized, and the weights before and after."""
    coverage = PretrainedBackbone(save(path, source.state_dict())).load(target)
    return coverage.resized, source.state_dict(), target.state_dict()


def test_relative_tables_and_positions_of_swin_by_value(tmp_path):
    """Windows of 4 and 5 tokens, images of 32 and 48 pixels."""
    kwargs = dict(out_indices=(0, 1), use_abs_pos_embed=True)
    source = randomize(ManifoldKeySwin(NANO, img_size=32, window_size=4, **kwargs))
    target = ManifoldKeySwin(NANO, img_size=48, window_size=5, **kwargs)
    resized, old, new = load_into(tmp_path / 'w.pth', source, target)
    tables = [name for name in old if name.endswith('bias_table')]
    assert sorted(resized) == sorted(['absolute_pos_embed', *tables])
    for name in tables:
        grid = interpolated(old[name].view(7, 7, -1), (9, 9), 'bicubic')
        assert torch.equal(new[name], grid.reshape(81, -1)), name
    grid = interpolated(old['absolute_pos_embed'].view(8, 8, -1), (12, 12), 'bicubic')
    assert torch.equal(new['absolute_pos_embed'], grid.reshape(1, 144, -1))


def test_positions_of_vit_by_value(tmp_path):
    """Images of 64 and 80 pixels, global layers and windows of 4 and 5 tokens."""
    arch = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=12)
    kwargs = dict(patch_size=8, with_cls_token=False, out_type='featmap')
    kwargs |= dict(use_rel_pos=True, global_attn_indexes=(1,))
    source = ManifoldKeyViT(arch, img_size=64, window_size=4, **kwargs)
    target = ManifoldKeyViT(arch, img_size=80, window_size=5, **kwargs)
    randomize(source)
    resized, old, new = load_into(tmp_path / 'w.pth', source, target)
    assert len(resized) == 5
    grid = interpolated(old['pos_embed'].view(8, 8, -1), (10, 10), 'bicubic')
    assert torch.equal(new['pos_embed'], grid.reshape(1, 100, -1))
    for name in resized:
        if 'rel_pos' in name:
            size = 9 if 'layers.0' in name else 19
            assert torch.equal(new[name], interpolated(old[name], size, 'linear')), name


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('residual', [False, True])
def test_charts_that_differ(tmp_path, strategy, residual):
    """Said with both numbers, also where a key may be missing."""
    key = dict(type=strategy, residual=residual)
    path = save(tmp_path / 'w.pth', make(key=dict(key, num_charts=2)).state_dict())
    message = (
        r'w.pth has 2 charts in stages\.0\..*key and the backbone 3; charts cannot'
    )
    with pytest.raises(ValueError, match=message):
        PretrainedBackbone(path)(make(key=dict(key, num_charts=3)))


def test_final_norm_of_old_files(tmp_path):
    """mmcls once called it 'norm'."""
    weights = stock_weights()
    old = {
        n.replace('norm1.', 'norm.') if n[:6] == 'norm1.' else n: v
        for n, v in weights.items()
    }
    assert 'norm.weight' in old
    model = make()
    coverage = PretrainedBackbone(save(tmp_path / 'w.pth', old)).load(model)
    assert torch.equal(model.norm1.weight, weights['norm1.weight'])
    assert not coverage.missing
    assert not coverage.unexpected


def test_allowed_groups_may_be_misshapen(tmp_path):
    """An MLP of another width keeps its start; nothing else does."""
    wide = dict(block_cfgs=dict(ffn_cfgs=dict(feedforward_channels=20)))
    source = randomize(make(stage_cfgs=wide))
    path = save(tmp_path / 'w.pth', source.state_dict())
    model = make()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match='misshapes 12 .*20, 12. in the file, .48'):
        PretrainedBackbone(path)(model)
    coverage = PretrainedBackbone(path, allow_missing=('MLP',)).load(model)
    assert len(coverage.misshapen) == 12
    for name, value in model.state_dict().items():
        kept = name in coverage.misshapen
        assert torch.equal(value, (before if kept else source.state_dict())[name]), name


@pytest.mark.parametrize(
    ('part', 'sentence'),
    [
        ('norm0.bias', 'such as norm0.bias'),  # half a norm is none
        ('blocks.0.norm2.', 'such as stages.0.blocks.0.norm2.weight'),
        ('downsample.', 'such as stages.0.downsample'),
    ],
)
def test_what_a_backbone_cannot_do_without(tmp_path, part, sentence):
    path = save(tmp_path / 'w.pth', drop(part)(stock_weights()))
    with pytest.raises(ValueError, match=sentence):
        PretrainedBackbone(path)(make())


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_stock_network_takes_its_own_names(prefix, tmp_path):
    """mmseg's ViT, whose names are others than ours."""
    stock, other = (
        MMSegViT(32, 4, embed_dims=8, num_layers=1, num_heads=2) for _ in range(2)
    )
    weights = {f'{prefix}{n}': x for n, x in randomize(stock).state_dict().items()}
    weights |= {'decode_head.conv_seg.weight': torch.zeros(2, 8, 1, 1)}
    PretrainedBackbone(save(tmp_path / 'w.pth', dict(state_dict=weights)))(other)
    for name, value in stock.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
