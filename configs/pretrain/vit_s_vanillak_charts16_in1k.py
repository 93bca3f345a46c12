# Ablation: ViT-S with VanillaK of 16 charts.
_base_ = './vit_s_vanillak_in1k.py'

model = dict(backbone=dict(key=dict(num_charts=16)))
