"""tools/deploy/export.py: checked files, or a sentence where there is none."""

from pathlib import Path

import pytest
import torch
from loading import load_tool
from mmengine.registry import MODELS
from tiny import swin

from mmmanikey.attention import swin as swin_attention
from mmmanikey.forms import rule

ort = pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
KEY = dict(type='SpatialK', num_charts=2)
SWIN = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
    key=KEY,
)
DETECTORS = {
    'swin': """
_base_ = '{root}/configs/demo/mask_rcnn_swin_nano_spatialk.py'
model = dict(
    backbone=dict(arch=dict(embed_dims=8, depths=[2, 1, 1, 1], num_heads=[1, 1, 2, 2])),
    neck=dict(in_channels=[8, 16, 32, 64]),
)
""",
    'vit': """
_base_ = '{root}/configs/demo/mask_rcnn_vit_nano_vanillak.py'
model = dict(
    backbone=dict(
        arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=16),
        global_attn_indexes=(1,),
    ),
    neck=dict(in_channels=24),
)
""",
}


@pytest.fixture
def tool():
    return load_tool(ROOT / 'tools/deploy/export.py')


@pytest.fixture
def run(run_tool, tool, monkeypatch, tmp_path):
    """Run the tool in a new folder; give back its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    text = f"default_scope = 'mmdet'\nmodel = dict(backbone={SWIN!r})\n"
    Path('tiny.py').write_text(text)
    Path('unpadded.py').write_text(text.replace("_map': True", "_map': False"))
    for name, text in DETECTORS.items():
        Path(f'{name}.py').write_text(text.format(root=ROOT))
    return lambda *args: run_tool(tool, *args)


def test_images_of_one_channel(run):
    model = dict(backbone={**SWIN, 'in_channels': 1})
    Path('grey.py').write_text(f'model = {model!r}\n')
    status, out, err = run('grey.py', 'grey.pt2', '--shape', 24, 40)
    assert status == 0, err
    assert out.startswith('2 x 1 x 24 x 40: largest difference ')


def test_a_backbone_of_another_class_with_inserted_keys(run):
    arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
    arch['extra_norm_every_n_blocks'] = 0
    stock = dict(type='mmpretrain.SwinTransformerV2', arch=arch, window_size=4)
    stock.update(img_size=32, out_indices=(1,))
    key = dict(KEY, residual=True)
    backbone = dict(type='mmmanikey.with_keys', backbone=stock, key=key)
    backbone['read'] = 'intercept'
    model = MODELS.build(backbone)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(dict(state_dict=model.state_dict(prefix='backbone.')), 'keyed.pth')
    Path('keyed.py').write_text(f'model = {dict(backbone=backbone)!r}\n')
    args = ('keyed.py', 'keyed.pt2', '--checkpoint', 'keyed.pth', '--shape', 32, 32)
    status, out, err = run(*args, '--dynamic', 'none')
    assert status == 0, err
    model.eval()
    x = torch.randn(1, 3, 32, 32)
    found = torch.export.load('keyed.pt2').module()(x)['map0']
    torch.testing.assert_close(found, model(x)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_backbone_with_its_checkpoint(run, tmp_path):
    model = swin(KEY)
    torch.save(dict(state_dict=model.state_dict()), 'tiny.pth')
    args = ('tiny.py', 'new/tiny.onnx', '--checkpoint', 'tiny.pth', '--shape', 24, 40)
    status, out, err = run(*args, '--opset', 18)
    assert status == 0, err
    first, second, last = out.splitlines()
    assert first.startswith('2 x 3 x 24 x 40: largest difference ')
    assert second.startswith('1 x 3 x 24 x 40: largest difference ')
    assert last == 'new/tiny.onnx: map0, map1'
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['tiny.onnx']
    session = ort.InferenceSession('new/tiny.onnx')
    (image,) = session.get_inputs()
    assert (image.name, image.shape) == ('image', ['batch', 3, 24, 40])
    x = torch.randn(4, 3, 24, 40)
    for got, want in zip(session.run(None, {'image': x.numpy()}), model(x)):
        torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'file', 'dynamic'),
    [('swin', 'a.pt2', 'batch'), ('vit', 'a.onnx', 'none')],
)
def test_a_detector_up_to_its_proposals(run, config, file, dynamic):
    args = (f'{config}.py', file, '--part', 'detector', '--shape', 64, 64)
    status, out, err = run(*args, '--dynamic', dynamic)
    assert status == 0, err
    *checks, last = out.splitlines()
    assert len(checks) == 1 + (dynamic != 'none')
    names = [f'{kind}{i}' for kind in ('map', 'score', 'delta') for i in range(4)]
    assert last == f'{file}: {", ".join(names)}'


@pytest.mark.slow
def test_a_wrong_export_is_not_kept(run, monkeypatch, tmp_path):
    """Here one without the masks of shifted windows; what was there before stays."""
    right = swin_attention.window_masks

    def missing(*args, like):
        return right(*args, like=like) * (not rule.is_exported())

    monkeypatch.setattr(swin_attention, 'window_masks', missing)
    Path('old').mkdir()
    Path('old/a.pt2').write_text('as it was')
    status, out, err = run('tiny.py', 'old/a.pt2', '--shape', 32, 32)
    assert (status, out) == (2, '')
    assert 'the export is wrong on an image of 2 x 3 x 32 x 32: map0 is off by' in err
    assert [path.name for path in (tmp_path / 'old').iterdir()] == ['a.pt2']
    assert Path('old/a.pt2').read_text() == 'as it was'


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (['none.py', 'a.onnx'], "config 'none.py' does not exist"),
        (['tiny.py', 'a.bin'], "OUT must end in .onnx or .pt2, got 'a.bin'"),
        (['tiny.py', 'a.onnx', '--opset', 9], '--opset must be 18 to '),
        (['tiny.py', 'a.onnx', '--batch', 0], '--batch and --shape must be positive'),
        (['tiny.py', 'a.pt2', '--checkpoint', 'x.pth'], "'x.pth' does not exist"),
        (
            ['unpadded.py', 'a.pt2', '--shape', 8, 8],
            'does not take 8 x 8 images: a feature map of 2 x 2 tokens is smaller',
        ),
        (['unpadded.py', 'a.pt2', '--dynamic', 'all'], 'without pad_small_map=True'),
        (['tiny.py', 'a.pt2', '--part', 'detector'], 'cannot build'),
        (
            [
                ROOT / 'configs/demo/pretrain_vit_nano_vanillak.py',
                'a.pt2',
                '--part',
                'detector',
            ],
            'is a ImageClassifier; --part backbone takes it',
        ),
        (
            ['swin.py', 'a.pt2', '--part', 'detector', '--checkpoint', 'tiny.pth'],
            "tiny.pth does not fit 'swin.py': ",
        ),
    ],
)
def test_mistakes(run, args, sentence):
    torch.save(swin(KEY).state_dict(), 'tiny.pth')
    status, out, err = run(*args)
    assert (status, out) == (2, '')
    assert sentence in err
    assert err.count('\n') == 1
    assert not list(Path().glob('a.*'))


def test_onnx_without_its_packages(run, tool, monkeypatch):
    missing = {'onnxscript', 'onnxruntime'}
    monkeypatch.setattr(tool, 'find_spec', lambda name: name not in missing)
    status, _, err = run('tiny.py', 'a.onnx')
    assert status == 2
    assert 'ONNX needs onnxscript, onnxruntime: pip install -r' in err
