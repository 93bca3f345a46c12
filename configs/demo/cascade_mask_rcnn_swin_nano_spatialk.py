# Cascade Mask R-CNN in place of Mask R-CNN: three box heads at rising overlap.
_base_ = './_base_/cascade_mask_rcnn.py'
