"""Metafiles: every config listed, figures recomputed, readable by model-index."""

import runpy

import pytest
import yaml
import zoo

EVERY = [*zoo.ALL, *zoo.TWO_LINES]
TOOL = runpy.run_path(str(zoo.ROOT / 'tools/misc/make_metafiles.py'))


def entries():
    index = yaml.safe_load((zoo.ROOT / 'model-index.yml').read_text())
    for path in index['Import']:
        yield from yaml.safe_load((zoo.ROOT / path).read_text())['Models']


def test_every_config_is_listed_once():
    listed = [entry['Config'] for entry in entries()]
    assert sorted(listed) == sorted(f'configs/{name}.py' for name in EVERY)
    names = [entry['Name'] for entry in entries()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_swin_t',
        'mask_rcnn_swin_t_spatialk',
        'mask_rcnn_vit_s_vanillak',
        'pretrain/swin_t_spatialk_cb_in1k',
        'segmentation/upernet_swin_t_spatialk',
    ],
)
def test_figures_are_those_of_the_config(name):
    listed = {entry['Config']: entry['Metadata'] for entry in entries()}
    metadata = listed[f'configs/{name}.py']
    measured = TOOL['measure'](zoo.load(name))
    assert {key: metadata[key] for key in measured} == measured


def test_swin_t_by_hand():
    """Swin-T, 224 px, with its head: 28.29 M parameters and 4.49 G as counted by hand.

    Per token and block 12 C^2 and 2 N C for the two products of the attention; patch
    embedding 48 C, patch merging 8 C^2 per merged token.
    """
    measured = TOOL['measure'](zoo.load('pretrain/swin_t_in1k'))
    macs = 0
    for stage, depth in enumerate([2, 2, 6, 2]):
        dims, tokens = 96 * 2**stage, (56 // 2**stage) ** 2
        macs += depth * tokens * (12 * dims**2 + 2 * 49 * dims)
        if stage < 3:
            macs += tokens // 4 * 8 * dims**2
    macs += 56 * 56 * 48 * 96
    assert measured['FLOPs'] == macs
    assert measured['Parameters'] == 28_288_354


def test_spatialk_by_hand():
    """In place of C^2 a key costs 8 * 49 C + C^2 per token."""
    stock, spatial = (
        TOOL['measure'](zoo.load(f'pretrain/swin_t{key}_in1k'))['FLOPs']
        for key in ('', '_spatialk')
    )
    extra = sum(
        depth * (56 // 2**stage) ** 2 * 8 * 49 * 96 * 2**stage
        for stage, depth in enumerate([2, 2, 6, 2])
    )
    assert spatial - stock == extra


def test_model_index_reads_them():
    from modelindex.load_model_index import load

    index = load(str(zoo.ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert len(index.models) == len(EVERY)
