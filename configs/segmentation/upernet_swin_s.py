# UperNet on ADE20K, Swin-S with the stock linear key: the baseline.
_base_ = './upernet_swin_t.py'

model = dict(backbone=_base_.swin_s)
