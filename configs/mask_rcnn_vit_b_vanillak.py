# Mask R-CNN, ViT-B with VanillaK. The backbone comes from our own pretraining:
#   tools/dist_train.sh configs/pretrain/vit_b_vanillak_in1k.py 8
_base_ = './mask_rcnn_vit_b.py'

pretrained = 'work_dirs/vit_b_vanillak_in1k/epoch_300.pth'
pretrain_config = 'configs/pretrain/vit_b_vanillak_in1k.py'
warmstart_config = 'configs/mask_rcnn_vit_b_vanillak_warmstart.py'

model = dict(
    backbone=dict(
        key=dict(type='VanillaK', num_charts=8), init_cfg=dict(checkpoint=pretrained)
    )
)
