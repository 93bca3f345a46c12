"""The whole way with the real tools, as a user runs them, on a handful of images.

One quick demo makes the data, pretrains, trains the detector and tests it; the other
tests go on from its work dirs.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import load
from scripts import ROOT, run

PRETRAIN = ROOT / 'configs/demo/pretrain_swin_nano_spatialk.py'
DETECTOR = ROOT / 'configs/demo/mask_rcnn_swin_nano_spatialk.py'
MAP = re.compile(r'coco/(bbox_mAP|segm_mAP): ([-\d.]+)')

# One worker for all: they share the demo that the fixture runs.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('flow')]


@pytest.fixture(scope='module')
def demo(fork):
    def demo(folder, *args, **kwargs):
        path = ROOT / 'tools/demo.py'
        return fork(folder, path, '--quick', '--folder', folder, *args, **kwargs)

    return demo


@pytest.fixture(scope='module')
def folder(tmp_path_factory, demo):
    folder = tmp_path_factory.mktemp('demo')
    output = demo(folder).stdout
    (folder / 'output.txt').write_text(output)
    return folder


@pytest.fixture(scope='module')
def checkpoint(folder):
    return folder / 'work_dirs/demo/detector/epoch_1.pth'


def test_demo_reports_metrics_times_and_pictures(folder):
    output = (folder / 'output.txt').read_text()
    for name in ('top-1', 'bbox_mAP', 'segm_mAP', 'pretrain', 'detector', 'together'):
        assert re.search(rf'^{name} +[\d.]+', output, re.MULTILINE), output
    pictures = re.findall(r'^  (/.*\.png)$', output, re.MULTILINE)
    assert len(pictures) == 2
    for picture in pictures:
        assert Path(picture).read_bytes().startswith(b'\x89PNG')
    assert 'Traceback' not in output


def test_demo_skips_what_is_done(folder, checkpoint, demo):
    written = checkpoint.stat().st_mtime_ns
    output = demo(folder).stdout
    assert output.count('done before') == 3
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ('name', 'metric', 'done_before'),
    [
        ('vit', 'segm_mAP', 0),
        ('cascade', 'bbox_mAP', 1),
        ('mask2former', 'segm_mAP', 1),
        ('seg', 'mIoU', 1),
    ],
)
def test_other_demos_share_what_they_can(folder, name, metric, done_before, demo):
    output = demo(folder, name).stdout
    assert output.count('done before') == done_before
    judged = re.findall(r'^(\S+) +-?[\d.]+ +-?[\d.]+  (?:NOT )?reached$', output, re.M)
    assert judged == [metric], output
    pictures = re.findall(r'^  (/.*\.png)$', output, re.MULTILINE)
    assert [Path(picture).parent.name for picture in pictures] == [f'demo_{name}'] * 2
    for picture in pictures:
        assert Path(picture).read_bytes().startswith(b'\x89PNG')


def test_detector_starts_from_the_pretrained_backbone(folder, fork):
    """With a zero learning rate the detector's backbone is the pretrained one."""
    start = 'work_dirs/demo/pretrain/epoch_1.pth'
    fork(
        folder,
        ROOT / 'tools/train.py',
        DETECTOR,
        '--work-dir=still',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'optim_wrapper.optimizer.lr=0.0',
        f'model.backbone.init_cfg.checkpoint={start}',
    )
    before = torch.load(folder / start, weights_only=False)['state_dict']
    after = torch.load(folder / 'still/epoch_1.pth', weights_only=False)['state_dict']
    names = [name for name in before if name.startswith('backbone.')]
    assert any('.key.conv1' in name for name in names)
    for name in names:
        assert torch.equal(before[name], after[name]), name


def test_resume_goes_on(folder, checkpoint, fork):
    """Also when the pretrained file is gone: the checkpoint has all weights."""
    shutil.copytree(checkpoint.parent, folder / 'resumed')
    output = fork(
        folder,
        ROOT / 'tools/train.py',
        DETECTOR,
        '--work-dir=resumed',
        '--resume',
        '--cfg-options',
        'train_cfg.max_epochs=2',
        'model.backbone.init_cfg.checkpoint=gone.pth',
    ).stdout
    assert 'resumed epoch: 1, iter: 2' in output  # 8 images in batches of 4
    assert 'Epoch(val) [2]' in output
    assert 'Epoch(val) [1]' not in output
    assert (folder / 'resumed/epoch_2.pth').is_file()


