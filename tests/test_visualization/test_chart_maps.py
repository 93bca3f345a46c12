"""Charts before fusion: fused again they are the key."""

import pytest
import torch
from oracles import STRATEGIES, assert_same, randomize
from tiny import swin, vit

from mmmanikey.keys import build_key
from mmmanikey.visualization.charts import record_charts

CHARTS = 3


@pytest.mark.parametrize('strategy', STRATEGIES)
@torch.no_grad()
def test_charts_fuse_to_the_key(strategy):
    """On a grid of 5 x 7, which windows of 4 x 4 do not divide."""
    key = build_key(dict(type=strategy, num_charts=CHARTS), 6, window_size=(4, 4))
    randomize(key.double())
    x = torch.randn(2, 35, 6, dtype=torch.float64)
    charts = key.charts(x, (5, 7))
    assert charts.shape[:3] == (2, CHARTS, 35)
    if strategy == 'KUA':
        fused = (key.memberships(x).transpose(1, 2)[..., None] * charts).sum(dim=1)
    else:
        fused = charts.mean(dim=1)
    if hasattr(key, 'out'):
        fused = key.out(fused)
    assert_same(fused, key(x, (5, 7)), 1e-10)


@torch.no_grad()
def test_response_of_shifted_windows():
    """Norms and memberships of the class's own functions, token by token."""
    backbone = swin(dict(type='KUA', num_charts=CHARTS))
    inputs = []
    layer = backbone.stages[0].blocks[1].attn
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    response = record_charts(backbone, torch.randn(1, 3, 40, 64), 1)
    key, x = layer.w_msa.key, inputs[0]
    assert response.strategy == 'KUA'
    norms = key.charts(x).norm(dim=3)[0].unflatten(1, (10, 16))
    assert_same(response.norms, norms, 1e-5)
    weights = key.memberships(x)[0].t().unflatten(1, (10, 16))
    assert_same(response.memberships, weights, 1e-5)
    assert torch.equal(response.scale, key.scale)


@torch.no_grad()
def test_similarity_ignores_constants_and_finds_equal_charts():
    backbone = vit(
        dict(type='VanillaK', num_charts=CHARTS),
        with_cls_token=True,
        out_type='cls_token',
    )
    key = backbone.layers[1].attn.key
    for conv in (key.conv1, key.conv2):
        parts = conv.weight.view(CHARTS, -1)
        parts[1] = parts[0]
    key.scale[1] = key.scale[0]
    key.conv1.bias.view(CHARTS, -1)[1] = key.conv1.bias.view(CHARTS, -1)[0]
    response = record_charts(backbone, torch.randn(1, 3, 32, 32))
    assert response.norms.shape == (CHARTS, 8, 8)
    assert response.memberships is None
    similarity = response.similarity
    assert_same(similarity.diagonal(), torch.ones(CHARTS), 1e-5)
    assert similarity[0, 1] == pytest.approx(1, abs=1e-5)
    assert similarity[0, 2].abs() < 0.95
    inputs = []
    key.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    torch.manual_seed(1)
    response = record_charts(backbone, torch.randn(1, 3, 32, 32))
    charts = key.charts(inputs[0][:, 1:])[0]  # (H, N, C)
    centred = (charts - charts.mean(dim=1, keepdim=True)).flatten(1)
    expected = torch.cosine_similarity(centred[0], centred[2], dim=0)
    assert_same(response.similarity[0, 2], expected, 1e-5)


def test_mistakes():
    with pytest.raises(ValueError, match='the key of layer 0 is the linear one'):
        record_charts(swin(), torch.zeros(1, 3, 64, 64), 0)
