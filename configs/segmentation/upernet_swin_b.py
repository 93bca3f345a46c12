# UperNet on ADE20K, Swin-B with the stock linear key: the baseline.
_base_ = './upernet_swin_t.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint=_base_.release + 'swin_base_patch4_window7_224.pth'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