def test_out_and_show_dir(folder, checkpoint, fork):
    args = ['--work-dir=ours', '--out=ours.pkl', '--show-dir=shown']
    fork(folder, ROOT / 'tools/test.py', DETECTOR, checkpoint, *args)
    assert len(load(folder / 'ours.pkl')) == 4
    assert sorted(path.name for path in (folder / 'shown').iterdir()) == [
        f'{number:06d}.png' for number in range(1, 5)
    ]


def test_published_as_safetensors(folder, checkpoint, fork):
    """Tested it gives the same numbers; a training starts from it by load_from."""
    publish = ROOT / 'tools/checkpoints/publish.py'
    fork(folder, publish, checkpoint, 'published/x.safetensors')
    (published,) = folder.glob('published/*')
    test = ROOT / 'tools/test.py'
    expected, actual = (
        MAP.findall(fork(folder, test, DETECTOR, path, '--work-dir=safe').stdout)
        for path in (checkpoint, published)
    )
    assert expected
    assert actual == expected
    fork(
        folder,
        ROOT / 'tools/train.py',
        DETECTOR,
        '--work-dir=from_safetensors',
        '--cfg-options',
        f'load_from={published}',
        'train_cfg.max_epochs=1',
        'optim_wrapper.optimizer.lr=0.0',
        'model.backbone.init_cfg=None',
    )
    paths = checkpoint, folder / 'from_safetensors/epoch_1.pth'
    before, after = (torch.load(p, weights_only=False)['state_dict'] for p in paths)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_one_tool_tests_classification_too(folder, fork):
    start = 'work_dirs/demo/pretrain/epoch_1.pth'
    args = ['--work-dir=classified', '--show-dir=pictures', '--out=classes.pkl']
    output = fork(folder, ROOT / 'tools/test.py', PRETRAIN, start, *args).stdout
    scalars = next((folder / 'work_dirs/demo/pretrain').glob('*/vis_data/scalars.json'))
    logged = json.loads(scalars.read_text().splitlines()[-1])['accuracy/top1']
    assert f'accuracy/top1: {logged:.4f}' in output
    assert len(load(folder / 'classes.pkl')) == 20
    assert len(list((folder / 'pictures').iterdir())) == 20


def test_two_processes_on_the_cpu(folder):
    """A launch from elsewhere, with arguments that hold spaces."""
    work_dir = folder / 'two processes'
    output = run(
        '/',
        ROOT / 'tools/dist_train.sh',
        DETECTOR,
        2,
        f'--work-dir={work_dir}',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'model.backbone.init_cfg=None',
        f'train_dataloader.dataset.data_root={folder}/data/digits/detection/',
        f'val_dataloader.dataset.data_root={folder}/data/digits/detection/',
        f'val_evaluator.ann_file={folder}/data/digits/detection/annotations/val.json',
        'train_dataloader.batch_size=2',
        PYTHON=sys.executable,
        CUDA_VISIBLE_DEVICES='',
    ).stdout
    steps = torch.load(work_dir / 'epoch_1.pth', weights_only=False)['meta']['iter']
    assert steps == 2  # 8 images, 2 processes, 2 images each
    metrics = MAP.findall(output)
    tested = run(
        folder,
        ROOT / 'tools/dist_test.sh',
        DETECTOR,
        work_dir / 'epoch_1.pth',
        2,
        f'--work-dir={work_dir}',
        PYTHON=sys.executable,
        CUDA_VISIBLE_DEVICES='',
    ).stdout
    assert MAP.findall(tested) == metrics


def test_a_failing_stage_fails_the_demo(tmp_path, demo):
    (tmp_path / 'data/digits').mkdir(parents=True)
    (tmp_path / 'data/digits/mine.txt').write_text('keep')
    result = demo(tmp_path, check=False)
    assert result.returncode == 1
    assert 'holds other files' in result.stdout
    assert 'failed with status 1' in result.stdout
    assert 'Traceback' not in result.stdout
