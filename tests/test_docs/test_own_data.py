"""The configs for one's own data, taken from their pages and built on such data."""

import argparse

import pages
import pytest
import torch
import zoo
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmmanikey.engine import cli


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the configs, which the page's config is put among."""
    for path in zoo.CONFIGS.rglob('*.py'):
        link = tmp_path / 'configs' / path.relative_to(zoo.CONFIGS)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(page, name, old='', new=''):
    """The page's config that inherits another, read as the tools read it."""
    (text,) = (
        block.text
        for block in pages.blocks(page)
        if block.language == 'python' and block.text.startswith('_base_ = ')
    )
    assert old in text
    with open(name, 'w') as file:
        file.write(text.replace(old, new))
    cfg = cli.load_config(
        argparse.Namespace(config=name, cfg_options=None, launcher='none', work_dir='w')
    )
    cli.check_data(cfg, 'train', 'val', 'test')
    init_default_scope(cfg.default_scope)
    return cfg


def datasets(cfg):
    """The data sets of all loaders."""
    phases = ('train', 'val', 'test')
    return [DATASETS.build(cfg[f'{phase}_dataloader'].dataset) for phase in phases]


def build(cfg):
    """The model with fewer layers, without weights to load."""
    model = zoo.shallow(cfg).model
    model.backbone.init_cfg = None
    return revert_sync_batchnorm(MODELS.build(model)).train()


@pytest.mark.parametrize(
    ('base', 'is_residual'),
    [
        ('mask_rcnn_swin_t_spatialk_warmstart.py', True),
        ('mask_rcnn_swin_t_spatialk.py', False),
    ],
)
def test_detection(checkout, base, is_residual):
    names = ('bolt', 'nut')
    zoo.write_coco(
        checkout / 'data/parts', ('train', 'val'), annotations='{}.json', names=names
    )
    shown = './mask_rcnn_swin_t_spatialk_warmstart.py'
    cfg = load('getting_started.md', 'configs/parts.py', shown, f'./{base}')
    for dataset in datasets(cfg):
        assert dataset.metainfo['classes'] == names
        assert len(dataset) == 2
        instances = dataset[0]['data_samples'].gt_instances
        assert instances.labels.tolist() == [0]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == 'data/parts/annotations/val.json'
    assert cfg.model.backbone.key.get('residual', False) == is_residual
    detector = build(cfg)
    assert detector.roi_head.bbox_head.fc_cls.out_features == len(names) + 1
    assert detector.roi_head.mask_head.num_classes == len(names)
    batch = demo_mm_inputs(
        1, [(3, 96, 128)], num_items=[3], num_classes=len(names), with_mask=True
    )
    data = detector.data_preprocessor(batch, training=True)
    losses, _ = detector.parse_losses(detector(**data, mode='loss'))
    assert torch.isfinite(losses)


def test_segmentation(checkout):
    zoo.write_ade(checkout / 'data/roads')
    cfg = load('segmentation.md', 'configs/segmentation/roads.py')
    for dataset in datasets(cfg):
        assert dataset.metainfo['classes'] == ('road', 'water', 'grass')
        labels = dataset[0]['data_samples'].gt_sem_seg.data
        assert labels.max() == 255  # what was 0
    segmentor = build(cfg)
    assert segmentor.decode_head.conv_seg.out_channels == 3
    assert segmentor.auxiliary_head.conv_seg.out_channels == 3
    assert cfg.model.backbone.key.residual


def test_a_key_of_ones_own_starts_as_the_key_that_it_replaces(checkout):
    """Added to the linear key, where the public weights of the base need it."""
    text = next(b.text for b in pages.blocks('extending.md') if b.language == 'py')
    (checkout / 'configs/own.py').write_text(text)
    own = Config.fromfile('configs/own.py', import_custom_modules=False)
    assert own.custom_imports.imports == ['mmmanikey', 'my_project.keys']
    own, base = own.model, zoo.read('mask_rcnn_swin_t_spatialk_warmstart').model
    assert own.backbone.key == dict(base.backbone.key, type='WeightedK')
    own.backbone.key.type = base.backbone.key.type
    assert own == base
