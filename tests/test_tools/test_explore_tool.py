"""tools/explore.py: a page of configs of each framework, or one sentence."""

import json
from pathlib import Path

import pytest
import torch
import zoo
from loading import load_tool
from mmdet.models import ResNet, SwinTransformer
from oracles import randomize
from tiny import swin, vit

from mmmanikey.visualization.attention import record_attention
from mmmanikey.visualization.inputs import load_model

TOOL = Path(__file__).resolve().parents[2] / 'tools/explore.py'
SWIN = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
)
STOCK = dict(
    type='SwinTransformer',
    embed_dims=8,
    depths=[2, 2],
    num_heads=[2, 4],
    strides=(4, 2),
    window_size=4,
    out_indices=(0, 1),
)
VIT = dict(
    type='mmmanikey.ManifoldKeyViT',
    arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=4,
    with_cls_token=False,
    out_type='featmap',
)
KUA = dict(type='KUA', num_charts=2)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Configs and checkpoints of four kinds of backbones, and an image, all here."""
    monkeypatch.chdir(tmp_path)
    stock = randomize(
        SwinTransformer(**{k: v for k, v in STOCK.items() if k != 'type'})
    )
    for name, backbone, scope, model in (
        ('kua', {**SWIN, 'key': KUA}, 'mmseg', swin(KUA)),
        ('stock', STOCK, 'mmdet', stock),
        ('vit', {**VIT, 'key': KUA}, 'mmpretrain', vit(KUA)),
    ):
        content = dict(
            backbone=backbone,
            data_preprocessor=dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=True),
        )
        Path(f'{name}.py').write_text(
            f'default_scope = {scope!r}\nmodel = {content!r}\n'
        )
        torch.save(dict(state_dict=model.state_dict()), f'{name}.pth')
    resnet = dict(backbone=dict(type='ResNet', depth=18))
    Path('resnet.py').write_text(f"default_scope = 'mmdet'\nmodel = {resnet!r}\n")
    torch.save(dict(state_dict=ResNet(18).state_dict()), 'resnet.pth')
    zoo.image(tmp_path / 'a.png', (64, 48))
    return tmp_path


@pytest.fixture
def run(run_tool, files):
    return lambda *args: run_tool(load_tool(TOOL), *args)


def data_of(page):
    text = Path(page).read_text(encoding='utf-8')
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start : text.index('</script>', start)])


def test_a_stock_backbone_beside_ours(run):
    """Equal grids: nothing to note; progress layer by layer."""
    status, out, err = run(
        *('kua.py', 'kua.pth', 'a.png', '--against', 'stock.py', 'stock.pth')
    )
    assert status == 0, err
    assert out.splitlines()[-1].startswith('page.html (0.')
    assert 'layer 3 of 0 to 3' in err
    assert 'note:' not in err
    first, second = data_of('page.html')['models']
    assert [first['name'], second['name']] == ['stock', 'kua']
    assert [layer['key'] for layer in first['layers']] == ['linear'] * 4
    assert [layer['key'] for layer in second['layers']] == ['KUA'] * 4
    assert second['layers'][0]['charts']['memberships']


def test_weights_of_a_stock_backbone_are_those_of_the_file(files):
    """What the page shows of mmdet's Swin is what ours computes from its file."""
    model = load_model('stock.py', 'stock.pth')
    assert type(model.backbone) is SwinTransformer
    ours = swin()
    ours.load_state_dict(model.backbone.state_dict())
    image = torch.randn(1, 3, 40, 56)
    for number in range(4):
        found = record_attention(model.backbone, image, number, (1, 3))
        expected = record_attention(ours, image, number, (1, 3))
        assert torch.allclose(found, expected, atol=1e-6)


def test_models_whose_grids_differ(run):
    status, _, err = run(
        *('kua.py', 'kua.pth', 'a.png', '--against', 'vit.py', 'vit.pth'),
        *('--out', 'new/b.html', '--layers', '1', '-1'),
    )
    assert status == 0, err
    assert 'The models have 2 and 4 layers' in err
    assert 'tokens are compared by their place' in err
    models = data_of('new/b.html')['models']
    assert [[layer['number'] for layer in each['layers']] for each in models] == [
        [1],
        [1, 3],
    ]
    assert len(data_of('new/b.html')['notes']) == 2


@pytest.mark.slow
def test_a_large_image_leaves_out_what_has_no_room(run, files):
    """2,000 px: below the limit, and the page says what it lacks."""
    zoo.image(files / 'large.jpg', (2000, 1200))
    status, _, err = run('kua.py', 'kua.pth', 'large.jpg', '--out', 'large.html')
    assert status == 0, err
    assert Path('large.html').stat().st_size < 8_000_000
    assert 'note: Left out of kua to keep this page below 8 MB' in err
    assert 'heads' in err
    (note,) = data_of('large.html')['notes']
    assert note in err


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (['no.py', 'kua.pth', 'a.png'], "config 'no.py' does not exist"),
        (['kua.py', 'no.pth', 'a.png'], "checkpoint 'no.pth' does not exist"),
        (['kua.py', 'vit.pth', 'a.png'], 'vit.pth lacks or misshapes'),
        (['kua.py', 'kua.py', 'a.png'], 'kua.py'),
        (['kua.py', 'kua.pth', 'b.png'], "image 'b.png' does not exist"),
        (['kua.py', 'kua.pth', 'kua.py'], "'kua.py' is no image"),
        (['kua.py', 'kua.pth', '.'], "a page is of one image, and '.' is a folder"),
        (
            ['resnet.py', 'resnet.pth', 'a.png'],
            'has no attention layer that can be read',
        ),
        (
            ['kua.py', 'kua.pth', 'a.png', '--layers', '4'],
            'kua: layer must be in -4..3, got 4',
        ),
        (['kua.py', 'kua.pth', 'a.png', '--size', '0'], '--size must be at least 1'),
        (['kua.py', 'kua.pth', 'a.png', '--out', 'x.png'], '--out must end in .html'),
        (
            ['kua.py', 'kua.pth', 'a.png', '--against', 'stock.py', 'no.pth'],
            "checkpoint 'no.pth' does not exist",
        ),
        (
            ['kua.py', 'kua.pth', 'a.png', '--out', 'kua.py/x.html'],
            "cannot write 'kua.py/x.html'",
        ),
    ],
)
def test_mistakes(run, files, args, sentence):
    """One sentence, and no half file."""
    status, _, err = run(*args)
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
    assert sentence in line
    assert 'Traceback' not in err
    assert not list(files.rglob('*.html'))
