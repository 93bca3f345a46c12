# ImageNet-1K pretraining of Swin-B with the stock linear key: mmpretrain's recipe.
_base_ = ['mmpretrain::swin_transformer/swin-base_16xb64_in1k.py', '../_base_/in1k.py']
custom_hooks = [_base_.seed_hook]

model = dict(backbone=dict(type='mmmanikey.ManifoldKeySwin'))
default_hooks = _base_.whole_checkpoints
visualizer = dict(_delete_=True, **_base_.plain_visualizer)
