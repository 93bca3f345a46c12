"""mmdet's installed scripts on our configs, logs and checkpoints."""

import re

import pytest
import scripts
import torch
from loading import load_tool
from mmengine.analysis.print_helper import _format_size
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import init_default_scope

# One worker for all that share a training.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ecosystem')]


@pytest.fixture
def mmdet_script(run):
    def script(name, *args):
        return run('mmdet', scripts.installed('mmdet', name), *args).stdout

    return script


def test_train(detector, same_training):
    log = same_training(detector)
    assert 'loss_mask' in log[0]
    assert 'coco/segm_mAP' in log[-1]


def test_test(detector, same_test):
    # a detector of two steps is sure of nothing
    anything = 'model.test_cfg.rcnn.score_thr=0.0'
    metrics = same_test(detector, anything, dump=True)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= metrics.keys()
    ours, theirs = (load(detector.folder / f'test_{n}.pkl') for n in ('ours', 'theirs'))
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs):
        mine, other = mine['pred_instances'], other['pred_instances']
        assert len(mine['scores']) > 0
        assert torch.equal(mine['scores'], other['scores'])
        assert torch.equal(mine['bboxes'], other['bboxes'])
        assert mine['masks'] == other['masks']  # run lengths


def test_get_flops(detector, mmdet_script):
    """The products that our own tool counts, and what mmengine counts beside them.

    Without suppression the heads see 50 proposals of any image.
    """
    options = {'model.test_cfg.rpn.nms.iou_threshold': 1.0}
    cfg = Config.fromfile(detector.config)
    cfg.merge_from_dict(options)
    init_default_scope('mmdet')
    tool = load_tool(scripts.ROOT / 'tools/analysis/complexity.py')
    params, macs = map(sum, zip(*tool.measure(cfg.model, (128, 128)).values()))
    sides, channels = (32, 16, 8, 4), (32, 64, 128, 256)
    maps = [side**2 * dims for side, dims in zip(sides, channels)]
    # after the patches, twice in two blocks, before merging, and for the neck
    norms = maps[0] + 4 * sum(maps) + sum(maps[:-1]) + sum(maps)
    upsampled = 64 * sum(side**2 for side in sides[:-1])  # the neck's top-down path
    output = mmdet_script(
        'analysis_tools/get_flops.py',
        detector.config,
        '--num-images=1',
        '--cfg-options',
        'model.backbone.init_cfg=None',
        *(f'{name}={value}' for name, value in options.items()),
    )
    printed = dict(re.findall(r'^(Flops|Params): (\S+)$', output, re.MULTILINE))
    assert printed == dict(
        Flops=_format_size(macs + 5 * norms + upsampled), Params=_format_size(params)
    )


def test_analyze_logs(detector, mmdet_script):
    (log,) = detector.trained.glob('*/vis_data/scalars.json')
    output = mmdet_script('analysis_tools/analyze_logs.py', 'cal_train_time', log)
    assert re.search(r'average iter time: \d+\.\d+ s/iter', output)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='it moves the model to a GPU')
def test_benchmark(detector, digits):
    """Of inference; that of the data loader needs no GPU and is in the table."""
    path = scripts.installed('mmdet', 'analysis_tools/benchmark.py')
    args = [detector.config, f'--checkpoint={detector.checkpoint}', '--task=inference']
    args += ['--max-iter=4', '--num-warmup=1', '--log-interval=1']
    options = ['--cfg-options', 'test_dataloader.batch_size=1']
    output = scripts.script(digits, path, *args, *options).stdout
    assert re.search(r'Overall fps: \d', output)


def test_print_config(detector, mmdet_script, digits):
    """What it writes is the config, with its bases merged."""
    options = [detector.config, '--save-path=./merged.py']
    mmdet_script('misc/print_config.py', *options)
    merged = Config.fromfile(digits / 'merged.py')
    assert merged.to_dict() == Config.fromfile(detector.config).to_dict()
