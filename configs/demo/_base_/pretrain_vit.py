# Classify single digits with a nano ViT, to start a ViTDet-style detector from. The
# mean of the tokens is classified: with a class token a ViT this small learns much more
# slowly.
_base_ = './pretrain.py'

work_dir = 'work_dirs/demo_vit/pretrain'
max_epochs = 8
model = dict(
    backbone=dict(
        _delete_=True, **_base_.nano_vit, img_size=64, out_type='avg_featmap'
    ),
    neck=None,
    head=dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=96),
)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, {**cosine, 'T_max': max_epochs}]
train_cfg = dict(max_epochs=max_epochs)
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
