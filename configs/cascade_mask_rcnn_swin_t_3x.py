# Cascade Mask R-CNN, Swin-T with the stock linear key: the baseline, schedule 3x.
_base_ = './_base_/cascade_mask_rcnn_swin.py'
