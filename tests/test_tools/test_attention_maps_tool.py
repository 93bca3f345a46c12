"""tools/analysis/attention_maps.py and charts.py, on configs of each framework."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from loading import load_tool
from mmdet.models import SwinTransformer
from PIL import Image
from tiny import swin, vit

from mmmanikey.backbones.structure import attention_layers, stride_of
from mmmanikey.engine.cli import UsageError
from mmmanikey.visualization.inputs import load_model, read_image
from mmmanikey.visualization.rollout import rollout

TOOLS = Path(__file__).resolve().parents[2] / 'tools/analysis'
SWIN = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
)
VIT = dict(
    type='mmmanikey.ManifoldKeyViT',
    arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=4,
    with_cls_token=True,
    out_type='cls_token',
)
KUA = dict(type='KUA', num_charts=2)


@pytest.fixture
def run(run_tool, monkeypatch, tmp_path):
    """Run a tool of this folder here; give back its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda name, *args: run_tool(load_tool(TOOLS / f'{name}.py'), *args)


@pytest.fixture
def files(tmp_path):
    """Two configs, a checkpoint of the second, and a folder of two images."""
    for name, backbone, scope in (
        ('linear', SWIN, 'mmdet'),
        ('kua', {**SWIN, 'key': KUA}, 'mmseg'),
        ('vit', {**VIT, 'key': KUA}, 'mmpretrain'),
    ):
        model = dict(
            backbone=backbone,
            data_preprocessor=dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=True),
        )
        text = f'default_scope = {scope!r}\nmodel = {model!r}\n'
        (tmp_path / f'{name}.py').write_text(text)
    torch.save(dict(state_dict=swin(KUA).state_dict()), tmp_path / 'kua.pth')
    zoo.image(tmp_path / 'in/a & b.png', (50, 40))
    zoo.image(tmp_path / 'in/c.jpg', (32, 64))
    return tmp_path


def test_models_in_rows_and_an_index(run, files):
    models = ['--model', 'linear.py', '--model', 'kua.py', 'kua.pth', '<trained>']
    status, out, err = run(
        'attention_maps', *models, '--images', 'in', '--out', 'new/maps', '--layer', 1
    )
    assert status == 0, err
    folder = files / 'new/maps'
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['a & b.png', 'c.png', 'index.html']
    page = (folder / 'index.html').read_text()
    assert 'linear (random weights)' in page
    assert '&lt;trained&gt;' in page
    assert 'src="a%20%26%20b.png"' in page
    assert '<h2>a &amp; b.png</h2>' in page
    pictures = [Image.open(folder / name).convert('L') for name in names[:2]]
    assert all(np.asarray(picture).std() > 10 for picture in pictures)
    assert len(out.splitlines()) == 3


def test_a_picture_for_each_of_several_images_of_one_name(run, files):
    for name in ('c.png', 'c_2.bmp', 'C.jpeg'):
        zoo.image(files / 'in' / name, (32, 32))
    status, _, err = run(
        'attention_maps', '--model', 'linear.py', '--images', 'in', '--out', 'maps'
    )
    assert status == 0, err
    names = sorted(path.name for path in (files / 'maps').glob('*.png'))
    assert names == ['C.png', 'a & b.png', 'c_2.png', 'c_2_2.png', 'c_3.png']
    page = (files / 'maps/index.html').read_text()
    for image in ('C.jpeg', 'c.jpg', 'c.png', 'c_2.bmp'):
        assert f'<h2>{image}</h2>' in page


@pytest.mark.parametrize('query', ['cls', 'center', '0.9,0.2'])
def test_queries_of_a_classifier(run, files, query):
    args = ['--model', 'vit.py', '--images', 'in/c.jpg', '--out', 'maps']
    status, _, err = run('attention_maps', *args, '--size', 24, '--query', query)
    assert status == 0, err
    assert (files / 'maps/c.png').is_file()


