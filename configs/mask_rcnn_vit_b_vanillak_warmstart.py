# Mask R-CNN, ViT-B with VanillaK added to the stock key, zero at the start: begins as
# the stock network with public MAE weights, no pretraining of ours needed.
_base_ = './mask_rcnn_vit_b.py'

mae = 'mmselfsup/1.x/mae/mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k_20220825-f7569ca2.pth'  # noqa: E501
model = dict(
    backbone=dict(
        key=dict(type='VanillaK', num_charts=8, residual=True),
        init_cfg=dict(stock=_base_.zoo + mae),
    )
)
