"""Wherever a backbone stands in a file: found, said, and equal to its original."""

import logging
import sys
from types import ModuleType

import pytest
import torch
from mmengine.logging import MMLogger
from oracles import assert_same
from wrapped import (
    FILES,
    averaged_alone,
    compiled_and_distributed,
    deit,
    dino,
    mmengine_ema,
    plain_loop,
    simmim,
    timm_vit,
    under,
    vit_file,
)

from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone, read_checkpoint
from mmmanikey.checkpoint.entries import weights_in
from mmmanikey.checkpoint.find import find_backbone

CONVERTED = 1e-5


def save(path, content):
    torch.save(content, path)
    return str(path)


def load(path, ours, **options):
    """Load as ``init_cfg`` does; the first line of what is logged."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        PretrainedBackbone(path, **options)(ours)
    finally:
        logger.removeHandler(handler)
    return records[-1].splitlines()[0]


@pytest.mark.parametrize('make', FILES, ids=lambda make: make.__name__)
def test_the_backbone_of_every_file(tmp_path, make):
    """It computes what the network did that the file was made from."""
    file = make()
    path = save(tmp_path / 'w.pth', file.content)
    ours = file.backbone()
    first = load(path, ours)
    with torch.no_grad():
        assert_same(ours(file.images)[0], file.expected, CONVERTED)
    where = f'{file.entry}, ' if file.entry else 'the file itself, '
    where += f'prefix {file.prefix!r}' if file.prefix else 'no prefix'
    assert f'from {path}: {where}' in first


@pytest.mark.parametrize('make', FILES, ids=lambda make: make.__name__)
def test_averaged_weights_only_when_asked(tmp_path, make):
    file = make()
    path = save(tmp_path / 'w.pth', file.content)
    ours = file.backbone()
    if file.averaged is None:
        plain = find_backbone(file.content, path)
        if not plain.only_averaged:
            with pytest.raises(CheckpointError, match='holds no averaged weights'):
                load(path, ours, ema=True)
            return
    first = load(path, ours, ema=True)
    expected = file.expected if file.averaged is None else file.averaged
    with torch.no_grad():
        assert_same(ours(file.images)[0], expected, CONVERTED)
    assert ', averaged weights' in first


@pytest.mark.parametrize('make', [averaged_alone, deit, dino, mmengine_ema])
def test_what_was_offered_besides_is_logged(tmp_path, make):
    path = save(tmp_path / 'w.pth', make().content)
    first = load(path, make().backbone())
    if make is averaged_alone:
        assert 'model_ema, no prefix, averaged weights (there are no others)' in first
        assert '; offered' not in first
    elif make is deit:
        assert 'besides: model_ema, no prefix, averaged weights' in first
    elif make is dino:
        assert "besides: teacher, prefix 'backbone.', averaged weights" in first
    else:
        assert "state_dict, prefix 'backbone.', averaged weights" in first
        assert "besides: ema_state_dict, prefix 'module.backbone.'" in first


def test_the_best_fit_is_taken(tmp_path):
    """Of a detector's two backbones, the one of this architecture."""
    small = timm_vit().state_dict()
    large = {n: v.repeat_interleave(2, 0) for n, v in timm_vit().state_dict().items()}
    content = {**under('first.', large), **under('second.', small)}
    file = vit_file(lambda weights: content)
    path = save(tmp_path / 'w.pth', content)
    ours = file.backbone()
    coverage = PretrainedBackbone(path).load(ours)
    assert "prefix 'second.'" in coverage.source
    assert torch.equal(ours.cls_token, small['cls_token'])


def test_a_given_prefix_is_taken_in_spite_of_a_better_one(tmp_path):
    file = dino()
    path = save(tmp_path / 'w.pth', file.content)
    ours = file.backbone()
    PretrainedBackbone(path, prefix='backbone.')(ours)
    with torch.no_grad():
        assert_same(ours(file.images)[0], file.averaged, CONVERTED)
    with pytest.raises(
        CheckpointError, match=r"nothing under the prefix 'net\.'.*stud"
    ):
        PretrainedBackbone(path, prefix='net.')(ours)


def test_a_given_prefix_with_compiled_parts(tmp_path):
    file = compiled_and_distributed()
    path = save(tmp_path / 'w.pth', file.content)
    ours = file.backbone()
    PretrainedBackbone(path, prefix='module._orig_mod.backbone._orig_mod.')(ours)
    with torch.no_grad():
        assert_same(ours(file.images)[0], file.expected, CONVERTED)


def test_a_backbone_without_its_patch_embedding(tmp_path):
    """Found by its other names; its absence may be allowed."""
    ours = plain_loop().backbone()
    weights = {n: v + 1 for n, v in ours.state_dict().items() if 'patch' not in n}
    path = save(tmp_path / 'w.pth', dict(net=under('a.b.', weights)))
    with pytest.raises(CheckpointError, match=r"allow_missing=\('patch embedding',\)"):
        PretrainedBackbone(path)(ours)
    PretrainedBackbone(path, allow_missing=('patch embedding',))(ours)
    for name, value in weights.items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            dict(net=dict(a=dict(zip(['features.0.weight', 'fc.weight'], [1, 2])))),
            'holds no tensors, only: net',
        ),
        (
            dict(net={'features.0.weight': torch.ones(2), 'fc.weight': torch.ones(2)}),
            r'holds no Swin or ViT whose names are known here; its entries: net with 2 '
            r'tensors \(features, fc\), the first name is features\.0\.weight$',
        ),
        (dict(state_dict={}, epoch=3), 'holds no tensors, only: state_dict, epoch'),
        ([torch.ones(2)], 'holds no state dict'),
    ],
)
def test_files_without_a_backbone(tmp_path, content, message):
    path = save(tmp_path / 'w.pth', content)
    with pytest.raises(CheckpointError, match=message):
        PretrainedBackbone(path)(plain_loop().backbone())


def test_a_file_that_refers_to_itself():
    content = dict(a=torch.ones(2))
    content['self'] = content
    assert weights_in(content, 'w.pth').keys() == {'a'}


@pytest.mark.parametrize('make', FILES, ids=lambda make: make.__name__)
def test_a_whole_model_is_found_as_well(make):
    """For publishing and export: all of the model, and no other copy of it."""
    file = make()
    weights = weights_in(file.content, 'w.pth')
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert not any('_orig_mod' in name for name in weights)
    found = find_backbone(file.content, 'w.pth')
    assert len(weights) == found.count + len(found.beside)


def test_versions_of_modules_are_kept():
    model = torch.nn.ModuleDict(dict(a=torch.nn.BatchNorm1d(3)))
    state_dict = model.state_dict()
    assert weights_in(dict(net=state_dict), 'w.pth')._metadata == state_dict._metadata


def test_settings_of_swin_and_simmim_are_read(tmp_path, monkeypatch):
    """Their trainings store a yacs ``CfgNode``, a dict of its own class."""

    class CfgNode(dict):
        pass

    module = ModuleType('yacs.config')
    module.CfgNode = CfgNode
    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    monkeypatch.setitem(sys.modules, 'yacs', ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = CfgNode(MODEL=CfgNode(TYPE='swin'))
    config.__dict__['__immutable__'] = True
    file = simmim()
    path = save(tmp_path / 'w.pth', {**file.content, 'config': config})
    monkeypatch.undo()
    assert read_checkpoint(path)['config'] == dict(MODEL=dict(TYPE='swin'))
    ours = file.backbone()
    PretrainedBackbone(path)(ours)
    with torch.no_grad():
        assert_same(ours(file.images)[0], file.expected, CONVERTED)
