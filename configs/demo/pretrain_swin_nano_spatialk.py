# Classify single digits, to start the detector's backbone from.
_base_ = './_base_/pretrain.py'
