# Classify single digits with a nano ViT, to start a ViTDet-style detector from. The
# mean of the tokens is classified: with a class token a ViT this small learns much more
# slowly.
_base_ = './_base_/pretrain_vit.py'
