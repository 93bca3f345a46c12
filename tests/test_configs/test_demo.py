"""The demo configs: built and run one step, as the zoo's; the flow tests train them."""

import copy

import pytest
import torch
import zoo
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

DEMO = sorted(path.stem for path in (zoo.CONFIGS / 'demo').glob('*.py'))


def build(name):
    cfg = Config.fromfile(zoo.CONFIGS / f'demo/{name}.py')
    init_default_scope(cfg.default_scope)
    model = copy.deepcopy(cfg.model)
    model.backbone.pop('init_cfg', None)
    return cfg, revert_sync_batchnorm(MODELS.build(model)).train()


def batch_for(scope):
    """Two images of the demo's size with something to learn in them."""
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            2, [(3, 128, 128)] * 2, num_items=[2, 3], num_classes=10, with_mask=True
        )
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        inputs = [torch.randint(0, 255, (3, 64, 64))] * 2
        samples = [DataSample().set_gt_label(i) for i in range(2)]
        return dict(inputs=inputs, data_samples=samples)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, 11, (1, 128, 128))),
            metainfo=dict(img_shape=(128, 128), ori_shape=(128, 128)),
        )
        for _ in range(2)
    ]
    inputs = [torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)] * 2
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('name', DEMO)
def test_one_step(name):
    cfg, model = build(name)
    data = model.data_preprocessor(batch_for(cfg.default_scope), training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize('name', DEMO)
def test_eight_charts(name):
    cfg = Config.fromfile(zoo.CONFIGS / f'demo/{name}.py')
    assert cfg.model.backbone.key.num_charts == 8
