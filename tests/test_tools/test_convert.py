"""tools/checkpoints/convert.py: what it writes, says and refuses."""

import logging
from pathlib import Path

import pytest
import torch
from loading import load_tool
from mmengine.runner import load_checkpoint
from oracles import assert_same, randomize
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin

from mmmanikey import __version__
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import PretrainedBackbone, read_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / 'tools/checkpoints/convert.py'


@pytest.fixture
def convert(run_tool, monkeypatch, tmp_path):
    """Run the tool in this process and an own folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    # mmengine's logger keeps the stream of the test that first used it.
    monkeypatch.setattr(logging.root.manager, 'disable', logging.CRITICAL)

    return lambda *args: run_tool(load_tool(SCRIPT), *args)


def make_ours(key=None):
    arch = dict(embed_dims=12, depths=[1, 1], num_heads=[2, 3])
    model = ManifoldKeySwin(arch, window_size=4, out_indices=(1,), key=key)
    return randomize(model).train(False)


def make_vit(img_size):
    arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)
    options = dict(with_cls_token=False, out_type='featmap')
    return randomize(ManifoldKeyViT(arch, img_size=img_size, patch_size=4, **options))


def make_timm(**kwargs):
    settings = dict(img_size=32, embed_dim=12, depths=(1, 1), num_heads=(2, 3))
    return randomize(TimmSwin(**settings, window_size=4, **kwargs)).eval()


@pytest.fixture
def checkpoint(tmp_path):
    """A classifier of mmpretrain's with our backbone; its file is ours.pth."""
    model = make_ours()
    weights = {f'backbone.{n}': v for n, v in model.state_dict().items()}
    weights['head.fc.weight'] = torch.randn(5, 24)
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'ours.pth')
    return model


def test_timm_into_ours(convert):
    theirs = make_timm(num_classes=5)
    torch.save(theirs.state_dict(), 'timm.pth')
    status, out, _ = convert('timm.pth', 'out.pth')
    assert status == 0
    assert f'found: timm Swin layout, {len(theirs.state_dict())} tensors in ' in out
    assert 'tensors in the file itself, no prefix\n' in out
    dropped = 'left out: head.fc.weight, head.fc.bias (classification head)\n'
    assert dropped in out
    content = torch.load('out.pth', weights_only=True)
    assert content['meta'] == dict(
        source='timm.pth', source_layout='timm Swin', mmmanikey_version=__version__
    )
    ours = make_ours()
    PretrainedBackbone('out.pth', prefix='backbone.')(ours)
    x = torch.randn(1, 3, 32, 32)
    expected = theirs.forward_features(x).permute(0, 3, 1, 2)
    assert_same(ours(x)[0], expected, 1e-5)


def test_ours_into_timm(convert, checkpoint):
    status, out, _ = convert('ours.pth', 'out.pth', '--to', 'timm')
    assert status == 0
    number = len(checkpoint.state_dict())
    assert f'found: mmpretrain layout, {number} tensors in state_dict, prefix ' in out
    assert "prefix 'backbone.'\n" in out
    assert 'left out: head.fc.weight (not in the backbone)\n' in out
    assert out.count('(computed from the window)\n') == 1
    theirs = make_timm(num_classes=0)
    theirs.load_state_dict(torch.load('out.pth', weights_only=True), strict=True)
    x = torch.randn(1, 3, 32, 32)
    actual = theirs.forward_features(x).permute(0, 3, 1, 2)
    assert_same(actual, checkpoint(x)[0], 1e-5)


def test_timm_into_mmdet(convert, checkpoint):
    """Through ours; mmengine loads what is written into a model with a backbone."""
    assert convert('ours.pth', 'timm.pth', '--to', 'timm')[0] == 0
    status, out, _ = convert('timm.pth', 'out.pth', '--to', 'mmdet')
    assert status == 0
    number = len(torch.load('timm.pth', weights_only=True))
    assert out.endswith(f'wrote out.pth: mmdet layout, {number} tensors\n')
    model = torch.nn.ModuleDict(dict(backbone=make_ours()))
    load_checkpoint(model, 'out.pth', map_location='cpu')
    for name, value in checkpoint.state_dict().items():
        assert torch.equal(model['backbone'].state_dict()[name], value), name


def test_safetensors_into_safetensors_and_back(convert):
    theirs = make_timm(num_classes=0)
    save_file(theirs.state_dict(), 'timm.safetensors')
    assert convert('timm.safetensors', 'ours.safetensors')[0] == 0
    content = read_checkpoint('ours.safetensors')
    assert content['meta']['source'] == 'timm.safetensors'
    PretrainedBackbone('ours.safetensors')(make_ours())
    assert convert('ours.safetensors', 'again.safetensors', '--to', 'timm')[0] == 0
    again = load_file('again.safetensors')
    assert again.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize('out', ['out.pth', 'out.safetensors'])
