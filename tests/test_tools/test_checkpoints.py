"""tools/checkpoints: run as scripts from anywhere, and mistakes in one sentence."""

import re
import sys
import sysconfig
from importlib.machinery import PathFinder

import pytest
import torch
from loading import load_tool
from scripts import ROOT, script

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.checkpoint import read_checkpoint

TOOLS = ROOT / 'tools/checkpoints'
NAMES = sorted(path.stem for path in TOOLS.glob('*.py'))
ARCH = dict(embed_dims=12, depths=[1, 1], num_heads=[2, 4])
BACKBONE = dict(arch=ARCH, window_size=4, out_indices=(0, 1))
KEY = dict(type='SpatialK', num_charts=2)


def assert_help(name, printed):
    assert f'python tools/checkpoints/{name}.py' in printed
    assert 'positional arguments' in printed


@pytest.mark.xdist_group('fork')
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('inside', [False, True])
def test_help_from_anywhere(name, inside, tmp_path, fork):
    path = f'{name}.py' if inside else TOOLS / f'{name}.py'
    assert_help(name, fork(TOOLS if inside else tmp_path, path, '--help').stdout)


def test_help_of_a_fresh_process():
    """It imports the frameworks beside the other tools."""
    assert_help('describe', script(TOOLS, 'describe.py', '--help').stdout)


@pytest.mark.parametrize('name', NAMES)
def test_no_tool_stands_in_for_a_module(name):
    """The folder of a script comes first where Python looks for modules."""
    assert name not in sys.stdlib_module_names
    assert PathFinder.find_spec(name, [sysconfig.get_path('purelib')]) is None


@pytest.fixture
def run(run_tool, monkeypatch, tmp_path):
    """Run a tool of this folder here; give back its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda name, *args: run_tool(load_tool(TOOLS / f'{name}.py'), *args)


@pytest.fixture
def checkpoint(tmp_path):
    model = ManifoldKeySwin(**BACKBONE, key=KEY)
    weights = {f'backbone.{n}': v for n, v in model.state_dict().items()}
    content = dict(
        state_dict={**weights, 'head.fc.weight': torch.ones(3, 24).half()},
        meta=dict(epoch=2, dataset_meta=dict(classes=['cat', 'dog'])),
        optimizer=dict(state={}),
    )
    torch.save(content, tmp_path / 'epoch_2.pth')
    return tmp_path / 'epoch_2.pth'


def write_config(folder, **changes):
    backbone = dict(type='mmmanikey.ManifoldKeySwin', key=KEY, **BACKBONE)
    path = folder / 'config.py'
    path.write_text(f'model = dict(backbone={ {**backbone, **changes}!r})\n')
    return path


def assert_one_sentence(result, *parts):
    status, _, stderr = result
    assert status == 2
    assert stderr.startswith('error: ')
    assert stderr.count('\n') == 1
    for part in parts:
        assert part in stderr


def test_describe(run, checkpoint):
    status, out, _ = run('describe', checkpoint)
    assert status == 0
    lines = [' '.join(line.split()) for line in out.splitlines()]
    assert 'kind training checkpoint: state_dict, meta, optimizer' in lines
    assert 'classes 2: cat, dog' in lines
    assert 'head 1 72 float16' in lines
    assert any(line.startswith('backbone Swin: embed_dims=12, patch') for line in lines)
    key = 'SpatialK(num_charts=2, residual=False, window_tokens=16)'
    assert f'key {key} in stage 0, 1' in lines


def test_describe_reads_the_config_in_the_file(run, checkpoint):
    """A user's class is called by its name, once the config names it."""
    content = torch.load(checkpoint, weights_only=False)
    names = [name for name in content['state_dict'] if name.endswith('key.scale')]
    for name in names:
        odd = name.replace('key.scale', 'key.bend')
        content['state_dict'][odd] = content['state_dict'].pop(name)
    torch.save(content, checkpoint)
    assert 'unknown(residual=False) in stage 0, 1' in run('describe', checkpoint)[1]
    backbone = dict(type='mmmanikey.ManifoldKeySwin', key=dict(type='BentK', bend=2))
    content['meta']['cfg'] = f'model = dict(backbone={backbone!r})'
    torch.save(content, checkpoint)
    assert (
        'BentK(bend=2, residual=False) in stage 0, 1' in run('describe', checkpoint)[1]
    )


def test_describe_against_a_config(run, checkpoint, tmp_path):
    status, out, _ = run('describe', checkpoint, '--config', write_config(tmp_path))
    assert status == 0
    assert 'patch embedding                4' in out
    wrong = write_config(tmp_path, key=dict(type='KUA', num_charts=2))
    status, out, _ = run('describe', checkpoint, '--config', wrong)
    assert status == 1
    assert 'refused: ' in out
    assert 'conv2.weight (missing)' in out
    options = dict(allow_missing=('attention',), allow_unexpected=('attention', 'key'))
    start = dict(type='mmmanikey.PretrainedBackbone', checkpoint='x', **options)
    stock = write_config(tmp_path, key=None, init_cfg=start)
    assert run('describe', checkpoint, '--config', stock)[0] == 0