def test_rollout(run, files, monkeypatch):
    """One map a model, at the resolution of the first layer."""
    tool = load_tool(TOOLS / 'attention_maps.py')
    drawn = []
    draw = tool.draw_attention
    monkeypatch.setattr(
        tool, 'draw_attention', lambda *args: drawn.append(args) or draw(*args)
    )
    monkeypatch.setattr('test_attention_maps_tool.load_tool', lambda path: tool)
    args = ['--model', 'kua.py', 'kua.pth', '--images', 'in/c.jpg', '--out', 'maps']
    status, _, err = run('attention_maps', *args, '--rollout', '--query', '0.9,0.2')
    assert status == 0, err
    ((_, (model,), _),) = drawn
    assert 'rollout over 4 layers' in model.title
    assert model.stride == 4
    assert model.place == ((7 + 0.5) * 8, 0.5 * 8)  # on the grid of 8 x 4
    loaded = load_model(str(files / 'kua.py'), str(files / 'kua.pth'))
    x = loaded.input(read_image(files / 'in/c.jpg'))
    assert torch.equal(model.maps[0], rollout(loaded.backbone, x, (7, 0)))


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (['--rollout', '--layer', '1'], '--rollout goes through all layers'),
        (['--model', 'no.py'], "config 'no.py' does not exist"),
        (['--model', 'vit.py', 'no.pth'], "checkpoint 'no.pth' does not exist"),
        (['--model', 'vit.py', 'kua.pth'], 'kua.pth lacks or misshapes'),
        (['--layer', '9'], r'layer must be in -4..3, got 9'),
        (['--query', 'cls'], 'needs a class token'),
        (
            ['--query', '2,0'],
            "cls, center, mean, or Y,X from 0 to 1, got '2,0'",
        ),
        (['--images', 'none'], "image 'none' does not exist"),
        (['--images', 'new'], "'new' holds no image"),
        (['--images', 'linear.py'], "'linear.py' is no image"),
        (['--images', 'empty.png'], "'empty.png' is no image"),
        (['--out', 'linear.py'], "cannot write 'linear.py/"),
        (['--out', 'made'], "cannot write 'made/c.png': it is a folder"),
        (['--model', 'small.py', '--size', '8'], 'small (random weights): The input'),
        (['--size', '0'], '--size must be at least 1, got 0'),
        (['--model', 'a', 'b', 'c', 'd'], '--model takes CONFIG [CHECKPOINT [NAME]]'),
    ],
)
def test_mistakes_in_attention_maps(run, files, change, sentence):
    (files / 'new').mkdir()
    (files / 'empty.png').touch()
    (files / 'made/c.png/inner').mkdir(parents=True)
    stock = dict(SWIN, type='SwinTransformer', pad_small_map=False)
    text = f"default_scope = 'mmpretrain'\nmodel = dict(backbone={stock!r})\n"
    (files / 'small.py').write_text(text)
    args = ['--model', 'kua.py', '--images', 'in', '--out', 'maps', *change]
    status, _, err = run('attention_maps', *args)
    assert status == 2
    assert sentence in err
    assert 'Traceback' not in err
    assert (files / 'made/c.png/inner').is_dir()


def test_charts(run, files):
    args = ['--image', 'in/c.jpg', '--out', 'charts.png']
    status, _, err = run('charts', 'kua.py', 'kua.pth', *args)
    assert status == 0, err
    assert np.asarray(Image.open(files / 'charts.png').convert('L')).std() > 10


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (['linear.py', '--image', 'in/c.jpg'], 'is the linear one, without charts'),
        (['kua.py', '--image', 'in'], "--image takes one file, and 'in' is a folder"),
        (['kua.py', '--image', 'no.png'], "image 'no.png' does not exist"),
        (['kua.py', '--image', 'in/c.jpg', '--out', 'x.txt'], '--out must end in .png'),
    ],
)
def test_mistakes_in_charts(run, files, args, sentence):
    status, _, err = run('charts', '--out', 'charts.png', *args)
    assert status == 2
    assert sentence in err
    assert not (files / 'charts.png').exists()


def test_input_is_normalised_and_padded_to_patches(files):
    model = load_model(str(files / 'kua.py'))
    image = np.full((41, 50, 3), (9, 12, 15), np.uint8)
    x = model.input(image)
    assert x.shape == (1, 3, 44, 52)
    expected = torch.tensor([8 / 4, 10 / 5, 12 / 6])[:, None, None]
    assert torch.allclose(x[0, :, :41, :50], expected.expand(3, 41, 50))
    assert x[0, :, 41:].abs().max() == 0
    swapped = model._replace(preprocessor=dict(mean=[1.0, 2, 3], std=[4.0, 5, 6]))
    assert swapped.input(image)[0, :, 0, 0].tolist() == [14 / 4, 10 / 5, 6 / 6]
    padded = model._replace(preprocessor=dict(pad_size_divisor=24)).input(image)
    assert padded.shape == (1, 3, 48, 72)
    as_it_is = model._replace(preprocessor=dict(to_rgb=True))
    assert as_it_is.input(image)[0, :, 0, 0].tolist() == [9, 12, 15]
    model.backbone.patch_embed.projection.in_channels = 1
    grey = model._replace(preprocessor=dict(mean=[1.0], std=[4.0])).input(image)
    assert grey.shape == (1, 1, 44, 52)
    luminance = round(0.299 * 9 + 0.587 * 12 + 0.114 * 15)
    assert grey[0, 0, 0, 0] == (luminance - 1) / 4


@pytest.mark.parametrize(
    ('model', 'sentence'),
    [
        ({}, 'has no model with a backbone'),
        (
            dict(backbone={**SWIN, 'window_size': 0}),
            "cannot build the backbone of 'x.py': window_size must be .*, got 0",
        ),
    ],
)
def test_a_model_that_cannot_be_built(model, sentence, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path('x.py').write_text(f'model = {model!r}')
    with pytest.raises(UsageError, match=sentence):
        load_model('x.py')


def test_stride_of_a_layer_whose_stage_does_not_merge():
    stages = dict(depths=[1] * 4, num_heads=[1] * 4, strides=(4, 2, 2, 1))
    backbone = SwinTransformer(embed_dims=8, window_size=4, **stages)
    strides = [stride_of(backbone, layer) for layer in attention_layers(backbone)]
    assert strides == [4, 8, 16, 16]


def test_stride_of_a_layer():
    backbone = swin()
    layers = [block.attn for stage in backbone.stages for block in stage.blocks]
    assert [stride_of(backbone, layer) for layer in layers] == [4, 4, 8, 8]
    backbone = vit()
    assert stride_of(backbone, backbone.layers[1].attn) == 4
