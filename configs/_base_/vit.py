# ViT backbones for dense prediction, from the DeiT of mmpretrain's zoo.
zoo = 'https://mmassets.onedl.ai/'
deit = zoo + 'mmclassification/v0/deit/deit-'
vit_b = dict(
    type='mmmanikey.ManifoldKeyViT',
    arch='deit-base',
    drop_path_rate=0.1,
    out_type='featmap',
    init_cfg=dict(
        type='mmmanikey.PretrainedBackbone',
        stock=deit + 'base_pt-16xb64_in1k_20220216-db63c16c.pth',
    ),
)
# What differs in the smaller one.
vit_s = dict(
    arch='deit-small',
    init_cfg=dict(stock=deit + 'small_pt-4xb256_in1k_20220218-9425b9bb.pth'),
)
# And in DINOv2's.
vit_b_dinov2 = dict(
    patch_size=14,
    layer_scale_init_value=1e-5,
    init_cfg=dict(
        stock=zoo
        + 'mmpretrain/v1.0/dinov2/vit-base-p14_dinov2-pre_3rdparty_20230426-ba246503.pth',  # noqa: E501
    ),
)
