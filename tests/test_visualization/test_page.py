"""What is in the page: numbers that are the models', and nothing that leads outside."""

import base64
import copy
import gzip
import re

import numpy as np
import pytest
import torch
from explored import explore
from mmdet.models import SwinTransformer as MMDetSwin
from mmseg.models import VisionTransformer as MMSegViT
from oracles import assert_same, randomize
from tiny import swin, vit

from mmmanikey.visualization.attention import record_attention, softmax_weights
from mmmanikey.visualization.charts import record_charts
from mmmanikey.visualization.layers import record_layers
from mmmanikey.visualization.page import explore as page_of
from mmmanikey.visualization.page.document import ASSETS, assemble
from mmmanikey.visualization.page.keys import key_map, packed_charts, packed_colours
from mmmanikey.visualization.page.objects import outlines
from mmmanikey.visualization.page.packing import (
    LIMIT,
    Variant,
    choose,
    packed_range,
    packed_rows,
)
from mmmanikey.visualization.page.rows import (
    packed_attention,
    packed_rollout,
    packed_windows,
)
from mmmanikey.visualization.rollout import attention_steps, rollout

SPATIAL = dict(type='SpatialK', num_charts=2)
KUA = dict(type='KUA', num_charts=2)


def unpacked(packed):
    """As the page reads it."""
    raw = gzip.decompress(base64.b64decode(packed['data']))
    array = np.frombuffer(raw, f'uint{packed["bits"]}').reshape(packed['shape'])
    return torch.from_numpy(array.astype(np.float64))


def unpacked_rows(packed):
    peaks = packed['top'] * unpacked(packed['peaks'])[..., None]
    return unpacked(packed['values']) * (peaks / 65535 / 255)


def unpacked_range(packed):
    low, high = packed['low'], packed['high']
    return unpacked(packed['values']) / 255 * (high - low) + low


def stock_swin():
    arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4], strides=(4, 2))
    model = randomize(MMDetSwin(**arch, window_size=4, out_indices=(0, 1)), std=0.3)
    model.eval()
    return model


def mmseg_vit():
    model = MMSegViT(32, 4, embed_dims=8, num_layers=2, num_heads=2)
    randomize(model, std=0.3)
    model.eval()
    return model


BACKBONES = {
    'Swin, shifted and padded': (lambda: swin(SPATIAL), 1, (40, 56)),
    'Swin': (lambda: swin(SPATIAL), 2, (64, 64)),
    "mmdet's Swin": (stock_swin, 3, (36, 52)),
    "mmseg's ViT": (mmseg_vit, 1, (32, 36)),
    'ViT with class token and registers': (
        lambda: vit(KUA, with_cls_token=True, num_registers=2),
        0,
        (32, 32),
    ),
    'ViT in windows': (lambda: vit(KUA, window_size=3), 1, (28, 32)),
}


@pytest.mark.parametrize('name', BACKBONES)
@torch.no_grad()
def test_rows_are_the_attention(name):
    """Of every query, to within 1/510 of the row's largest."""
    make, number, size = BACKBONES[name]
    backbone, image = make(), torch.randn(1, 3, *size)
    (layer,) = record_layers(backbone, image, [number])
    rows = unpacked_rows(
        packed_attention(softmax_weights(layer.module, layer.windows)[0], layer.windows)
    )
    about = packed_windows(layer.windows, 4)
    windows = unpacked(about['windows']).long().flatten()
    sights = unpacked(about['sights']).long().flatten()
    height, width = about['grid']
    queries = [(y, x) for y in range(height) for x in range(width)]
    queries = ['cls', *queries] if about['classToken'] else queries
    assert rows.shape[1] == len(queries)
    for query, row in zip(queries, rows.transpose(0, 1)):
        expected = record_attention(backbone, image, number, query)[0].flatten(1)
        token = 0 if query == 'cls' else query[0] * width + query[1]
        members = (windows == windows[token]).nonzero().flatten()
        shown = torch.zeros(expected.shape, dtype=torch.float64)
        shown[:, members] = row[:, : len(members)]
        error = (shown - expected).abs().amax(dim=1)
        assert (error <= expected.amax(dim=1) / 510 + 2e-5).all()
        assert (row[:, len(members) :] == 0).all()
        if query != 'cls':
            assert torch.equal(expected[0] > 1e-20, sights == sights[token])


