"""Images of any size, kind and content through Swin and ViT with every key.

Images are padded with zeros at the right and bottom to whole patches, as mmpretrain
does, so none is too small; only a Swin without ``pad_small_map`` refuses maps smaller
than a window, in one sentence.
"""

import math

import pytest
import tiny
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import STRATEGIES, randomize

KEYS = [None, *STRATEGIES]
PATCH, WINDOW = 4, 4
DTYPES = torch.float32, torch.float64, torch.float16, torch.bfloat16


def make(family, key, **options):
    cfg = key and dict(type=key, num_charts=2)
    if family == 'swin':
        return tiny.swin(cfg, window_size=WINDOW, **options)
    if key == 'SpatialK':
        cfg['window_size'] = WINDOW
    options.setdefault('global_attn_indexes', (1,))
    return tiny.vit(cfg, window_size=WINDOW, **options)


def expected_shapes(family, batch, height, width):
    rows, cols = math.ceil(height / PATCH), math.ceil(width / PATCH)
    if family == 'vit':
        return [(batch, 8, rows, cols)]
    return [
        (batch, 8, rows, cols),
        (batch, 16, math.ceil(rows / 2), math.ceil(cols / 2)),
    ]


def layout_of(images, layout):
    if layout == 'channels_last':
        return images.to(memory_format=torch.channels_last)
    if layout == 'transposed':
        return images.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == 'sliced':
        return images.repeat(1, 2, 1, 1)[:, ::2]
    return images


#: Sides from one pixel to 2000; small ones often, and never two long ones at a time.
SMALL = st.integers(1, 3 * PATCH * WINDOW)
SIZES = st.one_of(
    st.tuples(SMALL, SMALL),
    st.tuples(st.integers(1, 12), st.integers(1, 2000)),
    st.tuples(st.integers(1, 2000), st.integers(1, 12)),
)


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
@settings(max_examples=12)
@given(
    size=SIZES,
    batch=st.integers(1, 3),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.bfloat16]
    ),
    layout=st.sampled_from(['contiguous', 'channels_last', 'transposed', 'sliced']),
    training=st.booleans(),
)
@example((1, 1), 1, torch.float32, 'contiguous', True)
@example((1, 2000), 1, torch.float32, 'contiguous', False)
@example((2000, 3), 2, torch.float32, 'channels_last', True)
def test_any_image(family, key, size, batch, dtype, layout, training):
    model = make(family, key).to(dtype).train(training)
    images = layout_of(torch.randn(batch, 3, *size).to(dtype), layout)
    outs = model(images)
    assert [tuple(out.shape) for out in outs] == expected_shapes(family, batch, *size)
    for out in outs:
        assert out.dtype == dtype
        assert out.isfinite().all()
    if training:
        sum(out.float().sum() for out in outs).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert len(grads) > 0
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('size', [(2000, 1500), (701, 2000)])
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_a_large_image(family, size):
    """All in windows: global attention over so many tokens is no test's business."""
    options = {} if family == 'swin' else dict(global_attn_indexes=())
    model = make(family, 'SpatialK', **options)
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    assert [tuple(out.shape) for out in outs] == expected_shapes(family, 1, *size)
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('layout', ['channels_last', 'transposed', 'sliced'])
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_the_layout_changes_no_output(family, layout):
    model = make(family, 'SpatialK').double()
    images = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    moved = layout_of(images, layout)
    if layout == 'sliced':
        images = moved.contiguous()
    assert not moved.is_contiguous()
    for got, want in zip(model(moved), model(images), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize('key', KEYS)
@settings(max_examples=15)
@given(size=st.tuples(st.integers(1, 100), st.integers(1, 100)))
def test_a_classifiers_swin_takes_maps_of_a_window_and_more(key, size):
    """Without padding of small maps, in every stage; else one sentence."""
    model = make('swin', key)
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.pad_small_map = False
    images = torch.randn(1, 3, *size)
    last = expected_shapes('swin', 1, *size)[-1]
    if min(last[2:]) >= WINDOW:
        assert tuple(model(images)[-1].shape) == last
    else:
        with pytest.raises(ValueError, match='smaller than the window of 4; set') as e:
            model(images)
        assert '\n' not in str(e.value)


CONTENTS = {
    'zeros': torch.zeros(2, 3, 33, 20),
    'constant': torch.full((2, 3, 33, 20), 0.7),
    'large constant': torch.full((2, 3, 33, 20), 1e4),
    'large': torch.full((2, 3, 33, 20), 1e4) * torch.linspace(-1, 1, 20),
    'one pixel': torch.zeros(2, 3, 33, 20).index_fill(3, torch.tensor([3]), 1e4),
}


@pytest.mark.parametrize('mode', ['float32', 'bfloat16', 'autocast'])
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_extreme_images_give_finite_outputs_and_gradients(family, key, mode):
    model = randomize(make(family, key), std=3.0).train()  # for large logits
    model = model.bfloat16() if mode == 'bfloat16' else model
    for name, images in CONTENTS.items():
        x = images.clone().to(next(model.parameters()).dtype).requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=mode == 'autocast'):
            outs = model(x)
        sum(out.float().square().mean() for out in outs).backward()
        assert all(out.isfinite().all() for out in outs), name
        for tensor in (x, *model.parameters()):
            assert tensor.grad is None or tensor.grad.isfinite().all(), name
        assert x.grad is not None
        model.zero_grad()
