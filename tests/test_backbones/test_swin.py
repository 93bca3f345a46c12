"""ManifoldKeySwin against mmpretrain's Swin, and what it promises beyond."""

import copy

import pytest
import torch
from mmpretrain.models import SwinTransformer
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same, randomize

from mmmanikey.backbones import ManifoldKeySwin

NANO = dict(embed_dims=12, depths=[2, 2, 2], num_heads=[2, 3, 4])
DEFAULTS = dict(window_size=4, drop_path_rate=0.0, out_indices=(2,))
DENSE = dict(out_indices=(0, 1, 2), pad_small_map=True)
KEYS = [None, *STRATEGIES]
# float32 rounds differently in another order of operations; float64 shows the function
TOLERANCE_TO_STOCK = {torch.float32: STOCK_TOLERANCE, torch.float64: 1e-10}


def make(key=None, arch=NANO, residual=False, **kwargs):
    if isinstance(key, str):
        key = dict(type=key, num_charts=3, residual=residual)
    return ManifoldKeySwin(arch, key=key, **{**DEFAULTS, **kwargs})


def stock(**kwargs):
    model = SwinTransformer(NANO, **{**DEFAULTS, **kwargs})
    model.train(False)
    return model


def assert_same_maps(actual, expected, tolerance=STOCK_TOLERANCE):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert_same(a, e, tolerance)


# square; odd in both sides; smaller than a window at every stage; a single patch
@pytest.mark.parametrize('size', [(64, 64), (75, 53), (13, 9), (4, 4)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_without_key_it_is_mmpretrains_swin(size, dtype):
    reference = randomize(stock(**DENSE), std=0.05).to(dtype)
    ours = make(**DENSE).to(dtype).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, *size, dtype=dtype)
    assert_same_maps(ours(x), reference(x), TOLERANCE_TO_STOCK[dtype])


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(img_size=64),
        dict(img_size=64, use_abs_pos_embed=True),
        dict(img_size=64, out_after_downsample=True, out_indices=(0, 1)),
        dict(img_size=64, stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2.0))),
        dict(stage_cfgs=[dict(), dict(), dict(block_cfgs=[dict(ffn_ratio=3.0)] * 2)]),
        dict(patch_size=2, norm_cfg=None),
    ],
    ids=lambda kwargs: '-'.join(kwargs),
)
def test_without_key_all_stock_arguments_work(kwargs):
    reference = randomize(stock(**kwargs)).double()
    ours = make(**kwargs).double().eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert_same_maps(ours(x), reference(x))


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_named_archs_have_the_stock_state_dict(arch):
    ours, reference = ManifoldKeySwin(arch), SwinTransformer(arch)
    shapes = {n: p.shape for n, p in ours.state_dict().items()}
    assert shapes == {n: p.shape for n, p in reference.state_dict().items()}


def test_stock_gradients():
    reference = randomize(stock(**DENSE)).double()
    ours = make(**DENSE).double().eval()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    for model in (ours, reference):
        sum(out.sin().sum() for out in model(x)).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_same(parameter.grad, expected[name].grad, STOCK_TOLERANCE)


@pytest.mark.parametrize('name', STRATEGIES)
def test_residual_key_starts_as_the_stock_network_and_learns(name):
    reference = randomize(stock(**DENSE), std=0.05)
    ours = make(name, residual=True, **DENSE).eval()
    ours.init_weights()
    result = ours.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.key.' in missing for missing in result.missing_keys)
    x = torch.randn(2, 3, 40, 56)
    assert_same_maps(ours(x), reference(x))

    before = copy.deepcopy(ours)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    sum(out.sin().sum() for out in ours(x)).backward()
    optimizer.step()
    tokens = torch.randn(2, 16, 12)
    new, old = (m.stages[0].blocks[1].attn.w_msa.key(tokens) for m in (ours, before))
    assert not old.any()
    assert new.abs().max() > 0


