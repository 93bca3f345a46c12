# UperNet on ADE20K, ViT-B with VanillaK.
_base_ = './upernet_vit_b.py'

model = dict(backbone=dict(key=dict(type='VanillaK', num_charts=8)))
