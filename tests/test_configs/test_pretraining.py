"""Where a config's backbone comes from, and the remedy if it is not there."""

import re

import pytest
import zoo

from mmmanikey.engine.cli import UsageError, check_pretrained
from mmmanikey.engine.pretraining import identity, pretraining_of, warm_start_of

DEMOS = sorted(f'demo/{path.stem}' for path in (zoo.CONFIGS / 'demo').glob('*.py'))
NAMED = re.compile(r'configs/[\w/]+\.py')


def checkpoint_of(cfg):
    checkpoint = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint', '')
    return checkpoint if checkpoint.startswith('work_dirs/') else None


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_the_checkpoint_is_what_the_pretraining_writes(name):
    """Of the same class, arch and key, under the name that its tool gives it."""
    cfg = zoo.load(name)
    checkpoint = checkpoint_of(cfg)
    if checkpoint is None:
        return
    path = pretraining_of(cfg.model.backbone)
    source = zoo.load(str(path.relative_to(zoo.CONFIGS).with_suffix('')))
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.key) == (
        source.model.backbone.type,
        source.model.backbone.arch,
        source.model.backbone.key,
    )
    folder = source.get('work_dir') or f'work_dirs/{path.stem}'
    assert checkpoint == f'{folder}/epoch_{source.train_cfg.max_epochs}.pth'


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_the_remedy_names_configs_of_this_arch_and_key(name, tmp_path, monkeypatch):
    cfg = zoo.load(name)
    if checkpoint_of(cfg) is None:
        return
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        check_pretrained(cfg)
    named = NAMED.findall(str(error.value))
    assert named
    for path in named:
        other = zoo.load(path.removeprefix('configs/').removesuffix('.py'))
        ours, theirs = (identity(c.model.backbone) for c in (cfg, other))
        theirs['key'].pop('residual', None)
        assert ours == theirs


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_the_comment_names_the_pretraining(name):
    named = set(NAMED.findall((zoo.CONFIGS / f'{name}.py').read_text()))
    if named:
        path = pretraining_of(zoo.load(name).model.backbone)
        assert named == {str(path.relative_to(zoo.ROOT))}


def test_warm_starts():
    found = {}
    for name in zoo.DETECTION:
        cfg = zoo.load(name)
        if checkpoint_of(cfg) and (path := warm_start_of(cfg.model)):
            found[name] = path.stem
    swin, vit = 'mask_rcnn_swin_t_spatialk', 'mask_rcnn_vit_b_vanillak'
    assert found == {
        swin: f'{swin}_warmstart',
        f'{swin}_3x': f'{swin}_warmstart',
        vit: f'{vit}_warmstart',
    }


def test_a_key_of_ones_own_has_no_pretraining_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = zoo.load('mask_rcnn_swin_t_spatialk')
    cfg.model.backbone.key = dict(type='MyKey')
    with pytest.raises(UsageError, match=r'which does not exist: name another file'):
        check_pretrained(cfg)
