"""Where a config's backbone comes from, and the remedy if it is not there."""

import io
import logging
import re
from pathlib import Path

import pytest
import torch
import zoo
from mmengine.logging import MMLogger
from oracles import randomize

from mmmanikey.checkpoint import CheckpointError
from mmmanikey.checkpoint.pretraining import (
    file_to_start_from,
    first_stages,
    identity,
    pretraining_of,
    warm_start_of,
    written_by,
)
from mmmanikey.engine.cli import UsageError, check_pretrained
from mmmanikey.registry import KEYS, MODELS

DEMOS = sorted(f'demo/{path.stem}' for path in (zoo.CONFIGS / 'demo').glob('*.py'))
STARTING = [n for n in [*zoo.ALL, *DEMOS] if 'pretrain' not in n]
NAMED = re.compile(r'configs/[\w/]+\.py')
DETECTOR, SEGMENTOR = 'mask_rcnn_swin_t_spatialk', 'demo/upernet_swin_nano_spatialk'
#: What the pretraining of the demos' nano Swin writes.
NANO = 'work_dirs/demo/pretrain/epoch_4.pth'


def expected(name):
    """The file that a config starts from, or None for one of the stock network."""
    if name.startswith('demo/'):
        return 'work_dirs/demo_vit/pretrain/epoch_8.pth' if 'vit' in name else NANO
    match = re.search(r'((swin|vit)_[tsb]_(\w+k|kua))(_3x)?$', name)
    return f'work_dirs/{match[1]}_in1k/epoch_300.pth' if match else None


STARTING_FROM_OURS = [name for name in STARTING if expected(name)]


def file_of(model):
    """The file, by what stands in the config."""
    start = model.backbone.init_cfg
    return file_to_start_from(model, start.get('checkpoint'), start.get('stock'))


def as_far_as(whole, backbone):
    """Identity of a backbone, cut to the stages that another one has."""
    found = identity(whole)
    if 'depths' in found['arch']:
        number = len(backbone.arch.depths)
        found['arch'] = first_stages(found['arch'], number)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)


def put(file, content=b''):
    """A checkpoint, or an empty file in its place."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)


def test_configs_that_start_from_ours():
    keys = ('vanillak', 'simplek', 'kua', 'spatialk')
    names = {n for n in STARTING if n.removesuffix('_3x').endswith(keys)}
    assert names == {*STARTING_FROM_OURS}
    assert len(names) == 31


def test_no_two_pretrainings_train_the_same_backbone():
    """Else it would be open which one's weights a detector starts from."""
    names = [*zoo.PRETRAINING, *(n for n in DEMOS if 'pretrain' in n)]
    found = [str(identity(zoo.read(name).model.backbone)) for name in names]
    assert len({*found}) == len(found) >= 22


@pytest.mark.parametrize('name', STARTING)
def test_the_file_follows_from_arch_and_key(name, folder):
    """It is the last one of the pretraining with the same arch and key."""
    model = zoo.load(name).model
    wanted = expected(name)
    assert 'checkpoint' not in model.backbone.init_cfg
    if wanted is None:
        assert file_of(model) == model.backbone.init_cfg.stock
        assert 'work_dirs' not in file_of(model)
        return
    put(wanted)
    assert file_of(model) == wanted
    backbone = model.backbone  # as in a Python-style config, and as that is dumped
    backbone.type, name = MODELS.get(backbone.type), backbone.key.type
    for backbone.key.type in (KEYS.get(name), f'mmmanikey.keys.{name}'):
        assert file_of(model) == wanted
    source = zoo.load(
        str(pretraining_of(model.backbone).relative_to(zoo.CONFIGS).with_suffix(''))
    )
    assert as_far_as(source.model.backbone, model.backbone) == identity(model.backbone)


@pytest.mark.parametrize('number', [1, 2, 3, 4, 5])
def test_fewer_stages_start_from_the_same_file(number):
    """But not other ones, nor more."""
    backbone = zoo.load(SEGMENTOR).model.backbone
    depths, heads = [2] * number, [2, 4, 8, 16, 32][:number]
    backbone.arch = dict(embed_dims=32, depths=depths, num_heads=heads)
    found = pretraining_of(backbone)
    if number > 4:
        assert found is None
    else:
        assert written_by(found) == NANO
    backbone.arch.depths = [1, *depths[1:]]
    assert pretraining_of(backbone) is None


