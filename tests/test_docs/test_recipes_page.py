"""The tables of the recipes: read from configs, complete, differences with reasons."""

import copy
import importlib.util
import re

import pages
import pytest
import zoo

SPEC = importlib.util.spec_from_file_location('page', pages.ROOT / 'docs/recipes.py')
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)
FAMILIES = page.families()
TEXT = (pages.ROOT / 'docs/recipes.md').read_text()


@pytest.mark.parametrize('name', FAMILIES)
def test_a_reason_stands_where_a_number_differs(name):
    for row in page.rows(FAMILIES[name]):
        assert bool(row.why) == row.differs, row


@pytest.mark.parametrize('name', FAMILIES)
def test_every_original_has_a_column_and_a_source(name):
    family = FAMILIES[name]
    assert all(len(r['originals']) == len(family['originals']) for r in family['rows'])
    named = ' '.join(family['sources'])
    assert all(original in named for original in family['originals'])
    for url in family['sources'].values():
        assert '/v' in url or any(len(part) == 40 for part in url.split('/')), url


def test_the_page_has_every_table():
    filled = page.tables(TEXT)
    assert filled.count('| | here |') == len(FAMILIES)
    assert '<!--' not in filled


def test_numbers_are_read_from_the_configs(monkeypatch):
    family = FAMILIES['mask-rcnn-swin']
    (before,) = (r for r in page.rows(family) if r.what == 'drop path, Swin-S 3x')
    changed = copy.deepcopy(page.read('mask_rcnn_swin_s_3x'))
    changed.model.backbone.drop_path_rate = 0.3
    read = page.read
    monkeypatch.setattr(
        page, 'read', lambda n: changed if n == 'mask_rcnn_swin_s_3x' else read(n)
    )
    (after,) = (r for r in page.rows(family) if r.what == 'drop path, Swin-S 3x')
    assert (before.here, before.differs) == ('0.2', False)
    assert (after.here, after.differs) == ('0.3', True)


def key_of(name):
    return zoo.read(name).model.backbone.get('key')


def test_every_baseline_has_a_drop_path():
    """Drop path is what changes from size to size and from schedule to schedule."""
    rows = [row for family in FAMILIES.values() for row in family['rows']]
    listed = {row['config'] for row in rows if row['read'] == 'drop_path'}
    assert listed == {name for name in zoo.ALL if key_of(name) is None}


def recipe(cfg):
    """A config without what a key brings, and without names of files."""
    content = {k: v for k, v in cfg.to_dict().items() if not isinstance(v, str)}
    backbone = content['model']['backbone']
    for name in ('key', 'init_cfg', 'context_broadcasting'):
        backbone.pop(name, None)
    return content


@pytest.mark.parametrize('name', [n for n in zoo.ALL if key_of(n) is not None])
def test_a_key_changes_nothing_but_the_key(name):
    """So the baselines' rows hold for all configs, but for the model's sizes."""
    ours = recipe(zoo.read(name))
    baselines = [recipe(zoo.read(n)) for n in zoo.ALL if key_of(n) is None]
    if 'swin_l' in name or 'dinov2' in name:  # as public weights have them
        for content in (ours, *baselines):
            del content['model']
    assert ours in baselines


@pytest.mark.parametrize('name', zoo.TWO_LINES)
def test_two_lines_change_nothing_but_the_key(name):
    """And our hooks, which have it resume exactly."""
    ours = without_scope(zoo.read(name).to_dict())
    (base,) = re.findall(r"'(?:mmdet::|/\.mim/configs/)(.*)'", source(name))
    module = 'mmseg' if '/' in name else 'mmdet'
    theirs = page.read(f'{module}::{base.removesuffix(".py")}').to_dict()
    backbone = ours['model']['backbone']
    assert backbone.pop('key') == dict(type='SpatialK', num_charts=8, residual=True)
    assert backbone.pop('type') == 'mmmanikey.ManifoldKeySwin'
    assert theirs['model']['backbone'].pop('type') == 'SwinTransformer'
    hooks = ours.pop('custom_hooks')
    assert hooks.pop() == dict(type='mmmanikey.EpochSeedHook')
    assert hooks == theirs.pop('custom_hooks', [])
    ours['default_hooks']['checkpoint'].pop('type')
    theirs['default_hooks']['checkpoint'].pop('type')
    added = {'key', 'custom_imports'}
    assert {n: v for n, v in ours.items() if n not in added} == {
        n: v for n, v in theirs.items() if n not in added
    }


def without_scope(content):
    """Without what mmengine writes into a base of another project."""
    if isinstance(content, dict):
        kept = {n: v for n, v in content.items() if n != '_scope_'}
        return {name: without_scope(value) for name, value in kept.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(without_scope, content))
    return content


def source(name):
    return (zoo.CONFIGS / f'{name}.py').read_text()


def test_sizes_differ_in_the_backbone_alone():
    """The numbers of Swin-T hold for S and B, and those of ViT-B for S."""
    families = [
        *(
            f'{d}_swin_{{}}{s}'
            for d in ('mask_rcnn', 'cascade_mask_rcnn')
            for s in ('', '_3x')
        ),
        'segmentation/upernet_swin_{}',
    ]
    for family in families:
        first, *others = (zoo.read(family.format(size)).to_dict() for size in 'tsb')
        for other in others:
            assert {k for k in first if first[k] != other[k]} <= {'model'}
    for detector in ('mask_rcnn', 'cascade_mask_rcnn'):
        base, small = (zoo.read(f'{detector}_vit_{s}').to_dict() for s in 'bs')
        assert {k for k in base if base[k] != small[k]} == {'model'}


def test_cascade_with_vit_differs_in_the_heads_alone():
    mask, cascade = (
        zoo.read(f'{d}_vit_b').to_dict() for d in ('mask_rcnn', 'cascade_mask_rcnn')
    )
    assert {k for k in mask if mask[k] != cascade[k]} == {'model'}
    mask, cascade = mask['model'], cascade['model']
    differing = {k for k in mask if mask[k] != cascade[k]}
    assert differing == {'type', 'rpn_head', 'roi_head', 'train_cfg'}
