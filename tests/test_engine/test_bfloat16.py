"""The demo's Mask R-CNN, made smaller, with its backbone in bfloat16.

``test_runs/test_precision.py`` trains the demo itself in it, for longer.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
ITERATIONS = 5
#: Largest difference from float32's loss: of the first iteration, whose weights are the
#: same, and of the mean of all. The loss starts at about 7.
TOLERANCE = dict(first=0.02, mean=0.1)
SMALLER = dict(
    backbone=dict(
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        init_cfg=None,
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[8, 16, 32, 64]),
    roi_head=dict(bbox_head=dict(fc_out_channels=32)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=20, max_per_img=10),
        rcnn=dict(sampler=dict(num=8)),
    ),
)


def make(**optim_wrapper):
    """The detector and what trains it."""
    cfg = Config.fromfile(ROOT / 'configs/demo/mask_rcnn_swin_nano_spatialk.py')
    cfg.merge_from_dict(dict(model=SMALLER, optim_wrapper=optim_wrapper))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    with contextlib.redirect_stdout(None):
        detector.init_weights()
    return detector.train(), build_optim_wrapper(detector, cfg.optim_wrapper)


def losses(detector, optim_wrapper):
    """The loss of every iteration, on the same two images."""
    shapes = dict(image_shapes=[(3, 64, 64), (3, 64, 48)], num_items=[3, 2])
    data = demo_mm_inputs(2, num_classes=10, with_mask=True, **shapes)
    found = []
    for number in range(ITERATIONS):
        torch.manual_seed(number)
        found.append(detector.train_step(data, optim_wrapper)['loss'])
    return torch.stack(found).detach()


@pytest.fixture(scope='module')
def float32():
    return losses(*make())


def test_mask_rcnn_trains_with_its_backbone_in_bfloat16(float32):
    detector, optim_wrapper = make(type='mmmanikey.Bfloat16BackboneOptimWrapper')
    seen = {'inside': set(), 'handed on': set()}
    backbone = detector.backbone
    attention = backbone.stages[0].blocks[0].attn.w_msa
    attention.key.register_forward_hook(lambda *a: seen['inside'].add(a[2].dtype))
    backbone.register_forward_hook(
        lambda *a: seen['handed on'].update(out.dtype for out in a[2])
    )
    found = losses(detector, optim_wrapper)
    assert seen == {'inside': {torch.bfloat16}, 'handed on': {torch.float32}}
    assert abs(found[0] - float32[0]) <= TOLERANCE['first']
    assert abs(found.mean() - float32.mean()) <= TOLERANCE['mean']

    seen['inside'].clear()
    with torch.no_grad():  # a validation
        backbone(torch.randn(1, 3, 32, 32))
    assert seen['inside'] == {torch.float32}


def test_a_forward_of_ones_own_is_given_back():
    """As torch.compile of the backbone alone puts one there."""
    detector, optim_wrapper = make(type='mmmanikey.Bfloat16BackboneOptimWrapper')
    plain, image = detector.backbone.forward, torch.randn(1, 3, 32, 32)
    seen = []

    def own(x):
        seen.append(torch.is_autocast_enabled('cpu'))
        return plain(x)

    detector.backbone.forward = own
    with optim_wrapper.optim_context(detector):
        detector.backbone(image)
    assert detector.backbone.forward is own
    detector.backbone(image)
    assert seen == [True, False]


def test_a_model_without_a_backbone_is_refused():
    _, optim_wrapper = make(type='mmmanikey.Bfloat16BackboneOptimWrapper')
    sentence = '^Bfloat16BackboneOptimWrapper trains .* and Linear has none$'
    with (
        pytest.raises(TypeError, match=sentence),
        optim_wrapper.optim_context(torch.nn.Linear(1, 1)),
    ):
        pass


def test_a_backbone_of_bfloat16_weights_fits_a_detector(float32):
    detector, optim_wrapper = make()
    detector.backbone.bfloat16()
    shapes = dict(image_shapes=[(3, 64, 64), (3, 64, 48)], num_items=[3, 2])
    data = demo_mm_inputs(2, num_classes=10, with_mask=True, **shapes)
    torch.manual_seed(0)
    loss = detector.train_step(data, optim_wrapper)['loss']
    assert abs(loss - float32[0]) <= TOLERANCE['first']
    assert all(parameter.isfinite().all() for parameter in detector.parameters())
    assert optim_wrapper.optimizer.state[detector.backbone.norm0.weight]['step'] == 1
