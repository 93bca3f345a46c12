"""The life of a backbone's weights, followed by value from file to file.

Pretraining, publishing, describing, detection, test, publishing, segmentation: each
starts from the file that the one before left.
"""

import os
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.utils import resize_pos_embed

from mmmanikey.checkpoint import atomic_save
from mmmanikey.engine import cli
from mmmanikey.engine.running import build_runner
from mmmanikey.resize import resize_relative_position_bias_table, resize_token_mixing

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs/demo'
PRETRAIN = CONFIGS / 'pretrain_swin_nano_spatialk.py'
DETECTOR = CONFIGS / 'mask_rcnn_swin_nano_spatialk.py'
SEGMENTOR = CONFIGS / 'upernet_swin_nano_spatialk.py'
LACKING = {f'norm{i}.{kind}' for i in range(3) for kind in ('weight', 'bias')}

# One worker for all: they share the files.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('chain')]


class Start(Hook):
    """Keeps the weights that a training or test begins with."""

    def before_train(self, runner):
        self.weights = clone(runner.model.state_dict())

    before_test = before_train


def clone(weights):
    return {name: value.clone() for name, value in weights.items()}


def read(config, checkpoint=None, **options):
    cfg = Config.fromfile(config)
    if checkpoint:
        options['model.backbone.init_cfg.checkpoint'] = str(checkpoint)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'launcher': 'none', **options})
    if cfg.default_scope == 'mmpretrain':
        cli.add_mmpretrain_loader_defaults(cfg)
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].update(num_workers=0, persistent_workers=False)
    return cfg


def run(cfg, phase):
    """Train or test in this process; the weights it began with, and its result."""
    start = Start()
    runner = build_runner(cfg)
    runner.register_hook(start)
    result = getattr(runner, phase)()
    return start.weights, result


@pytest.fixture(scope='module')
def tool(folder, fork):
    return lambda name, *args: fork(folder, ROOT / f'tools/{name}.py', *args)


def publish(tool, folder, source, stem):
    tool('checkpoints/publish', source, f'published/{stem}')
    (path,) = (folder / 'published').glob(f'{stem}-*.pth')
    return path


def weights_of(path, prefix=''):
    weights = torch.load(path, weights_only=False)['state_dict']
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def assert_same_weights(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def backbone_of(weights):
    return {
        name.removeprefix('backbone.'): value
        for name, value in weights.items()
        if name.startswith('backbone.')
    }


def build(cfg):
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, fork):
    """A folder with the data, in which everything runs."""
    folder = tmp_path_factory.mktemp('chain')
    sizes = ['--train-images=8', '--val-images=4', '--train-crops=64']
    args = ['--out', 'data/digits', *sizes, '--val-crops=20']
    fork(folder, ROOT / 'tools/data/make_digits.py', *args)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope='module')
def pretrained(folder, tool):
    """What pretraining leaves, and its published file."""
    run(read(PRETRAIN, work_dir='pretrain'), 'train')
    path = folder / 'pretrain/epoch_1.pth'
    return path, publish(tool, folder, path, 'pretrained')


@pytest.fixture(scope='module')
def detector(folder, pretrained, tool):
    """What detection began with, what it leaves, and its published file."""
    cfg = read(DETECTOR, pretrained[1], work_dir='detector')
    start, _ = run(cfg, 'train')
    path = folder / 'detector/epoch_1.pth'
    return start, path, publish(tool, folder, path, 'detector')


def test_publishing_keeps_every_weight_and_nothing_else(pretrained, detector):
    for source, published in (pretrained, detector[1:]):
        content = torch.load(published, weights_only=True)
        assert_same_weights(content['state_dict'], weights_of(source))
        assert content.keys() == {'meta', 'state_dict'}
        assert content['meta']['epoch'] == 1
        assert 'SpatialK' in content['meta']['cfg']
        assert content['meta']['dataset_meta']['classes'] == list('0123456789')


def test_describing_says_that_it_fits(tool, pretrained):
    result = tool('checkpoints/describe', pretrained[1], '--config', DETECTOR)
    assert 'Swin: embed_dims=32' in result.stdout
    assert 'SpatialK(num_charts=8' in result.stdout
    assert re.search(r'^key +32 +0 +0 +0 +0$', result.stdout, re.MULTILINE)
    assert re.search(r'^norms +40 +0 +6 +0 +0$', result.stdout, re.MULTILINE)


