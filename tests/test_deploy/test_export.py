"""Files of every strategy give what the network gives, for other batches and sizes."""

import pytest
import torch
from oracles import randomize
from tiny import vit
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.deploy import Part, check, trace, write

pytest.importorskip('onnxruntime')

BATCH = {0: 'batch'}
ALL = {0: 'batch', 2: 'height', 3: 'width'}
STRATEGIES = [None, 'VanillaK', 'SimpleK', 'KUA', 'SpatialK']


def swin(key):
    """A stage of two blocks, the second with a shift."""
    arch = dict(embed_dims=8, depths=[2], num_heads=[2])
    model = ManifoldKeySwin(
        arch, window_size=4, key=key, pad_small_map=True, out_indices=(0,)
    )
    return randomize(model, std=0.1)


def windowed_vit(key):
    """A layer with windows and a global one, both with relative positions."""
    if key and key['type'] == 'SpatialK':
        key = dict(key, window_size=4)
    options = dict(window_size=4, global_attn_indexes=(1,), use_rel_pos=True)
    return vit(key, **options)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('build', [swin, windowed_vit])
def test_every_strategy_takes_any_batch(build, strategy, tmp_path):
    """Also one window alone, where a product of windows is a product of matrices."""
    part = Part(build(strategy and dict(type=strategy, num_charts=2)))
    program = trace(part, torch.randn(2, 3, 16, 16), BATCH)
    for suffix in ('onnx', 'pt2'):
        path = tmp_path / f'file.{suffix}'
        write(program, path, ['map0'], BATCH, 20)
        for batch in (1, 2, 5):
            assert check(part, path, (batch, 3, 16, 16)) <= 1e-4


@pytest.mark.parametrize(
    ('build', 'strategy'),
    [(swin, 'SpatialK'), (windowed_vit, 'SpatialK'), (windowed_vit, 'KUA')],
)
def test_any_size(build, strategy, tmp_path):
    """Whole windows, and what is to be padded to patches and windows; one window."""
    part = Part(build(dict(type=strategy, num_charts=2)))
    program = trace(part, torch.randn(2, 3, 36, 44), ALL)
    formats = ('pt2',) if strategy == 'KUA' else ('onnx', 'pt2')
    for suffix in formats:
        path = tmp_path / f'file.{suffix}'
        write(program, path, ['map0'], ALL, 20)
        for shape in ((2, 3, 36, 44), (1, 3, 32, 48), (3, 3, 41, 16), (2, 3, 13, 70)):
            assert check(part, path, shape) <= 1e-4


class Shifted(nn.Module):
    """A backbone of one map that is the image, less a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, image):
        return (image - self.number,)


@pytest.mark.parametrize(
    ('number', 'sentence'),
    [(1.0, 'map0 is off by 1.0e'), (float('nan'), 'map0 is off by nan')],
)
def test_a_wrong_file_is_found_out(number, sentence, tmp_path):
    path = tmp_path / 'file.pt2'
    write(trace(Part(Shifted(number)), torch.ones(1, 3, 4, 4), {}), path, [], {}, 20)
    with pytest.raises(ValueError, match=sentence):
        check(Part(Shifted(0.0)), path, (1, 3, 4, 4))
