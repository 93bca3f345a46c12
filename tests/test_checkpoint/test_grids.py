"""Positions of grids that are not square: resized as what they are, or refused."""

import copy
import itertools

import mmengine.runner
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from oracles import randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone, publishable
from mmmanikey.checkpoint.layouts import from_ours
from mmmanikey.grids import source_grid

ARCH = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8)
SWIN = dict(embed_dims=8, depths=[1], num_heads=[2])
PATCH = 8
#: Two of them hold as many tokens as a square, and two as many as one another.
GRIDS = [(4, 4), (2, 8), (4, 8), (8, 4), (3, 5), (3, 6)]
PAIRS = list(itertools.product(GRIDS, GRIDS))


def vit(grid, with_cls_token=True, cls=ManifoldKeyViT, **kwargs):
    size = tuple(PATCH * side for side in grid)
    model = cls(
        ARCH,
        img_size=size,
        patch_size=PATCH,
        out_type='featmap',
        with_cls_token=with_cls_token,
        **kwargs,
    )
    return randomize(model)


def swin(grid, **kwargs):
    size = tuple(PATCH * side for side in grid)
    return randomize(
        ManifoldKeySwin(
            SWIN,
            img_size=size,
            patch_size=PATCH,
            window_size=2,
            out_indices=(0,),
            use_abs_pos_embed=True,
            **kwargs,
        )
    )


def plainly(path, weights, model):
    model.load_state_dict(weights, strict=False)


def by_mmengine(path, weights, model):
    torch.save(dict(state_dict=weights, meta={}), path)
    mmengine.runner.load_checkpoint(model, str(path))


def by_the_loader(path, weights, model):
    torch.save(dict(state_dict=weights, meta={}), path)
    PretrainedBackbone(str(path)).load(model)


def published(path, weights, model):
    torch.save(publishable(dict(state_dict=weights), 'w'), path)
    PretrainedBackbone(str(path)).load(model)


ROUTES = [plainly, by_mmengine, by_the_loader, published]
routes = pytest.mark.parametrize('route', ROUTES, ids=lambda route: route.__name__)


def interpolated(table, source, target):
    """(1, h * w, C) from one grid to another."""
    if source == target:
        return table
    grid = table.unflatten(1, source).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=target, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2)


@routes
@pytest.mark.parametrize('tokens', [(True, True), (True, False), (False, False)])
def test_positions_of_vit_whose_state_dict_tells_the_grid(tmp_path, route, tokens):
    for source, target in PAIRS:
        first, second = vit(source, tokens[0]), vit(target, tokens[1])
        route(tmp_path / 'w.pth', first.state_dict(), second)
        extra = second.num_extra_tokens
        expected = interpolated(first.pos_embed[:, tokens[0] :], source, target)
        assert torch.equal(second.pos_embed[:, extra:], expected), (source, target)
        assert torch.equal(second.pos_embed[:, :extra], first.pos_embed[:, :extra])


@routes
def test_positions_of_swin_whose_state_dict_tells_the_grid(tmp_path, route):
    for source, target in PAIRS:
        first, second = swin(source), swin(target)
        route(tmp_path / 'w.pth', first.state_dict(), second)
        expected = interpolated(first.absolute_pos_embed, source, target)
        assert torch.equal(second.absolute_pos_embed, expected), (source, target)


def count(grid):
    return grid[0] * grid[1]


def refused(route, path, weights, model, argument):
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match='belong to no square grid') as info:
        route(path, weights, model)
    sentence = str(info.value).split('\n')[0]
    assert f'set {argument} to the one that they were trained with' in sentence
    if route in (by_the_loader, published):
        assert isinstance(info.value, CheckpointError)
    else:
        assert '\n' not in str(info.value)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@routes
@pytest.mark.parametrize('make', [vit, swin], ids=['vit', 'swin'])
def test_positions_that_do_not_tell_their_grid(tmp_path, route, make):
    """The backbone's own where the number fits, else a square one, else an error."""
    name = 'pos_embed' if make is vit else 'absolute_pos_embed'
    for source, target in PAIRS:
        first, second = make(source), make(target)
        weights = dict(first.state_dict())
        extra = int(make is vit)
        side = round(count(source) ** 0.5)
        if count(source) == count(target):
            taken_for = target
        elif side**2 == count(source):
            taken_for = (side, side)
        elif make is vit and source == (3, 5):
            continue  # with the class token's 16, as DeiT III has them of 4 x 4
        else:
            refused(route, tmp_path / 'w.pth', weights, second, 'img_size')
            continue
        route(tmp_path / 'w.pth', weights, second)
        expected = interpolated(weights[name][:, extra:], taken_for, target)
        assert torch.equal(getattr(second, name)[:, extra:], expected)


@routes
def test_a_stock_vit_of_another_aspect(tmp_path, route):
    """mmpretrain's state dicts tell nothing; stock fails on an assertion."""
    stock = vit((4, 8), cls=VisionTransformer)
    refused(route, tmp_path / 'w.pth', stock.state_dict(), vit((8, 8)), 'img_size')
    same = vit((4, 8))
    route(tmp_path / 'w.pth', stock.state_dict(), same)
    assert torch.equal(same.pos_embed, stock.pos_embed)
    dense = vit((4, 8), with_cls_token=False)
    route(tmp_path / 'w.pth', stock.state_dict(), dense)
    assert torch.equal(dense.pos_embed, stock.pos_embed[:, 1:])