@pytest.mark.parametrize('name', STARTING_FROM_OURS)
def test_the_remedy_names_configs_of_this_arch_and_key(name, folder):
    cfg = zoo.load(name)
    with pytest.raises(UsageError) as error:
        check_pretrained(cfg)
    assert expected(name) in str(error.value)
    named = NAMED.findall(str(error.value))
    assert named
    for path in named:
        other = zoo.load(path.removeprefix('configs/').removesuffix('.py'))
        theirs = as_far_as(other.model.backbone, cfg.model.backbone)
        theirs['key'].pop('residual', None)
        assert identity(cfg.model.backbone) == theirs


def test_any_script_loads_what_the_pretraining_wrote(folder):
    """No tool of ours is needed: the backbone finds the file, and the log names it."""
    cfg = zoo.load(SEGMENTOR)
    source = randomize(MODELS.build({**cfg.model.backbone, 'init_cfg': None}))
    weights = {f'backbone.{n}': v for n, v in source.state_dict().items()}
    put(NANO, dict(state_dict=weights))
    backbone = MODELS.build(cfg.model.backbone)
    handler = logging.StreamHandler(io.StringIO())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        backbone.init_weights()
    finally:
        logger.removeHandler(handler)
    assert f'pretrained backbone from {NANO}' in handler.stream.getvalue()
    for name, value in source.named_parameters():
        assert torch.equal(backbone.get_parameter(name), value)


def test_any_script_ends_in_one_sentence(folder):
    backbone = MODELS.build(zoo.load(SEGMENTOR).model.backbone)
    with pytest.raises(FileNotFoundError) as error:
        backbone.init_weights()
    assert NANO in str(error.value)
    assert 'demo/pretrain_swin_nano_spatialk.py' in str(error.value)


def nano(key, **start):
    """The demos' Swin with another key, before its weights are loaded."""
    backbone = zoo.load(SEGMENTOR).model.backbone
    start = dict(type='mmmanikey.PretrainedBackbone', **start)
    return MODELS.build({**backbone, 'key': key, 'init_cfg': start})


RESIDUAL = dict(type='SpatialK', num_charts=8, residual=True)


@pytest.mark.parametrize('key', [None, RESIDUAL, [None, RESIDUAL, None, RESIDUAL]])
def test_linear_and_residual_keys_take_the_stock_file(key, folder):
    source = randomize(nano(None)).state_dict()
    put('stock.pth', source)
    backbone = nano(key, stock='stock.pth')
    backbone.init_weights()
    own = backbone.state_dict()
    kept = source.keys() & own.keys()
    assert len(kept) > len(source) / 2
    assert all(torch.equal(own[name], source[name]) for name in kept)
    with pytest.raises(CheckpointError, match='no file to start from'):
        nano(key).init_weights()


@pytest.mark.parametrize('key', [dict(RESIDUAL, residual=False), [RESIDUAL, {}] * 2])
def test_other_keys_do_not_take_the_stock_file(key, folder):
    key = [each or dict(type='KUA') for each in key] if isinstance(key, list) else key
    put('stock.pth', nano(None).state_dict())
    with pytest.raises((FileNotFoundError, CheckpointError)) as error:
        nano(key, stock='stock.pth').init_weights()
    assert 'stock.pth' not in str(error.value)


def test_a_named_checkpoint_comes_first(folder):
    cfg = zoo.load(DETECTOR)
    put('own.pth')
    cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': 'own.pth'})
    assert file_of(cfg.model) == 'own.pth'
    check_pretrained(cfg)
    source = randomize(nano(RESIDUAL)).state_dict()
    put('own.pth', source)
    backbone = nano(RESIDUAL, checkpoint='own.pth', stock='gone.pth')
    backbone.init_weights()
    assert all(torch.equal(v, source[n]) for n, v in backbone.state_dict().items())


def test_warm_starts():
    found = {}
    for name in zoo.DETECTION:
        model = zoo.load(name).model
        if expected(name) and (path := warm_start_of(model)):
            found[name] = path.stem
    swin, vit = 'mask_rcnn_swin_t_spatialk', 'mask_rcnn_vit_b_vanillak'
    assert found == {
        swin: f'{swin}_warmstart',
        f'{swin}_3x': f'{swin}_warmstart',
        vit: f'{vit}_warmstart',
        'mask_rcnn_vit_b_spatialk': 'mask_rcnn_vit_b_dinov2_spatialk_warmstart',
    }


@pytest.mark.parametrize(
    'key', [dict(type='MyKey'), dict(type='SpatialK', num_charts=4), 'SpatialK', [8]]
)
def test_other_keys_have_no_pretraining_of_ours(key, folder):
    cfg = zoo.load(DETECTOR)
    cfg.model.backbone.key = key
    with pytest.raises(UsageError, match=r'is shipped: name another file'):
        check_pretrained(cfg)
