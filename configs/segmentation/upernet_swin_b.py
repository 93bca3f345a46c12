# UperNet on ADE20K, Swin-B with the stock linear key: the baseline.
_base_ = './upernet_swin_t.py'

model = dict(
    backbone=_base_.swin_b,
    decode_head=dict(in_channels=_base_.swin_b_channels),
    auxiliary_head=dict(in_channels=_base_.swin_b_channels[2]),
)