def test_a_class_token_without_position():
    """mmpretrain's DeiT III: its class token has no position, here one of zero."""
    for source, target in [((8, 8), (4, 4)), ((4, 8), (4, 8)), ((8, 8), (5, 13))]:
        first, second = vit(source), vit(target)
        weights = {**first.state_dict(), 'pos_embed': first.pos_embed.detach()[:, 1:]}
        second.load_state_dict(weights)
        assert not second.pos_embed[:, 0].any()
        expected = interpolated(weights['pos_embed'], source, target)
        assert torch.equal(second.pos_embed[:, 1:], expected)


@pytest.mark.parametrize('grid', [(6, 8), (7, 9), (13, 15), (4, 4)])
def test_positions_in_timms_names_are_those_of_the_grid(tmp_path, grid):
    """Also where they would be square with another one."""
    first, second = vit(grid), vit(grid)
    weights = from_ours(first.state_dict(), 'timm').weights
    by_the_loader(tmp_path / 'w.pth', weights, second)
    assert torch.equal(second.pos_embed, first.pos_embed)


def test_a_square_grid_with_a_class_token_before_one_without():
    """65 positions are 8 x 8 and one, also for a network of 5 x 13."""
    first, second = vit((8, 8)), vit((5, 13))
    second.load_state_dict(dict(first.state_dict()))
    expected = interpolated(first.pos_embed[:, 1:], (8, 8), (5, 13))
    assert torch.equal(second.pos_embed[:, 1:], expected)


@routes
@pytest.mark.parametrize('target', [(8, 4), (6, 8), (8, 8)])
def test_relative_positions_are_resized_by_axis(tmp_path, route, target):
    dense = dict(with_cls_token=False, use_rel_pos=True)
    first, second = vit((4, 8), **dense), vit(target, **dense)
    route(tmp_path / 'w.pth', first.state_dict(), second)
    for axis, side in zip('hw', target):
        name = f'layers.0.attn.rel_pos_{axis}'
        old = first.get_parameter(name)
        expected = old
        if len(old) != 2 * side - 1:
            expected = F.interpolate(old.t()[None], size=2 * side - 1, mode='linear')
            expected = expected[0].t()
        assert torch.equal(second.get_parameter(name), expected), axis


@routes
def test_bias_tables_of_a_window_that_is_not_square(tmp_path, route):
    """Such as timm's Swin may have: 3 x 4 tokens."""
    model = swin((4, 4))
    weights = dict(swin((4, 4)).state_dict())
    name = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    weights[name] = torch.randn(5 * 7, 2)
    refused(route, tmp_path / 'w.pth', weights, model, 'window_size')
    weights[name] = torch.randn(4, 2)  # of no window at all
    with pytest.raises(ValueError, match='bias_table'):
        route(tmp_path / 'w.pth', weights, model)


@routes
@pytest.mark.parametrize('target', [(2, 3), (4, 4), (8, 2)])
def test_spatialk_of_windows_that_are_not_square(tmp_path, route, target):
    key = dict(type='SpatialK', num_charts=2)
    first = vit((4, 8), key=dict(key, window_size=(2, 8)))
    second = vit((4, 8), key=dict(key, window_size=target))
    route(tmp_path / 'w.pth', first.state_dict(), second)
    expected = copy.deepcopy(second.layers[0].attn.key)
    expected.load_state_dict(first.layers[0].attn.key.state_dict())
    loaded = second.layers[0].attn.key
    assert torch.equal(loaded.conv1.weight, expected.conv1.weight)
    assert not torch.equal(
        loaded.conv1.weight.flatten()[:8], first.layers[0].attn.key.conv1.weight[:8, 0]
    )
    if target == (2, 3):
        weights = dict(second.state_dict())
        refused(route, tmp_path / 'w.pth', weights, first, 'window_size')


def test_the_grid_travels_through_a_detector(tmp_path):
    """Under a prefix, and in files of a model around the backbone."""
    first, second = vit((4, 16)), vit((8, 8))
    model = torch.nn.ModuleDict(dict(backbone=first))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'w.pth')
    PretrainedBackbone(str(tmp_path / 'w.pth')).load(second)
    expected = interpolated(first.pos_embed[:, 1:], (4, 16), (8, 8))
    assert torch.equal(second.pos_embed[:, 1:], expected)


@pytest.mark.parametrize('told', ['4x4', [4], [4, 0], [4.0, 4], None, [True, 4], 16])
def test_nonsense_in_the_metadata_tells_nothing(told):
    first, second = vit((4, 4)), vit((8, 8))
    weights = first.state_dict()
    weights._metadata['']['grid'] = told
    second.load_state_dict(weights)
    expected = interpolated(first.pos_embed[:, 1:], (4, 4), (8, 8))
    assert torch.equal(second.pos_embed[:, 1:], expected)


def test_a_told_grid_that_the_positions_do_not_fill():
    assert source_grid(17, (1, 0), (4, 4), (5, 5)) is None
    assert source_grid(30, (1, 0), (4, 4), (3, 3)) is None
