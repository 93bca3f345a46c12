"""Public weights in a model with a residual key: the stock network at step 0."""

import pytest
import torch
from mmpretrain.models import MAEViT, SwinTransformer, VisionTransformer
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.keys import ManifoldKey

SWIN = dict(
    arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3]),
    window_size=4,
    pad_small_map=True,
    out_indices=(1,),
)
VIT = dict(
    arch=dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24),
    img_size=64,
    patch_size=8,
)
NETWORKS = {
    'Swin': (SwinTransformer, ManifoldKeySwin, SWIN),
    'ViT': (VisionTransformer, ManifoldKeyViT, dict(VIT, out_type='cls_token')),
    'DeiT': (
        VisionTransformer,
        ManifoldKeyViT,
        dict(VIT, with_cls_token=False, out_type='avg_featmap'),
    ),
    'MAE': (MAEViT, ManifoldKeyViT, dict(VIT, out_type='raw')),
}


@pytest.mark.parametrize('name', STRATEGIES)
@pytest.mark.parametrize('network', NETWORKS)
def test_a_stock_file_with_a_residual_key_is_the_stock_network(network, name, tmp_path):
    """Loaded as training loads it: after the start, by init_weights."""
    theirs, ours, settings = NETWORKS[network]
    stock = theirs(**settings)
    stock.train(False)
    for parameter_name, parameter in stock.named_parameters():
        is_norm = 'norm' in parameter_name or '.ln' in parameter_name
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.2)
    weights = {f'backbone.{n}': v for n, v in stock.state_dict().items()}
    weights |= {'neck.mask_token': torch.ones(1), 'head.fc.weight': torch.ones(2, 2)}
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'stock.pth')

    window = dict(window_size=4) if name == 'SpatialK' else {}
    start = dict(
        type='mmmanikey.PretrainedBackbone', checkpoint=str(tmp_path / 'stock.pth')
    )
    key = dict(type=name, num_charts=3, residual=True, **window)
    model = ours(**settings, key=key, init_cfg=start).eval()
    model.init_weights()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = (stock(x, None) if network == 'MAE' else stock(x))[0]
        assert_same(model(x)[0], expected, STOCK_TOLERANCE)
        # and a key that moves is seen
        for module in model.modules():
            if isinstance(module, ManifoldKey):
                module.reset_parameters()
        change = (model(x)[0] - expected).abs().max()
    assert change > 1e-4