def test_detection_begins_with_the_pretrained_weights(pretrained, detector):
    start = backbone_of(detector[0])
    expected = weights_of(pretrained[1], 'backbone.')
    assert start.keys() - expected.keys() == LACKING
    for name in LACKING:  # the start of a LayerNorm
        assert (start.pop(name) == float(name.endswith('weight'))).all(), name
    assert_same_weights(start, expected)
    trained = weights_of(detector[1], 'backbone.')
    changed = [name for name in expected if not torch.equal(trained[name], start[name])]
    assert any('.key.' in name for name in changed)


@pytest.mark.parametrize('published', [False, True])
def test_testing_begins_with_the_trained_weights(detector, published):
    path = detector[2 if published else 1]
    cfg = read(DETECTOR, work_dir='test', load_from=str(path))
    cli.drop_pretrained(cfg)
    start, metrics = run(cfg, 'test')
    assert_same_weights(start, weights_of(detector[1]))
    assert 'coco/segm_mAP' in metrics


def test_segmentation_begins_with_the_detectors_backbone(folder, detector):
    cfg = read(SEGMENTOR, detector[2], work_dir='segmentor')
    start, metrics = run(cfg, 'train')
    expected = weights_of(detector[1], 'backbone.')
    assert_same_weights(backbone_of(start), expected)
    trained = weights_of(folder / 'segmentor/epoch_1.pth', 'backbone.')
    assert any(not torch.equal(trained[name], expected[name]) for name in expected)


def test_plain_pretrained_reads_published_files(pretrained):
    """mmengine's own initialiser."""
    plain = dict(type='Pretrained', checkpoint=str(pretrained[1]), prefix='backbone.')
    cfg = read(DETECTOR, **{'model.backbone.init_cfg': plain})
    start = build(cfg).backbone.state_dict()
    expected = weights_of(pretrained[1], 'backbone.')
    assert_same_weights({name: start[name] for name in expected}, expected)


def test_the_same_features_in_three_frameworks(detector):
    image = torch.randn(2, 3, 96, 72)
    features = {}
    with torch.no_grad():
        for config in (PRETRAIN, DETECTOR, SEGMENTOR):
            init_cfg = dict(
                type='mmmanikey.PretrainedBackbone', checkpoint=str(detector[2])
            )
            cfg = read(config, **{'model.backbone.init_cfg': init_cfg})
            model = build(cfg)
            features[cfg.default_scope] = model.backbone(image)
    assert [len(maps) for maps in features.values()] == [1, 4, 4]
    assert torch.equal(features['mmpretrain'][0], features['mmdet'][3])
    for ours, theirs in zip(features['mmdet'], features['mmseg']):
        assert torch.equal(ours, theirs)


def test_another_window_in_detection(pretrained):
    """Pretrained with windows of 4 tokens at 64 px, detected with 6 at 128 px."""
    cfg = read(DETECTOR, pretrained[1], **{'model.backbone.window_size': 6})
    backbone = build(cfg).backbone
    actual = backbone.state_dict()
    expected = weights_of(pretrained[1], 'backbone.')
    for name in [name for name in expected if name.endswith('conv1.weight')]:
        pair = [name, name.replace('conv1.weight', 'conv1.bias')]
        resized = resize_token_mixing(*(expected[n] for n in pair), (4, 4), (6, 6))
        expected.update(zip(pair, resized))
    for name in [name for name in expected if name.endswith('bias_table')]:
        expected[name] = resize_relative_position_bias_table(
            expected[name], (4, 4), (6, 6)
        )
    for name, value in expected.items():
        if not name.endswith('relative_position_index'):
            assert torch.equal(actual[name], value), name
    maps = backbone(torch.randn(1, 3, 128, 128))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    assert all(torch.isfinite(m).all() for m in maps)


def test_another_image_size_and_windows_in_a_vit(folder):
    """Classified at 64 px with a class token, detected at 128 px in windows."""
    cfg = read(CONFIGS / 'pretrain_vit_nano_vanillak.py')
    cfg.model.backbone.update(with_cls_token=True, out_type='cls_token')
    source = build(cfg)
    path = atomic_save(dict(state_dict=source.state_dict()), folder / 'vit.pth')
    cfg = read(CONFIGS / 'mask_rcnn_vit_nano_vanillak.py', path)
    actual = build(cfg).backbone.state_dict()
    expected = backbone_of(source.state_dict())
    del expected['cls_token']
    lacking = {name for name in expected if name.startswith('ln1.')}  # no final norm
    positions = resize_pos_embed(
        expected['pos_embed'][:, 1:], (8, 8), (16, 16), 'bicubic', 0
    )
    expected['pos_embed'] = positions
    assert not any(v.any() for n, v in actual.items() if 'rel_pos' in n)
    for name in expected.keys() - lacking:
        assert torch.equal(actual[name], expected[name]), name
