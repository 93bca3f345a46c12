"""Files of every strategy give what the network gives, for other batches and sizes."""

import pytest
import torch
from oracles import randomize
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.deploy import Part, check, trace, write

pytest.importorskip('onnxruntime')

BATCH = {0: 'batch'}
ALL = {0: 'batch', 2: 'height', 3: 'width'}
KEYS = [
    None,
    dict(type='VanillaK', num_charts=2),
    dict(type='SimpleK', num_charts=2),
    dict(type='KUA', num_charts=2),
    dict(type='SpatialK', num_charts=2),
]


def swin(keys):
    """A stage for each key; the last block of the last one has a shift."""
    depths = [1] * (len(keys) - 1) + [2]
    arch = dict(embed_dims=4, depths=depths, num_heads=[1] * len(keys))
    options = dict(window_size=2, pad_small_map=True, out_indices=range(len(keys)))
    return randomize(ManifoldKeySwin(arch, key=keys, **options), std=0.1)


def vit(keys):
    """A layer and a map for each key, with relative positions."""
    keys = [k and dict(k, window_size=4) if k == KEYS[-1] else k for k in keys]
    arch = dict(embed_dims=8, num_layers=len(keys), num_heads=2, feedforward_channels=8)
    model = ManifoldKeyViT(
        arch,
        img_size=32,
        patch_size=4,
        key=keys,
        with_cls_token=False,
        out_type='featmap',
        out_indices=list(range(len(keys))),
        use_rel_pos=True,
    )
    return randomize(model, std=0.1)


def check_both_formats(model, example, dynamic, shapes, tmp_path):
    part = Part(model)
    program = trace(part, torch.randn(example), dynamic)
    names = list(part(torch.randn(example)))
    for suffix in ('onnx', 'pt2'):
        path = tmp_path / f'file.{suffix}'
        write(program, path, names, dynamic, 20)
        for shape in shapes:
            assert check(part, path, shape) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(('build', 'side'), [(swin, 128), (vit, 16)])
def test_every_strategy_takes_any_batch(build, side, tmp_path):
    """Also one window alone, where a product of windows is a product of matrices."""
    shapes = [(batch, 3, side, side) for batch in (1, 2, 5)]
    check_both_formats(build(KEYS), shapes[1], BATCH, shapes, tmp_path)


@pytest.mark.slow
def test_swin_takes_any_size(tmp_path):
    """Whole windows, and what is to be padded to patches and windows; one window."""
    shapes = [(2, 3, 36, 44), (1, 3, 32, 48), (3, 3, 41, 8), (2, 3, 13, 70)]
    check_both_formats(swin(KEYS[-1:]), shapes[0], ALL, shapes, tmp_path)


@pytest.mark.slow
def test_vit_takes_any_size(tmp_path):
    """The positions of both; charts over the tokens of windows, and memberships."""
    model = vit([KEYS[-1], KEYS[3]])
    shapes = [(2, 3, 36, 44), (1, 3, 32, 48), (3, 3, 41, 16), (1, 3, 16, 13)]
    check_both_formats(model, shapes[0], ALL, shapes, tmp_path)


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
