# UperNet on ADE20K, ViT-B with the stock linear key: the baseline, from the DeiT-B of
# mmpretrain's zoo.
_base_ = '../_base_/upernet_vit.py'
