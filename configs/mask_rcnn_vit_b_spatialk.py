# Mask R-CNN, ViT-B with SpatialK. The backbone comes from our own pretraining:
#   tools/dist_train.sh configs/pretrain/vit_b_spatialk_in1k.py 8
_base_ = './mask_rcnn_vit_b.py'

pretrained = 'work_dirs/vit_b_spatialk_in1k/epoch_300.pth'
pretrain_config = 'configs/pretrain/vit_b_spatialk_in1k.py'

model = dict(
    backbone=dict(
        key=dict(type='SpatialK', num_charts=8), init_cfg=dict(checkpoint=pretrained)
    )
)
