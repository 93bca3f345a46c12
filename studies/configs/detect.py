# Mask R-CNN on garments in clutter, as the demo's on digits, with the study's Swin.
_base_ = '../../configs/demo/mask_rcnn_swin_nano_spatialk.py'
custom_imports = dict(
    imports=['mmmanikey', 'studies.pairing'], allow_failed_imports=False
)

data_root = 'data/garments/'
metainfo = dict(
    classes=(
        'T-shirt',
        'trousers',
        'pullover',
        'dress',
        'coat',
        'sandal',
        'shirt',
        'sneaker',
        'bag',
        'ankle boot',
    )
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmanikey.ManifoldKeySwin',
        arch=dict(embed_dims=24, depths=[2, 2, 2], num_heads=[1, 2, 4]),
        img_size=64,
        window_size=4,
        out_indices=(0, 1, 2),
        pad_small_map=True,
        drop_path_rate=0.0,
        key=None,
    ),
    neck=dict(in_channels=[24, 48, 96]),
)
loader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo),
)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
