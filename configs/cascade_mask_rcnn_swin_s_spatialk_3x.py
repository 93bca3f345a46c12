# Cascade Mask R-CNN, Swin-S with SpatialK, schedule 3x. The backbone comes from our own
# pretraining: tools/dist_train.sh configs/pretrain/swin_s_spatialk_in1k.py 16
_base_ = './cascade_mask_rcnn_swin_s_3x.py'

pretrained = 'work_dirs/swin_s_spatialk_in1k/epoch_300.pth'
pretrain_config = 'configs/pretrain/swin_s_spatialk_in1k.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8), init_cfg=dict(checkpoint=pretrained)
    )
)
