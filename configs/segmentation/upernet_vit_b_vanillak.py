# UperNet on ADE20K, ViT-B with VanillaK. The backbone comes from our own
# pretraining: tools/dist_train.sh configs/pretrain/vit_b_vanillak_in1k.py 16
_base_ = './upernet_vit_b.py'

pretrained = 'work_dirs/vit_b_vanillak_in1k/epoch_300.pth'
pretrain_config = 'configs/pretrain/vit_b_vanillak_in1k.py'

model = dict(
    backbone=dict(
        key=dict(type='VanillaK', num_charts=8), init_cfg=dict(checkpoint=pretrained)
    )
)
