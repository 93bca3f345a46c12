"""The checkpoint tools on files of many projects: one way to find the backbone."""

import logging
from pathlib import Path

import pytest
import torch
from loading import load_tool
from oracles import assert_same
from wrapped import FILES, deit, dino, simmim, vit_file

from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone

TOOLS = Path(__file__).resolve().parents[2] / 'tools/checkpoints'
CONVERTED = 1e-5


@pytest.fixture
def run(run_tool, monkeypatch, tmp_path):
    """Run a tool of this folder here; give back its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    # mmengine's logger keeps the stream of the test that first used it.
    monkeypatch.setattr(logging.root.manager, 'disable', logging.CRITICAL)
    return lambda name, *args: run_tool(load_tool(TOOLS / f'{name}.py'), *args)


def write_config(file, **init_cfg):
    kind = 'Swin' if 'depths' in file.options['arch'] else 'ViT'
    backbone = dict(type=f'mmmanikey.ManifoldKey{kind}', **file.options)
    if init_cfg:
        init_cfg = dict(type='mmmanikey.PretrainedBackbone', checkpoint='x', **init_cfg)
        backbone['init_cfg'] = init_cfg
    Path('config.py').write_text(f'model = dict(backbone={backbone!r})\n')
    return 'config.py'


def output(file, path, **options):
    backbone = file.backbone()
    PretrainedBackbone(path, **options)(backbone)
    with torch.no_grad():
        return backbone(file.images)[0]


@pytest.mark.parametrize('make', FILES, ids=lambda make: make.__name__)
def test_converted_and_described(run, make):
    """Converting keeps what the network computes; describing tells what it is."""
    file = make()
    torch.save(file.content, 'w.pth')
    status, out, err = run('convert', 'w.pth', 'ours.pth')
    assert status == 0, err
    where = f'prefix {file.prefix!r}' if file.prefix else 'no prefix'
    place = f'{file.entry or "the file itself"}, {where}'
    assert f'tensors in {place}' in out
    assert_same(output(file, 'ours.pth', prefix='backbone.'), file.expected, CONVERTED)

    status, out, err = run('describe', 'w.pth', '--config', write_config(file))
    assert status == 0, err
    assert f'found in        {place}' in out
    kind = 'Swin' if 'depths' in file.options['arch'] else 'ViT'
    assert f'backbone        {kind}: embed_dims=' in out
    assert 'refused' not in out


@pytest.mark.parametrize('make', [deit, dino])
def test_averaged_weights_when_asked(run, make):
    file = make()
    torch.save(file.content, 'w.pth')
    other = f'{"model_ema, no prefix" if make is deit else "teacher, prefix "}'
    status, out, _ = run('convert', 'w.pth', 'plain.pth')
    assert status == 0
    assert f'also there: {other}' in out
    assert run('convert', 'w.pth', 'averaged.pth', '--ema')[0] == 0
    assert_same(output(file, 'plain.pth'), file.expected, CONVERTED)
    assert_same(output(file, 'averaged.pth'), file.averaged, CONVERTED)
    config = write_config(file)
    for args in (['--ema'], ['--ema', '--config', config]):
        status, out, _ = run('describe', 'w.pth', *args)
        assert status == 0
        assert f'found in        {other}' in out
    assert out.count(', averaged weights') == 2  # in the file, and as it loads


def test_publishing_says_which_weights_are_left_out(run):
    file = deit()
    content = {**file.content, 'model_state_dict': file.content['model']}
    del content['model']
    torch.save(content, 'w.pth')
    status, out, _ = run('publish', 'w.pth', 'new/x')
    assert status == 0
    left_out = 'optimizer, epoch, model_ema, scaler, args'
    assert out.endswith(f'left out: {left_out}\n')
    (path,) = Path('new').iterdir()
    assert_same(output(file, str(path)), file.expected, CONVERTED)


def test_upgrading_averaged_weights(run):
    file = deit()
    torch.save(file.content, 'w.pth')
    file.options.update(key=dict(type='VanillaK', num_charts=2))
    for args, expected in ([], file.expected), (['--ema'], file.averaged):
        args = [*args, '--size=64', '--force']
        status, _, err = run('upgrade', 'w.pth', write_config(file), 'new.pth', *args)
        assert status == 0, err
        assert_same(output(file, 'new.pth'), expected, 1e-4)


def test_averaged_weights_that_are_not_there(run):
    torch.save(simmim().content, 'w.pth')
    config = write_config(simmim())
    message = 'w.pth holds no averaged weights of a backbone'
    status, _, err = run('convert', 'w.pth', 'ours.pth', '--ema')
    assert (status, message in err) == (2, True)
    status, out, _ = run('describe', 'w.pth', '--config', config, '--ema')
    assert (status, f'refused: {message}' in out) == (1, True)


@pytest.mark.parametrize(
    ('init_cfg', 'status'),
    [({}, 1), (dict(allow_unexpected=('attention', 'MLP')), 0), (dict(ema=True), 1)],
)
def test_describing_says_what_loading_says(run, init_cfg, status):
    file = vit_file(lambda weights: dict(model=weights), init_values=0.1)
    torch.save(file.content, 'w.pth')
    config = write_config(file, **init_cfg)
    result, out, _ = run('describe', 'w.pth', '--config', config)
    assert result == status
    loader = PretrainedBackbone('w.pth', **init_cfg)
    if status == 0:
        assert str(loader.load(file.backbone())) in out
        return
    with pytest.raises(CheckpointError) as info:
        loader.load(file.backbone())
    assert f'refused: {info.value}' in out
    if not init_cfg:
        assert 'layer_scale_init_value=1e-5' in out


def test_describing_a_file_of_another_kind_of_network(run):
    weights = {'features.0.weight': torch.ones(2), 'fc.weight': torch.ones(2)}
    torch.save(dict(net=weights), 'w.pth')
    status, out, _ = run('describe', 'w.pth')
    assert status == 0
    assert 'weights in      net' in out
    assert 'backbone        not found: w.pth holds no Swin or ViT' in out
