"""Fifty iterations in other modes of running: the losses stay close to float32's.

mmengine's AmpOptimWrapper wants a GPU; its steps are those taken here.
"""

import contextlib

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample

pytestmark = pytest.mark.slow

ITERATIONS = 50
#: Largest difference of a loss from float32's at the same iteration. The losses start
#: at log 4 = 1.39.
TOLERANCE = dict(bfloat16=0.02, float16=0.002, compiled=1e-4)

SWIN = dict(
    type='mmmanikey.ManifoldKeySwin',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[2, 2]),
    window_size=4,
    out_indices=(1,),
    pad_small_map=True,
    drop_path_rate=0.0,
    key=dict(type='SpatialK', num_charts=2),
)
VIT = dict(
    type='mmmanikey.ManifoldKeyViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=4,
    with_cls_token=False,
    out_type='avg_featmap',
    key=dict(type='VanillaK', num_charts=2),
)


def losses(backbone, dtype=torch.float32, compiled=False):
    """The loss of every iteration, on batches of four noisy classes."""
    torch.manual_seed(0)
    swin = backbone is SWIN
    # the preprocessor of data has no scope in its name
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = ImageClassifier(
            backbone=dict(backbone),
            neck=dict(type='GlobalAveragePooling') if swin else None,
            head=dict(type='LinearClsHead', num_classes=4, in_channels=16),
        )
    with contextlib.redirect_stdout(None):
        model.init_weights()
    model.train()
    if compiled:
        # Inductor takes minutes, on a CPU
        model.backbone.compile(backend='aot_eager')
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    classes = torch.randn(4, 3, 32, 32)
    samples = [DataSample().set_gt_label(i % 4) for i in range(8)]
    found = []
    for _ in range(ITERATIONS):
        images = classes.repeat(2, 1, 1, 1) + torch.randn(8, 3, 32, 32)
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            loss = model(images, samples, mode='loss')['loss']
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.item())
    return torch.tensor(found)


@pytest.fixture(scope='module', params=[SWIN, VIT], ids=['swin', 'vit'])
def backbone(request):
    return request.param


@pytest.fixture(scope='module')
def float32(backbone):
    expected = losses(backbone)
    assert expected[0] > 1.2
    assert expected[-10:].mean() < 0.5  # there is something to be close to
    return expected


@pytest.mark.parametrize('mode', TOLERANCE)
def test_losses_stay_close_to_float32(backbone, float32, mode):
    if mode == 'compiled':
        torch._dynamo.reset()
        found = losses(backbone, compiled=True)
    else:
        found = losses(backbone, dtype=getattr(torch, mode))
        assert not torch.equal(found, float32)  # it is another mode
    assert (found - float32).abs().max() <= TOLERANCE[mode]


def test_deterministic_mode_changes_nothing(backbone, float32):
    """And what it would refuse is not used."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(losses(backbone), float32)
    finally:
        torch.use_deterministic_algorithms(False)
