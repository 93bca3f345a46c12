"""Mask R-CNN on Swin-T, end to end, on random images with random boxes and masks.

    python benchmarks/detector.py

The detectors are not trained, and what they propose by chance would give each of them
other work to do. So all propose the anchors, no proposal suppresses another, and the
true boxes, which join the proposals in training, are the only positive samples. No box
scores enough to be predicted: predicting ends with the boxes, and the mask head runs in
training only.
"""

from collections.abc import Callable
from pathlib import Path

import measure
import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from networks import LINEAR, QUICK_SWIN, STOCK, compared
from report import Row, Setting, finish, make_parser, positive, start
from torch import Tensor, nn

OURS = Path(__file__).parents[1] / 'configs'
MMDETS = Path(mmdet.__file__).with_name('.mim') / 'configs'
CONFIGS = {
    STOCK: MMDETS / 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    LINEAR: OURS / 'mask_rcnn_swin_t.py',
    'SpatialK': OURS / 'mask_rcnn_swin_t_spatialk.py',
}


def build(name: str, quick: bool) -> nn.Module:
    """A detector of :data:`CONFIGS` with random weights."""
    model = Config.fromfile(CONFIGS[name]).model
    model.backbone.init_cfg = None
    # the same number of proposals and of positive samples for all
    model.train_cfg.rpn_proposal.nms.iou_threshold = 1.0
    model.test_cfg.rpn.nms.iou_threshold = 1.0
    model.test_cfg.rcnn.score_thr = 1.0
    model.train_cfg.rcnn.assigner.update(
        pos_iou_thr=2.0, neg_iou_thr=2.0, match_low_quality=False
    )
    if quick:
        model.backbone.update(QUICK_SWIN if name == STOCK else dict(arch=QUICK_SWIN))
        model.neck.in_channels = [QUICK_SWIN['embed_dims'] * 2**i for i in range(4)]
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 16
    detector = MODELS.build(model)
    # RoIAlign's work grows with the boxes
    for layer in (detector.rpn_head.rpn_cls, detector.rpn_head.rpn_reg):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return detector


def contest(shape: tuple[int, ...], setting: Setting) -> list[Row]:
    """Measure the detectors against mmdet's own.

    Args:
        shape (tuple[int, ...]): Of the images, (B, 3, H, W).
        setting (Setting): Where and how.

    Returns:
        list[Row]: 'forward' (predicting), 'step' and 'saved' (on CUDA 'peak' as well).
    """
    models = {name: build(name, setting.quick).to(setting.device) for name in CONFIGS}
    batch = demo_mm_inputs(
        shape[0],
        shape[1:],
        num_items=[8] * shape[0],
        num_classes=80,
        with_mask=True,
        device=setting.device,
    )
    batch = next(iter(models.values())).data_preprocessor(batch, training=True)

    def predict(name: str) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            with setting.autocast():
                models[name](**batch, mode='predict')

        return call

    def loss(name: str) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with setting.autocast():
                losses = models[name](**batch, mode='loss')
            return models[name].parse_losses(losses)[0]

        return call

    for model in models.values():
        model.eval()
    values = {
        'forward': measure.compare(
            {name: predict(name) for name in models}, setting.rounds
        )
    }
    macs = {'forward': {name: measure.macs(predict(name)) for name in models}}
    for model in models.values():
        model.train()
    steps = {name: measure.step(loss(name), model) for name, model in models.items()}
    values['step'] = measure.compare(steps, setting.rounds)
    with torch.no_grad():
        macs['step'] = {name: measure.macs(loss(name)) for name in models}
    values['saved'] = {
        name: [measure.saved_bytes(model, loss(name))] for name, model in models.items()
    }
    if setting.device.type == 'cuda':
        values['peak'] = {
            name: [measure.peak_bytes(model, steps[name])]
            for name, model in models.items()
        }
    case = f'{"quick " * setting.quick}Mask R-CNN {"x".join(map(str, shape))}'
    return [
        compared(case, name, what, STOCK, results, macs.get(what, {}), setting)
        for what, results in values.items()
        for name in results
    ]


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        metavar='PX',
        help='height and width (default: 320 320, on CUDA 800 1333)',
    )
    parser.add_argument('--batch', type=positive, help='images (default: 1, on CUDA 2)')
    args, setting = start(parser)
    init_default_scope('mmdet')
    on_cuda = setting.device.type == 'cuda'
    batch = args.batch or (2 if on_cuda else 1)
    size = args.shape or ((800, 1333) if on_cuda else (320, 320))
    finish('detector', contest((batch, 3, *size), setting), setting)


if __name__ == '__main__':
    main()