@pytest.mark.parametrize('context_broadcasting', [False, True])
@pytest.mark.parametrize('key', KEYS)
def test_every_parameter_gets_a_gradient(key, context_broadcasting):
    model = make(key, context_broadcasting=context_broadcasting, **DENSE)
    model.init_weights()
    x = torch.randn(2, 3, 64, 64)
    sum(out.sin().sum() for out in model(x)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    zero = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert not without
    assert not zero


@pytest.mark.parametrize('key', KEYS)
def test_output_shapes(key):
    model = make(key, **DENSE).eval()
    outs = model(torch.randn(1, 3, 75, 53))
    assert [tuple(out.shape) for out in outs] == [
        (1, 12, 19, 14),
        (1, 24, 10, 7),
        (1, 48, 5, 4),
    ]


def test_one_key_per_stage():
    model = make([None, dict(type='VanillaK'), dict(type='SpatialK', num_charts=2)])
    kinds = [
        {type(block.attn.w_msa.key).__name__ for block in stage.blocks}
        for stage in model.stages
    ]
    assert kinds == [{'NoneType'}, {'VanillaK'}, {'SpatialK'}]
    assert hasattr(model.stages[0].blocks[0].attn.w_msa, 'qkv')


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_checkpointing_equals_none(key, frozen_stages):
    model = make(key, frozen_stages=frozen_stages, **DENSE).double()
    recomputed = make(key, frozen_stages=frozen_stages, with_cp=True, **DENSE).double()
    recomputed.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    for m in (model, recomputed):
        sum(out.sin().sum() for out in m(x)).backward()
    expected = dict(model.named_parameters())
    for name, parameter in recomputed.named_parameters():
        if expected[name].grad is None:
            assert parameter.grad is None
        else:
            assert_same(parameter.grad, expected[name].grad, 1e-10)


@pytest.mark.parametrize(
    'stage_cfgs',
    [
        dict(with_cp=True),
        [dict(with_cp=True), {}, {}],
        dict(block_cfgs=dict(with_cp=True)),
    ],
    ids=['all', 'first', 'blocks'],
)
def test_checkpointing_of_some_stages(stage_cfgs):
    """It is not the reentrant one, which refuses ``torch.autograd.grad``."""
    model = make(**DENSE)
    recomputed = make(stage_cfgs=stage_cfgs, **DENSE)
    recomputed.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 40, 56)
    grads = [
        torch.autograd.grad(sum(out.sin().sum() for out in m(x)), [*m.parameters()])
        for m in (model, recomputed)
    ]
    for expected, actual in zip(*grads):
        assert_same(actual, expected, 1e-5)


def test_checkpointing_saves_memory():
    """Else the argument does nothing."""
    sizes = []
    for with_cp in (False, True):
        model = make('SpatialK', with_cp=with_cp, **DENSE)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            model(torch.randn(1, 3, 64, 64))
        sizes.append(sum(saved))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize('at_first', [False, True])
def test_checkpointing_is_switched_in_a_block(at_first):
    """As in the stock network, and it is not the reentrant one then either."""
    model = make(with_cp=at_first, **DENSE)
    for block in model.stages[0].blocks:
        assert block.with_cp is at_first
        block.with_cp = not at_first
    for stage in model.stages[1:]:
        assert all(block.with_cp is at_first for block in stage.blocks)
    calls = []
    for block in model.stages[0].blocks:
        block.norm1.register_forward_hook(lambda *_: calls.append(1))
    out = model(torch.randn(1, 3, 40, 56))[-1].sum()
    torch.autograd.grad(out, [*model.parameters()], allow_unused=True)
    assert len(calls) == len(model.stages[0].blocks) * (1 if at_first else 2)


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3])
def test_frozen_stages_hold_from_construction(key, frozen_stages):
    """As in mmdet: 0 is the stem, k the stem and the first k stages."""
    model = make(key, frozen_stages=frozen_stages, **DENSE)
    frozen = {'patch_embed'} if frozen_stages >= 0 else set()
    for i in range(max(frozen_stages, 0)):
        frozen |= {f'stages.{i}', f'norm{i}'}
    for _ in range(2):
        for name, parameter in model.named_parameters():
            is_frozen = any(name.startswith(f'{part}.') for part in frozen)
            assert parameter.requires_grad != is_frozen, name
        for name, module in model.named_modules():
            if any(name == part or name.startswith(f'{part}.') for part in frozen):
                assert not module.training, name
        assert model.stages[2].training == (frozen_stages < 3)
        model.train()


