# Find and segment digits; the backbone starts from what pretraining wrote.
_base_ = './_base_/mask_rcnn.py'
