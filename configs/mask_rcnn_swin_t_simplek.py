# Mask R-CNN, Swin-T with SimpleK, schedule 1x. The backbone comes from our own
# pretraining: tools/dist_train.sh configs/pretrain/swin_t_simplek_in1k.py 16
_base_ = './mask_rcnn_swin_t_spatialk.py'

pretrained = 'work_dirs/swin_t_simplek_in1k/epoch_300.pth'
pretrain_config = 'configs/pretrain/swin_t_simplek_in1k.py'

model = dict(
    backbone=dict(key=dict(type='SimpleK'), init_cfg=dict(checkpoint=pretrained))
)