def test_a_frozen_stage_may_have_no_map():
    """And so no norm that could be frozen."""
    model = make(frozen_stages=2, out_indices=(1, 2))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    parts = {name.rpartition('.')[0].partition('.')[0] for name in frozen}
    assert parts == {'patch_embed', 'stages', 'norm1'}
    assert not any(name.startswith('stages.2.') for name in frozen)


def test_frozen_position_embedding():
    model = make(frozen_stages=0, use_abs_pos_embed=True, img_size=64)
    assert not model.absolute_pos_embed.requires_grad


@pytest.mark.parametrize('key', KEYS)
def test_old_checkpoints_are_renamed(key):
    """What mmpretrain does for its own class only, at any prefix."""
    ours = make(key)
    state_dict = ours.state_dict()
    old = {
        name.replace('norm2.', 'norm.') if name.startswith('norm2.') else name: value
        for name, value in state_dict.items()
    }
    old['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(4, 16, 16)
    assert set(old) != set(state_dict)
    fresh = make(key)
    fresh.load_state_dict(old, strict=True)
    assert torch.equal(fresh.norm2.weight, ours.norm2.weight)

    holder = torch.nn.ModuleDict(dict(backbone=make(key)))
    holder.load_state_dict({f'backbone.{n}': v for n, v in old.items()}, strict=True)


@pytest.mark.parametrize('key', KEYS)
def test_position_tables_resize_at_load(key):
    """And SpatialK's mixing with them, see tests/test_keys/test_resize.py."""
    small, large = randomize(make(key, window_size=4)), make(key, window_size=6)
    large.load_state_dict(small.state_dict(), strict=True)
    table = large.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
    assert table.shape == (11 * 11, 2)
    source = small.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
    assert_same(table[60], source[24], 1e-3)  # the centre stays


def test_eval_returns_the_backbone():
    model = make()
    assert model.eval() is model
    assert model.train() is model


@pytest.mark.parametrize('key', KEYS)
def test_state_dict_round_trip(key):
    model = randomize(make(key)).eval()
    other = make(key).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0], other(x)[0])


def test_context_broadcasting_follows_its_formula():
    """The MLP's output becomes (y + mean y) / 2, before the residual."""
    model = randomize(make('VanillaK', context_broadcasting=True)).double().eval()
    plain = make('VanillaK').double().eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 35, 12, dtype=torch.float64)
    block, plain_block = model.stages[0].blocks[0], plain.stages[0].blocks[0]
    middle = x + plain_block.attn(plain_block.norm1(x), (5, 7))
    mlp = plain_block.ffn.layers(plain_block.norm2(middle))
    expected = middle + (mlp + mlp.mean(dim=1, keepdim=True)) / 2
    assert_same(block(x, (5, 7)), expected, 1e-10)


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(key=[None]), ValueError, 'key lists 1 configs for 3 stages'),
        (dict(key='SpatialK'), TypeError, 'key must be None, a dict, or a list'),
        (dict(key=dict(type='K')), ValueError, 'unknown key type'),
        (
            dict(stage_cfgs=dict(block_cfgs=dict(drop_path=1.0))),
            ValueError,
            'drop_path_rate must be less than 1',
        ),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message) as info:
        ManifoldKeySwin(NANO, **DEFAULTS, **kwargs)
    assert '\n' not in str(info.value)
