"""What a backbone answers: ours, and mmpretrain's alike."""

import pytest
import tiny
import torch
from mmdet.models.backbones.swin import SwinTransformer as MMDetSwin
from mmpretrain.models import SwinTransformer, VisionTransformer
from torch import nn

from mmmanikey.attention import ManifoldKeyAttention, ManifoldKeyWindowMSA
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.backbones.structure import (
    attention_layers,
    key_slots,
    slot_of,
    stride_of,
)

SWIN = dict(embed_dims=8, depths=[2, 1, 1], num_heads=[2, 4, 4])
ODD_SWIN = dict(
    arch=dict(embed_dims=8, depths=[1, 1, 1], num_heads=[2, 3, 3]),
    out_indices=(0, 1, 2),
    stage_cfgs=[
        dict(downsample_cfg=dict(out_channels=12)),
        dict(downsample=False),
        dict(downsample=True),
    ],
)
VIT = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16)


@pytest.mark.parametrize('cls', [SwinTransformer, ManifoldKeySwin])
def test_layers_and_strides_of_swin(cls):
    """In a model around it as well."""
    model = cls(SWIN, window_size=4, out_indices=(2,))
    blocks = [block for stage in model.stages for block in stage.blocks]
    for around in (model, nn.ModuleDict(dict(backbone=model))):
        layers = attention_layers(around)
        assert layers == [block.attn for block in blocks]
        assert [slot_of(layer) for layer in layers] == [b.attn.w_msa for b in blocks]
    assert [stride_of(model, layer) for layer in layers] == [4, 4, 8, 16]


def test_strides_of_a_swin_that_merges_otherwise():
    arguments = dict(embed_dims=8, depths=(1, 1, 1), num_heads=(2, 2, 2))
    arguments |= dict(patch_size=2, strides=(2, 4, 1), out_indices=(2,))
    for cls in (MMDetSwin, ManifoldKeySwin):
        model = cls(**arguments)
        layers = attention_layers(model)
        assert [stride_of(model, layer) for layer in layers] == [2, 8, 8]


@pytest.mark.parametrize('cls', [VisionTransformer, ManifoldKeyViT])
def test_layers_and_strides_of_vit(cls):
    model = cls(VIT, img_size=32, patch_size=8)
    layers = attention_layers(model)
    assert layers == [layer.attn for layer in model.layers]
    assert [slot_of(layer) for layer in layers] == layers
    assert [stride_of(model, layer) for layer in layers] == [8, 8, 8]


def test_slots_by_name():
    key = dict(type='VanillaK', num_charts=2)
    for make, kind in (
        (tiny.swin, ManifoldKeyWindowMSA),
        (tiny.vit, ManifoldKeyAttention),
    ):
        model = make([None, key])
        slots = key_slots(model)
        assert [type(slot) for slot in slots.values()] == [kind] * len(slots)
        assert all(model.get_submodule(name) is slot for name, slot in slots.items())
        assert {slot.key is None for slot in slots.values()} == {True, False}
    assert not key_slots(VisionTransformer(VIT, img_size=32, patch_size=8))


@pytest.mark.parametrize(
    ('cls', 'arguments'),
    [
        (ManifoldKeySwin, dict(arch=SWIN, out_indices=(2,))),
        (ManifoldKeySwin, dict(arch=SWIN, out_indices=(0, 1, 2))),
        (
            ManifoldKeySwin,
            dict(arch=SWIN, out_indices=(0, -1), out_after_downsample=True),
        ),
        (ManifoldKeySwin, dict(arch=SWIN, out_indices=(1, 0))),
        (ManifoldKeySwin, dict(arch=SWIN, out_indices=(1, 1))),
        *(
            (ManifoldKeySwin, dict(ODD_SWIN, out_after_downsample=after))
            for after in (False, True)
        ),
        (ManifoldKeyViT, dict(arch=VIT, out_indices=[2, 0, 2])),
        (ManifoldKeyViT, dict(arch=VIT)),
        (ManifoldKeyViT, dict(arch=VIT, out_indices=[0, 2])),
    ],
)
def test_channels_before_it_is_built_are_those_of_its_maps(cls, arguments):
    others = dict(window_size=4, pad_small_map=True)
    if cls is ManifoldKeyViT:
        others = dict(img_size=32, patch_size=8, out_type='featmap')
    model = cls(**arguments, **others).eval()
    maps = model(torch.rand(1, 3, 64, 64))
    assert cls.output_channels(**arguments, **others) == [x.shape[1] for x in maps]


def test_the_first_layers_input_is_a_map_in_mmsegs_words():
    arguments = dict(
        img_size=32, embed_dims=8, num_layers=2, num_heads=2, out_origin=True
    )
    model = ManifoldKeyViT(**arguments).eval()
    maps = model(torch.rand(1, 3, 32, 32))
    assert ManifoldKeyViT.output_channels(**arguments) == [x.shape[1] for x in maps]
    assert len(maps) == 2


@pytest.mark.parametrize('cls', [ManifoldKeySwin, ManifoldKeyViT])
def test_without_arguments_it_is_the_default(cls):
    assert cls.output_channels() == [768]
