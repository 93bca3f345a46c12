"""The frameworks' own configs of Swin, small enough to train on the tests' data.

They know nothing of this project: what works with these has to work with ours.
"""

from pathlib import Path

import scripts
from mmengine.config import Config

CONFIGS = dict(
    mmdet='swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    mmseg='swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    mmpretrain='swin_transformer/swin-tiny_16xb64_in1k.py',
)
SWIN = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
CHANNELS = [16, 32, 64, 128]
DIGITS = dict(classes=tuple('0123456789'))
LOADERS = {'train_dataloader': 'train', 'val_dataloader': 'val'}


def detector(cfg: Config) -> None:
    """Mask R-CNN on the digits in COCO's layout."""
    model = cfg.model
    model.backbone.update(SWIN, init_cfg=None)
    model.neck.in_channels = CHANNELS
    heads = model.roi_head
    heads.bbox_head.update(num_classes=10, fc_out_channels=64)
    heads.mask_head.update(num_classes=10, num_convs=1)
    model.train_cfg.rpn_proposal.max_per_img = 20
    model.test_cfg.rpn.max_per_img = 20
    # a detector of two steps is sure of nothing
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    for name, split in LOADERS.items():
        data = cfg[name].dataset
        data.update(data_root='data/digits/detection/', metainfo=DIGITS)
        data.update(ann_file=f'annotations/{split}.json', data_prefix={'img': split})
        for step in data.pipeline:
            if step.type == 'Resize':
                step.scale = (128, 128)
    cfg.val_evaluator.ann_file = 'data/digits/detection/annotations/val.json'
    cfg.train_cfg.max_epochs = 1


def segmentor(cfg: Config) -> None:
    """UperNet on an image in ADE20K's layout."""
    model = cfg.model
    model.data_preprocessor.size = (64, 64)
    model.backbone.update(SWIN, init_cfg=None)
    heads = model.decode_head, model.auxiliary_head
    for head, channels in zip(heads, (CHANNELS, CHANNELS[2])):
        # nothing is synchronised on a CPU
        head.update(in_channels=channels, channels=16, norm_cfg=dict(type='BN'))
    for name in LOADERS:
        for step in cfg[name].dataset.pipeline:
            if step.type in ('RandomResize', 'Resize'):
                step.scale = (256, 64)
            if step.type == 'RandomCrop':
                step.crop_size = (64, 64)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2


def classifier(cfg: Config) -> None:
    """Swin on single digits."""
    model = cfg.model
    model.backbone.update(arch=SWIN, img_size=64, pad_small_map=True)
    model.head.update(num_classes=10, in_channels=CHANNELS[-1])
    cfg.data_preprocessor.num_classes = 10
    for name, split in LOADERS.items():
        data = cfg[name].dataset
        del data.split
        data.update(type='CustomDataset', metainfo=DIGITS)
        data.data_root = f'data/digits/classification/{split}'
        for step in data.pipeline:
            if 'scale' in step:
                step.scale = 64
            if 'crop_size' in step:
                step.crop_size = 64
    cfg.val_evaluator.topk = (1,)
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = cfg.param_scheduler[:1]  # the next begins at epoch 20


SMALL = dict(mmdet=detector, mmseg=segmentor, mmpretrain=classifier)


def write(framework: str, path: Path) -> None:
    """Write a framework's config to a file of its own."""
    cfg = Config.fromfile(
        scripts.installed(framework, '').parent / 'configs' / CONFIGS[framework]
    )
    SMALL[framework](cfg)
    for name in LOADERS:
        cfg[name].update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.train_dataloader.batch_size = 4
    cfg.dump(path)
