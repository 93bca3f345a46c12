# Mask2Former in place of Mask R-CNN: the digits are found by queries.
_base_ = './_base_/mask2former.py'