def test_rows_of_zeros_and_of_tiny_numbers():
    rows = torch.tensor([[0.0, 0, 0], [1e-4, 3e-4, 2e-4], [0.5, 1, 0]])
    assert_same(unpacked_rows(packed_rows(rows)), rows.double(), 1 / 500)
    tiny = unpacked_rows(packed_rows(rows))[1]
    assert_same(tiny, rows[1].double(), 2e-5)
    large = torch.tensor([[1.00002, 0.5], [7, 2e-3]])  # as those that gradients weight
    assert_same(unpacked_rows(packed_rows(large)), large.double(), 1 / 500)
    values = torch.tensor([[-3.0, 1], [5, 5]])
    assert_same(unpacked_range(packed_range(values)), values.double(), 4 / 255)
    same = torch.full((2, 2), 7.0)
    assert_same(unpacked_range(packed_range(same)), same.double(), 1e-5)


def test_rollout_rows():
    backbone = vit(KUA, with_cls_token=True)
    image = torch.randn(1, 3, 32, 32)
    steps = attention_steps(backbone, record_layers(backbone, image))
    each, whole = packed_rollout(steps, (4, 4))
    rows = unpacked_rows(each['attention'])[0]
    assert each['classToken']
    assert not whole['classToken']
    for row, token in ((0, 'cls'), (1, (0, 0)), (1 + 8 * 3 + 5, (3, 5))):
        expected = rollout(backbone, image, token).flatten().double()
        assert_same(rows[row], expected, expected.max() / 500)
    (row,) = unpacked_rows(whole['attention'])[0]
    assert_same(row, rows[0], 0)  # which are those of the class token


@torch.no_grad()
def test_charts_and_mixing():
    backbone, image = swin(SPATIAL), torch.randn(1, 3, 40, 64)
    (layer,) = record_layers(backbone, image, [1])
    charts = packed_charts(layer)
    response = record_charts(backbone, image, 1)
    reach = response.norms.max() - response.norms.min()
    norms = unpacked_range(charts['norms'])
    assert_same(norms, response.norms.double(), reach / 500)
    key = backbone.stages[0].blocks[1].attn.w_msa.key
    mixing = unpacked_range(charts['mixing'])  # chart, to, from
    assert_same(mixing[1, 3], key.conv1.weight[16 + 3, :, 0].double(), 0.01)
    # windows of 4 x 4 begin at 2, and reach over the edge; a token's place in its own
    inside = unpacked(charts['inside']).long()
    assert inside[2:6, 2:6].flatten().tolist() == list(range(16))
    assert inside[0, 0] == 10
    (linear,) = record_layers(swin(), image, [1])
    assert packed_charts(linear) is None
    flat = vit(dict(**SPATIAL, window_size=(2, 4)))
    (layer,) = record_layers(flat, torch.randn(1, 3, 32, 32), [0])
    inside = unpacked(packed_charts(layer)['inside']).long()
    assert inside[:2].tolist() == [[0, 1, 2, 3] * 2, [4, 5, 6, 7] * 2]
    assert torch.equal(inside[2:4], inside[:2])
    kua = record_layers(vit(KUA), torch.randn(1, 3, 32, 32), [0])[0]
    memberships = unpacked_range(packed_charts(kua)['memberships'])
    assert_same(memberships.sum(dim=0), torch.ones(8, 8).double(), 0.01)


@torch.no_grad()
def test_colours_of_two_models_have_one_basis():
    """Keys that differ in their size and sign alone have equal and opposite colours."""
    backbone, image = swin(SPATIAL), torch.randn(1, 3, 64, 64)
    (first,) = record_layers(backbone, image, [0])
    other = copy.deepcopy(backbone)
    other.stages[0].blocks[0].attn.w_msa.key.out.weight *= -3
    (second,) = record_layers(other, image, [0])
    assert_same(key_map(second), -3 * key_map(first), 1e-4)
    colours = packed_colours([first, second])
    assert all(each['together'] for each in colours)
    one, two = (unpacked(each['values']) for each in colours)
    assert (one + two - 255).abs().max() <= 1
    assert one.std() > 30
    wide = record_layers(backbone, image, [2])[0]
    assert not any(each['together'] for each in packed_colours([first, wide]))