@pytest.mark.parametrize('wrap', [dict, lambda **cfg: [cfg]])
@pytest.mark.parametrize('kind', ['Pretrained', 'mmmanikey.PretrainedBackbone'])
def test_describe_loads_as_a_training_of_the_config(run, tmp_path, wrap, kind):
    weights = ManifoldKeySwin(**BACKBONE, key=KEY).state_dict()
    both = {f'{part}.{n}': v for part in 'ab' for n, v in weights.items()}
    torch.save(both, tmp_path / 'x.pth')
    override = dict(type='Constant', name='norm0', val=1.0)
    start = wrap(type=kind, checkpoint='y.pth', prefix='b', override=override)
    config = write_config(tmp_path, init_cfg=start)
    status, out, _ = run('describe', 'x.pth', '--config', config)
    assert status == 0
    assert "config.py\nthe file itself, prefix 'b.', " in out


def test_describe_against_a_stock_backbone_with_keys(run, checkpoint, tmp_path):
    """It has keys in other places than the file."""
    stock = dict(type='mmpretrain.SwinTransformer', **BACKBONE, img_size=32)
    stock['init_cfg'] = dict(type='Pretrained', checkpoint='none.pth')
    backbone = dict(type='mmmanikey.with_keys', backbone=stock, key=dict(type='KUA'))
    config = tmp_path / 'config.py'
    config.write_text(f'model = dict(backbone={backbone!r})')
    status, out, _ = run('describe', checkpoint, '--config', config)
    assert status == 1
    assert 'epoch_2.pth lacks or misshapes 4 parameters' in out


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=['cat']),
        dict(dataset_meta=dict(classes='cat')),
        dict(dataset_meta=dict(classes={'cat': 1})),
        dict(dataset_meta=dict(classes=torch.ones(3))),
        dict(published_with='cats'),
    ],
)
def test_describe_what_others_say_in_their_words(run, checkpoint, meta):
    content = torch.load(checkpoint, weights_only=False)
    torch.save(dict(content, meta=meta), checkpoint)
    status, out, _ = run('describe', checkpoint)
    assert (status, '\nclasses ' in out) == (0, False)


def test_describe_does_not_list_the_state_of_an_optimizer(run, checkpoint):
    """FSDP writes it under the names of the weights."""
    content = torch.load(checkpoint, weights_only=False)
    state = {name: dict(exp_avg=v) for name, v in content['state_dict'].items()}
    torch.save(dict(content, optimizer=dict(state=state)), checkpoint)
    assert 'also there' not in run('describe', checkpoint)[1]


def test_publish(run, checkpoint, tmp_path):
    config = write_config(tmp_path)
    status, out, _ = run('publish', checkpoint, 'new/x.pth', '--config', config)
    assert status == 0
    (path,) = tmp_path.glob('new/*')
    content = torch.load(path, weights_only=True)
    number = len(content['state_dict'])
    assert f'{path.relative_to(tmp_path)}: {number} tensors\n' in out
    assert 'left out: optimizer\n' in out
    assert 'ManifoldKeySwin' in content['meta']['cfg']
    assert content['state_dict']['head.fc.weight'].dtype == torch.float16


def test_published_as_safetensors(run, checkpoint, tmp_path):
    config = write_config(tmp_path)
    args = ('publish', checkpoint, 'new/x.safetensors', '--config', config)
    assert run(*args)[0] == 0
    (path,) = tmp_path.glob('new/*')
    assert re.fullmatch(r'x-[0-9a-f]{8}\.safetensors', path.name)
    content = read_checkpoint(path)
    assert content['meta'].pop('cfg').startswith('model = dict(')
    run('publish', checkpoint, 'new/x.pth', '--config', config)
    expected = read_checkpoint(next(tmp_path.glob('new/*.pth')))
    expected['meta'].pop('cfg')
    assert content['meta'] == expected['meta']
    for name, value in expected['state_dict'].items():
        assert torch.equal(content['state_dict'][name], value), name
    status, out, _ = run('describe', path, '--config', config)
    assert status == 0
    lines = [' '.join(line.split()) for line in out.splitlines()]
    assert 'kind weights only: meta, state_dict' in lines
    assert 'classes 2: cat, dog' in lines
    assert 'head 1 72 float16' in lines
    path.write_bytes(path.read_bytes()[:1000])
    assert_one_sentence(run('describe', path), 'no safetensors file, or a damaged one')


@pytest.mark.parametrize('name', ['describe', 'publish'])
def test_mistakes(run, checkpoint, tmp_path, name):
    out = ['out'] if name == 'publish' else []
    (tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:3000])
    torch.save([1, 2], tmp_path / 'list.pth')
    assert_one_sentence(run(name, 'cut.pth', *out), 'cut.pth is no checkpoint')
    assert_one_sentence(run(name, 'list.pth', *out), 'list.pth holds no state dict')
    assert_one_sentence(run(name, 'epoch_3.pth', *out), 'did you mean epoch_2.pth?')
    assert_one_sentence(run(name, '.', *out), "checkpoint '.' is a folder")
    args = [*out, '--config', 'none.py']
    assert_one_sentence(run(name, checkpoint, *args), "'none.py' does not exist")
    assert not list(tmp_path.glob('out*'))


def test_places_that_cannot_be_written(run, checkpoint, tmp_path):
    assert_one_sentence(run('publish', checkpoint, tmp_path), 'is a folder')
    assert_one_sentence(run('publish', checkpoint, 'new/'), "'new/' is a folder")
    (tmp_path / 'file').write_text('')
    assert_one_sentence(run('publish', checkpoint, 'file/x'), "cannot write 'file/x'")


def test_config_without_a_backbone(run, checkpoint, tmp_path):
    (tmp_path / 'empty.py').write_text('x = 1\n')
    args = ['--config', 'empty.py']
    assert_one_sentence(run('describe', checkpoint, *args), 'no model with a backbone')