@pytest.mark.parametrize('to', ['ours', 'timm'])
def test_positions_keep_their_grid(convert, to, out):
    """64 positions of 4 x 16 tokens are not those of 8 x 8."""
    first, direct, second = (make_vit(size) for size in [(16, 64), (32, 32), (32, 32)])
    weights = first.state_dict(prefix='backbone.')
    torch.save(dict(state_dict=weights), 'vit.pth')
    PretrainedBackbone('vit.pth')(direct)
    assert not torch.equal(direct.pos_embed, first.pos_embed)
    assert convert('vit.pth', out, '--to', to)[0] == 0
    PretrainedBackbone(out)(second)
    assert torch.equal(second.pos_embed, direct.pos_embed)


def test_what_safetensors_cannot_hold(convert):
    weights = {n: v.to(torch.complex128) for n, v in make_timm().state_dict().items()}
    torch.save(weights, 'timm.pth')
    status, _, err = convert('timm.pth', 'out.safetensors')
    assert status == 2
    assert err.startswith('error: cannot write out.safetensors: ')
    assert err.count('\n') == 1


def test_long_lists_are_cut(convert):
    weights = make_timm(num_classes=0).state_dict()
    extra = {f'neck.{i}.weight': torch.ones(1) for i in range(5)}
    torch.save({**{f'backbone.{n}': v for n, v in weights.items()}, **extra}, 'a.pth')
    out = convert('a.pth', 'out.pth')[1]
    assert (
        'left out: neck.0.weight, neck.1.weight, neck.2.weight and 2 more '
        '(not in the backbone)\n'
    ) in out


def test_an_existing_file_is_kept_unless_forced(convert, checkpoint):
    Path('out.pth').write_text('precious')
    status, _, err = convert('ours.pth', 'out.pth')
    assert (status, err) == (2, 'error: out.pth exists; --force overwrites it\n')
    assert Path('out.pth').read_text() == 'precious'
    assert convert('ours.pth', 'out.pth', '--force')[0] == 0
    assert 'state_dict' in torch.load('out.pth', weights_only=True)


@pytest.mark.parametrize('error', [OSError, RuntimeError])
def test_failed_writing_leaves_the_old_file(convert, checkpoint, monkeypatch, error):
    Path('out.pth').write_text('precious')

    def fail(content, file):
        file.write(b'half')
        raise error('No space left')

    monkeypatch.setattr(torch, 'save', fail)
    status, _, err = convert('ours.pth', 'out.pth', '--force')
    assert (status, err) == (2, 'error: cannot write out.pth: No space left\n')
    assert Path('out.pth').read_text() == 'precious'
    assert {path.name for path in Path().iterdir()} == {'ours.pth', 'out.pth'}


def truncate(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ('damage', 'args', 'message'),
    [
        (
            truncate,
            ['ours.pth', 'out.pth'],
            'ours.pth is no checkpoint',
        ),
        (
            lambda path: path.write_text('no checkpoint'),
            ['ours.pth', 'out.pth'],
            'ours.pth is no checkpoint',
        ),
        (Path.unlink, ['ours.pth', 'out.pth'], 'ours.pth'),
        (
            lambda path: torch.save({'fc.weight': torch.ones(1)}, path),
            ['ours.pth', 'out.pth'],
            'names are known here; its entries: the file itself with 1 tensors (fc)',
        ),
        (
            lambda path: torch.save(
                make_ours(dict(type='SpatialK')).state_dict(), path
            ),
            ['ours.pth', 'out.pth', '--to', 'timm'],
            'ours.pth cannot be converted: the backbone has a manifold key',
        ),
        (lambda path: None, ['ours.pth', 'no/out.pth'], 'folder no does not exist'),
        (lambda path: None, ['ours.pth', '.'], 'is a folder'),
    ],
    ids=['truncated', 'text', 'missing', 'unknown', 'manifold', 'no-folder', 'folder'],
)
def test_refusals_are_one_sentence(convert, checkpoint, damage, args, message):
    damage(Path('ours.pth'))
    status, _, err = convert(*args)
    assert status == 2
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert message in err
    assert not Path('out.pth').exists()


@pytest.mark.xdist_group('fork')
def test_the_script_runs_by_itself(tmp_path, fork):
    result = fork(tmp_path, SCRIPT, 'no.pth', 'out.pth', check=False)
    assert result.returncode == 2
    assert result.stdout == 'error: checkpoint not found: no.pth\n'
