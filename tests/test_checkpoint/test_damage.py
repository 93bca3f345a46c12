"""Damaged files: each loads as documented or ends in one sentence, and never in part.

The expectation is worked out here from the damaged tensors alone.
"""

import functools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import STRATEGIES, randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = [f'{arch}-{key}' for arch in ('Swin', 'ViT') for key in ('linear', *STRATEGIES)]


def build(kind):
    arch, name = kind.split('-')
    key = None if name == 'linear' else dict(type=name, num_charts=2)
    if name == 'SpatialK' and arch == 'ViT':
        key['window_size'] = 2
    if arch == 'Swin':
        sizes = dict(embed_dims=8, depths=[1, 1], num_heads=[2, 4])
        return ManifoldKeySwin(sizes, window_size=3, out_indices=(0, 1), key=key)
    sizes = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=12)
    dense = dict(with_cls_token=False, out_type='featmap', use_rel_pos=True)
    return ManifoldKeyViT(sizes, img_size=32, patch_size=8, key=key, **dense)


@functools.cache
def weights_of(kind):
    return randomize(build(kind)).state_dict()


def pick(draw, weights, rank=0):
    """The name of a tensor of at least this rank."""
    return draw(st.sampled_from([n for n, v in tensors(weights) if v.dim() >= rank]))


def tensors(weights):
    return [(n, v) for n, v in weights.items() if isinstance(v, torch.Tensor)]


def drop(draw, weights):
    name = pick(draw, weights)
    parts = [name, name.rpartition('.')[0] + '.', r'rel_pos_']  # all of a module
    part = draw(st.sampled_from(parts))
    return {n: v for n, v in weights.items() if part not in n}


def rename(draw, weights):
    old = pick(draw, weights)
    new = draw(st.sampled_from([f'{old}_x', f'x.{old}', old.replace('.', '_') + '_']))
    return {new if n == old else n: v for n, v in weights.items()}


def transpose(draw, weights):
    name = pick(draw, weights, rank=2)
    return {**weights, name: weights[name].transpose(0, 1).contiguous()}


def reshape(draw, weights):
    name = pick(draw, weights, rank=1)
    value = weights[name]
    others = [value.flatten()[:1], value[None], value[:0], value.sum()]
    return {**weights, name: draw(st.sampled_from(others))}


def extra(draw, weights):
    name = draw(st.sampled_from(['head.weight', 'norm9.bias', 'stages.9.x', 'epoch']))
    value = draw(st.sampled_from([torch.ones(2), None, 7, 'text']))
    return {**weights, name: value}


def not_finite(draw, weights):
    name = pick(draw, weights)
    value = weights[name].clone()
    if value.is_floating_point() and value.numel():
        at = draw(st.integers(0, value.numel() - 1))
        value.view(-1)[at] = draw(st.sampled_from([float('nan'), float('inf')]))
    return {**weights, name: value}


def other_dtype(draw, weights):
    name = pick(draw, weights)
    kinds = [*FLOATS, torch.int64, torch.uint8, torch.bool, torch.complex64]
    return {**weights, name: weights[name].to(draw(st.sampled_from(kinds)))}


def all_of_another_dtype(draw, weights):
    dtype = draw(st.sampled_from(FLOATS))
    floats = {n: v.to(dtype) for n, v in tensors(weights) if v.is_floating_point()}
    return {**weights, **floats}


def too_large(draw, weights):
    """Finite in float64 only."""
    name = pick(draw, weights)
    value = weights[name].double()
    return {**weights, name: torch.full_like(value, 1e300)}


DAMAGES = [
    drop,
    rename,
    transpose,
    reshape,
    extra,
    not_finite,
    other_dtype,
    all_of_another_dtype,
    too_large,
]


@st.composite
def damaged(draw, first):
    """A kind of backbone, and the content of a file made from its weights."""
    kind = draw(st.sampled_from(KINDS))
    weights = first(draw, dict(weights_of(kind)))
    for damage in draw(st.lists(st.sampled_from(DAMAGES), max_size=2)):
        weights = damage(draw, weights)
    return kind, draw(st.sampled_from(['', 'backbone.'])), weights


def is_optional(name, names):
    """An output norm or relative positions of which the file holds nothing at all."""
    if match := re.match(r'(norm\d|ln1)\.', name):
        return not any(other.startswith(match[0]) for other in names)
    relative = re.compile(r'\.rel_pos_[hw]$')
    return bool(relative.search(name)) and not any(map(relative.search, names))


def is_usable(value, own):
    return (
        value.dtype in FLOATS
        and value.shape == own.shape
        and bool(torch.isfinite(value.to(own.dtype)).all())
    )


def is_beside(name):
    """Known to be no part of a backbone, or an output norm of no stage of these."""
    return name in ('head.weight', 'norm9.bias') or name.endswith('_position_index')


def parameters(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return str(tmp_path_factory.mktemp('damage') / 'w.pth')


@pytest.mark.parametrize('first', DAMAGES, ids=lambda damage: damage.__name__)
@given(data=st.data())
def test_all_is_loaded_or_one_sentence_is_raised(path, first, data):
    kind, prefix, weights = data.draw(damaged(first))
    torch.save({f'{prefix}{name}': value for name, value in weights.items()}, path)
    model = build(kind)
    before = parameters(model)
    held = {n: v for n, v in tensors(weights) if n in before}
    missing = {n for n in before if n not in held}
    good = all(is_usable(value, before[name]) for name, value in held.items())
    good = good and all(is_optional(name, held) for name in missing)
    others = {name for name, _ in tensors(weights) if name not in before}
    good = good and all(map(is_beside, others))
    if not good:
        with pytest.raises(CheckpointError) as info:
            PretrainedBackbone(path).load(model)
        sentence, *table = str(info.value).split('\n')
        assert sentence.startswith(path)
        assert not table or 'unexpected' in table[0]
        for name, value in parameters(model).items():
            assert torch.equal(value, before[name]), name
        return
    coverage = PretrainedBackbone(path).load(model)
    for name, value in parameters(model).items():
        expected = held[name].to(value.dtype) if name in held else before[name]
        assert torch.equal(value, expected), name
    assert set(coverage.loaded) == set(held)
    assert set(coverage.missing) == missing
    assert not coverage.resized
    assert not coverage.misshapen
    assert set(coverage.unexpected) == others & {'norm9.bias'}


@given(kind=st.sampled_from(KINDS), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_loads_nothing(path, kind, share):
    torch.save(weights_of(kind), path)
    with open(path, 'r+b') as file:
        file.truncate(int(share * file.seek(0, 2)))
    model = build(kind)
    before = parameters(model)
    with pytest.raises(
        CheckpointError, match='is no checkpoint of torch, or a damaged'
    ):
        PretrainedBackbone(path).load(model)
    for name, value in parameters(model).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('dtype', FLOATS)
def test_every_floating_dtype_is_converted(path, dtype):
    weights = {n: v.to(dtype) for n, v in weights_of('ViT-KUA').items()}
    torch.save(weights, path)
    model = build('ViT-KUA').to(torch.bfloat16)
    PretrainedBackbone(path).load(model)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, weights[name].to(torch.bfloat16)), name
