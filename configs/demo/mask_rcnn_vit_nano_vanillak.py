# Find and segment digits in ViTDet's way: a plain ViT with windows and relative
# positions, and a pyramid from its last map. Patches of 8 pixels give strides 2 to 16.
_base_ = './_base_/mask_rcnn_vit.py'
