# UperNet on ADE20K, Swin-T with the stock linear key: the baseline.
_base_ = ['../_base_/upernet_ade20k.py', '../_base_/swin.py']

model = dict(
    backbone=dict(**{**_base_.swin_t, 'drop_path_rate': 0.3}),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
