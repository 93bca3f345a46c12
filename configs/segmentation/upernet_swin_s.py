# UperNet on ADE20K, Swin-S with the stock linear key: the baseline.
_base_ = './upernet_swin_t.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint=_base_.release + 'swin_small_patch4_window7_224.pth'),
    ),
)
