"""Files of every strategy give what the network gives, for other batches and sizes."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import PatchEmbed
from oracles import randomize
from torch import nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.deploy import Part, check_file, trace, write

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
            assert check_file(part, path, shape) <= 1e-4


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


@pytest.mark.slow
def test_vit_with_registers_takes_any_size(tmp_path):
    """And any batch of two images or more; a batch of one stops at a guard."""
    model = ManifoldKeyViT(
        dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
        img_size=32,
        patch_size=4,
        key=dict(KEYS[-1], window_size=4),
        out_type='featmap',
        num_registers=2,
    )
    shapes = [(2, 3, 36, 44), (3, 3, 16, 13)]
    check_both_formats(randomize(model, std=0.1), shapes[0], ALL, shapes, tmp_path)


class Shifted(nn.Module):
    """A backbone of one map that is the image, less a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, image):
        return (image - self.number,)


@pytest.mark.parametrize('suffix', ['pt2', 'onnx'])
@pytest.mark.parametrize(
    ('number', 'sentence'),
    [(1.0, 'map0 is off by 1.0e'), (float('nan'), 'map0 is off by nan')],
)
def test_a_wrong_file_is_found_out(number, sentence, suffix, tmp_path):
    path = tmp_path / f'file.{suffix}'
    program = trace(Part(Shifted(number)), torch.ones(1, 3, 4, 4), {})
    write(program, path, ['map0'], {}, 20)
    with pytest.raises(ValueError, match=sentence):
        check_file(Part(Shifted(0.0)), path, (1, 3, 4, 4))


def test_a_file_without_an_output_is_found_out(tmp_path):
    path = tmp_path / 'file.onnx'
    write(trace(Part(Shifted(1.0)), torch.ones(1, 3, 4, 4), {}), path, ['a'], {}, 20)
    with pytest.raises(ValueError, match=r'map0 is None, not \(1, 3, 4, 4\)'):
        check_file(Part(Shifted(1.0)), path, (1, 3, 4, 4))


@pytest.mark.parametrize('head', ['rpn_head', 'bbox_head'])
def test_parts_of_a_detector_have_names(head):
    """Two levels; a dense head such as FCOS's says more than scores and deltas."""
    detector = nn.Module()
    detector.extract_feat = lambda image: (image, 2 * image)
    say = [lambda maps, n=n: [n * x for x in maps] for n in (3, 5, 7)]
    setattr(detector, head, lambda maps: tuple(each(maps) for each in say))
    outs = Part(detector)(torch.ones(1))
    assert {name: value.item() for name, value in outs.items()} == {
        **dict(map0=1, map1=2, score0=3, score1=6),
        **dict(delta0=5, delta1=10, other0_0=7, other0_1=14),
    }


class Embedding(nn.Module):
    """Patches of a stock backbone."""

    def __init__(self):
        super().__init__()
        self.patches = PatchEmbed(kernel_size=4, stride=4, padding='corner')

    def forward(self, image):
        return self.patches(image)[:1]


def test_stock_patches_export_for_images_that_they_do_not_divide(tmp_path):
    """mmcv's padding asks whether there is something to pad."""
    part, path = Part(Embedding()), tmp_path / 'x.pt2'
    write(trace(part, torch.randn(2, 3, 8, 8), ALL), path, ['map0'], ALL, 20)
    for size in ((8, 8), (9, 8), (5, 15)):
        assert check_file(part, path, (1, 3, *size)) <= 1e-4