def test_choice_takes_what_saves_most():
    parts = [
        [
            Variant(dict(a='x' * 500), ''),
            Variant(dict(a='x'), 'heads'),
            Variant(None, 'all'),
        ],
        [Variant(dict(a='x' * 300), ''), Variant(None, 'all')],
    ]
    assert [each.lacks for each in choose(parts, 2000)] == ['', '']
    assert [each.lacks for each in choose(parts, 700)] == ['heads', '']
    assert [each.lacks for each in choose(parts, 50)] == ['heads', 'all']
    assert [each.lacks for each in choose(parts, 0)] == ['all', 'all']


def test_outlines():
    mask = np.zeros((20, 30), bool)
    mask[5:10, 8:20] = True
    ((*points,),) = outlines(mask, (2.0, 1.0))
    xs, ys = points[::2], points[1::2]
    assert (min(xs), max(xs), min(ys), max(ys)) == (17, 39, 5.5, 9.5)


@pytest.fixture(scope='module')
def explored(tmp_path_factory):
    return explore(tmp_path_factory.mktemp('explored'))


def test_page_is_one_small_file(explored):
    text = explored.page.read_text(encoding='utf-8')
    assert len(text) < LIMIT
    code = re.sub(r'<script type="application/json".*?</script>', '', text)
    assert not re.search(r'https?:|src=|@import|url\(|fetch\(|XMLHttp', code)
    assert '%DATA%' not in text
    assert [each['name'] for each in explored.data['models']] == ['linear', 'manifold']
    for model in explored.data['models']:
        assert [layer['number'] for layer in model['layers']] == list(range(8))
        assert model['count'] == 8
    kinds = [model['layers'][0]['key'] for model in explored.data['models']]
    assert kinds == ['linear', 'SpatialK']
    assert explored.notes == []
    assert not [path for path in explored.page.parent.iterdir() if path.name[0] == '.']


def test_detections_and_ground_truth(explored):
    """The one digit of the second image, and what the detector's own test finds."""
    for model in explored.data['models']:
        (truth,) = model['objects']['truth']
        assert truth['label'] == '0'
        assert truth['box'] == [20, 10, 56, 40]
        assert truth['outlines'] == [[20, 10, 56, 10, 56, 40, 20, 40]]
        assert len(model['objects']['found']) == 3
        for each in model['objects']['found']:
            left, top, right, bottom = each['box']
            assert 0 <= left < right <= 80
            assert 0 <= top < bottom <= 64
            assert each['outlines']


def test_a_smaller_limit_is_told(explored, tmp_path, monkeypatch):
    """Heads go first; what is left out is in the notes and on the page."""
    files = (explored.page.with_name(f'manifold.{kind}') for kind in ('py', 'pth'))
    sources = [page_of.Source(*map(str, files))]
    path = explored.page.with_name('data') / 'val/1.jpg'
    monkeypatch.setattr(page_of, 'LIMIT', 100_000)
    monkeypatch.setattr(page_of, 'objects_of', lambda *_: (None, ''))
    out = tmp_path / 'small.html'
    notes = page_of.write_page(sources, path, explored.image, out, [0, 1, -1])
    assert out.stat().st_size <= 100_000
    (note,) = notes
    assert 'Left out of manifold' in note
    assert 'heads' in note


def test_markup_in_names_stays_text():
    page = assemble(dict(image=dict(name='</script><b>'), notes=['<i>']))
    assert '</script><b>' not in page
    assert '<i>' not in page


def test_assets_are_short():
    for path in ASSETS.iterdir():
        assert len(path.read_text(encoding='utf-8').splitlines()) < 300


@pytest.mark.parametrize(
    ('checkpoints', 'expected'),
    [
        (('a/epoch_1.pth', 'a/epoch_2.pth'), ['swin, epoch_1', 'swin, epoch_2']),
        (
            ('runs/linear/epoch_4.pth', 'runs/spatial/epoch_4.pth'),
            ['swin, linear/epoch_4', 'swin, spatial/epoch_4'],
        ),
        (('same.pth', 'same.pth'), ['swin, same', 'swin, same']),
    ],
)
def test_models_of_one_config_are_told_apart(checkpoints, expected):
    model = page_of.Model('swin', None, None)
    sources = [page_of.Source('swin.py', path) for path in checkpoints]
    assert page_of.names_of([model, model], sources) == expected
    other = model._replace(name='vit')
    assert page_of.names_of([model, other], sources) == ['swin', 'vit']
