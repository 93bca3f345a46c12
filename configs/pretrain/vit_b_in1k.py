# ImageNet-1K pretraining of ViT-B with the stock linear key: mmpretrain's DeiT recipe.
_base_ = ['mmpretrain::deit/deit-base_16xb64_in1k.py', '../_base_/in1k.py']
custom_hooks = [*_base_.custom_hooks, _base_.seed_hook]

model = dict(backbone=dict(type='mmmanikey.ManifoldKeyViT'))
default_hooks = _base_.whole_checkpoints
visualizer = dict(_delete_=True, **_base_.plain_visualizer)
