"""tools/checkpoints/upgrade.py, from a stock file to one that a config loads."""

import re
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from loading import load_tool
from mmpretrain.models import SwinTransformer
from oracles import assert_same

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import PretrainedBackbone, atomic_save, read_checkpoint
from mmmanikey.engine import cli
from mmmanikey.visualization.inputs import load_model

ROOT = Path(__file__).resolve().parents[2]
NANO = dict(
    arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
)
MEAN, STD = [120.0, 110.0, 100.0], [50.0, 60.0, 70.0]
CHANGE = re.compile(r"change of the network's output, (\d+) (.*): ([\d.e+-]+)")


@pytest.fixture(scope='module')
def tool():
    return load_tool(ROOT / 'tools/checkpoints/upgrade.py')


@pytest.fixture
def run(tool, run_tool, monkeypatch, tmp_path):
    """Run the tool with all its files in place; status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    stock = SwinTransformer(**NANO)
    for name, parameter in stock.named_parameters():
        torch.nn.init.normal_(parameter, mean='norm' in name, std=0.2)
    weights = {f'backbone.{n}': v for n, v in stock.state_dict().items()}
    torch.save(dict(state_dict=weights), 'stock.pth')
    draw = np.random.default_rng(0)
    for i in range(32):
        coarse = draw.integers(0, 255, (6, 6, 3)).astype(np.uint8)
        blobs = mmcv.imresize(coarse, (90, 70), interpolation='bicubic')
        mmcv.imwrite(blobs, f'images/{i % 2}/{i}.png')
    (tmp_path / 'images/notes.txt').write_text('no image')

    return lambda *args: run_tool(tool, *args)


RESIDUAL = dict(type='KUA', residual=True)


def write_config(name='VanillaK', residual=False, **kwargs):
    """A detector's config, as far as the tool looks at it."""
    backbone = dict(
        type='mmmanikey.ManifoldKeySwin',
        **NANO,
        key=name and dict(type=name, num_charts=4, residual=residual),
        init_cfg=dict(type='Pretrained', checkpoint='not/there.pth'),
    )
    processor = dict(type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    model = dict(data_preprocessor=processor, backbone={**backbone, **kwargs})
    Path('config.py').write_text(f'model = {model!r}\n')
    return 'config.py'


def upgraded(name, path):
    """The backbone from the file; its loading refuses a partial attention or key."""
    model = ManifoldKeySwin(**NANO, key=dict(type=name, num_charts=4)).eval()
    PretrainedBackbone(path)(model)
    for parameter, value in torch.load(path)['state_dict'].items():
        own = model.state_dict()[parameter.removeprefix('backbone.')]
        assert torch.equal(own, value), parameter
    return model


def stock_network():
    model = ManifoldKeySwin(**NANO).eval()
    PretrainedBackbone('stock.pth')(model)
    return model


def relative_change(model, images):
    with torch.no_grad():
        expected = stock_network()(images)[-1]
        return float((model(images)[-1] - expected).norm() / expected.norm())


@pytest.mark.parametrize('name', ['VanillaK', 'KUA'])
def test_exact_upgrade_needs_no_images(run, name):
    status, out, _ = run('stock.pth', write_config(name), 'new/dst.pth', '--size=64')
    assert status == 0
    rows = re.findall(rf'(\S+w_msa) +{name} +exact +(\S+)', out)
    assert [row[0] for row in rows] == [
        f'stages.{stage}.blocks.{block}.attn.w_msa'
        for stage in (0, 1)
        for block in (0, 1)
    ]
    assert all(float(error) < 1e-5 for _, error in rows)
    count, source, change = CHANGE.search(out).groups()
    assert (count, source) == ('2', 'of random noise')
    assert float(change) < 1e-5
    model = upgraded(name, 'new/dst.pth')
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_same(model(x)[-1], stock_network()(x)[-1], 1e-4)


def test_from_safetensors_to_safetensors(run):
    atomic_save(torch.load('stock.pth'), 'stock.safetensors')
    config = write_config('VanillaK')
    for kind in ('pth', 'safetensors'):
        assert run(f'stock.{kind}', config, f'dst.{kind}', '--size=64')[0] == 0
    expected = read_checkpoint('dst.pth')['state_dict']
    content = read_checkpoint('dst.safetensors')
    assert content['meta']['upgraded_from'] == 'stock.safetensors'
    assert content['state_dict'].keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(content['state_dict'][name], value), name


def test_positions_and_windows_keep_their_grid(run):
    """64 positions of 4 x 16 tokens are not those of 8 x 8, nor are windows."""
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    options = dict(patch_size=4, with_cls_token=False, out_type='featmap')
    stock = ManifoldKeyViT(arch, img_size=(16, 64), **options)
    torch.nn.init.normal_(stock.pos_embed)
    torch.save(stock.state_dict(), 'vit.pth')
    keys = [dict(type='SpatialK', num_charts=2, window_size=(2, 8))]
    keys += [dict(type='VanillaK', num_charts=2)]
    backbone = dict(arch=arch, img_size=(16, 64), key=keys, **options)
    backbone['type'] = 'mmmanikey.ManifoldKeyViT'
    Path('config.py').write_text(f'model = dict(backbone={backbone!r})\n')
    images = ('--images=images', '--num-images=4', '--size=32')
    assert run('vit.pth', 'config.py', 'dst.pth', *images)[0] == 0
    keys[0]['window_size'] = (4, 4)
    square = ManifoldKeyViT(arch, img_size=32, key=keys, **options)
    coverage = PretrainedBackbone('dst.pth').load(square)
    key = 'layers.0.attn.key.conv1'
    assert coverage.resized == ['pos_embed', f'{key}.weight', f'{key}.bias']


@pytest.mark.parametrize('name', ['SimpleK', 'SpatialK'])
def test_fitted_upgrade_of_a_folder_of_images(run, tool, name):
    status, out, err = run(
        'stock.pth', write_config(name), 'dst.pth', '--images=images', '--size=64'
    )
    assert status == 0
    rows = re.findall(rf'(\S+w_msa) +{name} +fitted +(\S+)', out)
    assert len(rows) == 4
    assert all(1e-4 < float(error) < 0.3 for _, error in rows)
    assert '] 6/6' in err  # 32 images in batches of 4, a quarter held out
    assert '] 2/2' in err
    count, source, change = CHANGE.search(out).groups()
    assert (count, source) == ('8', 'images of images')
    model = upgraded(name, 'dst.pth')
    images = tool.read_images('images', 64, 64, load_model('config.py'))
    assert relative_change(model, torch.cat(images[-2:])) == pytest.approx(
        float(change), rel=1e-2
    )
    assert float(change) < 0.1


def test_images_are_read_as_the_config_does(run, tool):
    """Resized, red first, normalised; at even distances from the sorted files."""
    model = load_model(write_config())
    (images,) = tool.read_images('images', 3, 48, model)
    paths = sorted(Path('images').rglob('*.png'))
    for image, path in zip(images, (paths[0], paths[16], paths[31]), strict=True):
        rgb = mmcv.imresize(mmcv.imread(path), (48, 48))[..., ::-1].astype(float)
        expected = torch.from_numpy((rgb - MEAN) / STD).permute(2, 0, 1)
        assert_same(image.double(), expected, 1e-5)


def test_preprocessor_of_a_classifiers_config(run, tool):
    cfg = cli.Config(dict(model=dict(), data_preprocessor=dict(mean=[1], to_rgb=True)))
    assert tool.preprocessor_of(cfg) == dict(mean=[1], to_rgb=True)


def test_an_existing_file_stays_without_force(run):
    config = write_config()
    Path('dst.pth').write_text('precious')
    status, _, err = run('stock.pth', config, 'dst.pth', '--size=64')
    assert (status, err) == (2, "error: 'dst.pth' exists; --force overwrites it\n")
    assert Path('dst.pth').read_text() == 'precious'
    assert run('stock.pth', config, 'dst.pth', '--size=64', '--force')[0] == 0
    upgraded('VanillaK', 'dst.pth')
    assert not list(Path().glob('.dst*'))


def broken_image():
    Path('images/0/broken.png').write_text('')


def other_checkpoint():
    torch.save(dict(state_dict={'a.weight': torch.ones(2)}), 'stock.pth')


def trained_residual_keys():
    key = dict(type='VanillaK', num_charts=4, residual=True)
    model = ManifoldKeySwin(**NANO, key=key)
    torch.nn.init.normal_(model.stages[1].blocks[0].attn.w_msa.key.conv2.weight)
    torch.save(model.state_dict(), 'stock.pth')


def text_checkpoint():
    Path('stock.pth').write_text('no checkpoint')


@pytest.mark.parametrize(
    ('config', 'options', 'damage', 'message'),
    [
        (dict(name='SpatialK'), [], None, 'name a folder of unlabelled images'),
        (dict(name='SimpleK'), ['--images=no'], None, "folder 'no' does not exist"),
        (dict(name='SimpleK'), ['--images=.'], broken_image, 'broken.png'),
        (dict(name='SimpleK'), ['--images=empty'], None, 'no .png, .jpg, .jpeg'),
        (dict(name=None), [], None, "backbone of 'config.py' has no manifold key"),
        (dict(key=[None, None]), [], None, "'config.py' has no manifold key"),
        (dict(residual=True), [], None, "loads 'stock.pth' as it is"),
        (dict(key=[None, RESIDUAL]), [], None, "loads 'stock.pth' as it is"),
        (dict(key=[dict(type='KUA'), RESIDUAL]), [], None, 'mixes keys with residual'),
        (dict(key_residual=True), [], None, "now part of the key's config"),
        (dict(key=dict(type='NoK')), [], None, "unknown key type 'NoK'"),
        (dict(key=dict(type='KUA', num_charts=1)), [], None, '1 charts of 12 hidden'),
        (dict(), [], other_checkpoint, 'stock.pth holds no Swin or ViT'),
        (dict(), [], trained_residual_keys, '1.blocks.0.attn.w_msa.key is not zero'),
        (dict(), [], text_checkpoint, 'stock.pth is no checkpoint of torch'),
        (dict(), [], Path('stock.pth').unlink, 'not found: stock.pth'),
        (dict(), [], Path('dst.pth').mkdir, "'dst.pth' is a folder"),
        (dict(pad_small_map=False), ['--size=8'], None, 'smaller than the window'),
    ],
)
def test_mistakes_end_in_one_sentence(run, config, options, damage, message):
    path = write_config(**config)
    Path('empty').mkdir()
    if damage:
        damage()
    status, _, err = run('stock.pth', path, 'dst.pth', *options)
    assert status == 2
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert message in err
    assert not Path('dst.pth').is_file()


def test_images_of_one_channel(run):
    stock = SwinTransformer(**NANO, in_channels=1)
    torch.save(stock.state_dict(), 'grey.pth')
    status, out, _ = run('grey.pth', write_config(in_channels=1), 'dst.pth')
    assert (status, CHANGE.search(out)[2]) == (0, 'of random noise')
    Path('grey.py').write_text("""_base_ = 'config.py'
model = dict(data_preprocessor=dict(mean=[120.0], std=[60.0]))
""")
    write_config('SpatialK', in_channels=1)
    args = ('grey.pth', 'grey.py', 'grey_key.pth', '--images=images', '--size=64')
    status, out, err = run(*args)
    assert (status, CHANGE.search(out or err)[2]) == (0, 'images of images')


def test_a_number_of_images_is_positive(run):
    status, _, err = run('stock.pth', write_config(), 'dst.pth', '--num-images=0')
    assert status == 2
    assert '--num-images: must be 1 or more, got 0' in err
