# Mask R-CNN, Swin-T with KUA, schedule 1x. The backbone comes from
# configs/pretrain/swin_t_kua_in1k.py.
_base_ = './mask_rcnn_swin_t.py'

model = dict(
    backbone=dict(
        key=dict(type='KUA', num_charts=8),
        init_cfg=dict(checkpoint='work_dirs/swin_t_kua_in1k/epoch_300.pth'),
    )
)
