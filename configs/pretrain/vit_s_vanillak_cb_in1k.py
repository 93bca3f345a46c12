# ViT-S with VanillaK and context broadcasting in the MLPs.
_base_ = './vit_s_vanillak_in1k.py'

model = dict(backbone=dict(context_broadcasting=True))
