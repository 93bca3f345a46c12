# Mask R-CNN, Swin-T with VanillaK, schedule 1x. The backbone comes from
# configs/pretrain/swin_t_vanillak_in1k.py.
_base_ = './mask_rcnn_swin_t.py'

model = dict(
    backbone=dict(
        key=dict(type='VanillaK', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_t_vanillak_in1k/epoch_300.pth'),
    )
)
