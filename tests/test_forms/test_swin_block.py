"""Whole blocks of Swin against their modules."""

import math

import pytest
import torch
from attention_kernel import on_cpu  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from interpreted_triton import interpret
from oracles import (
    TOLERANCE,
    assert_same,
    gradients,
    kept,
)
from swin_blocks import KEYS, both, make, off, seeded
from torch import nn

from mmmanikey import forms
from mmmanikey.backbones import blocks
from mmmanikey.forms import (
    choice,
    position_bias,
    triton_choice,
    triton_launch,
    windows,
)
from mmmanikey.forms.swin_block import WholeBlock
from mmmanikey.keys import SpatialK


@pytest.mark.usefixtures('on_cpu')
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.integers(2, 4),
    key=st.sampled_from(KEYS),
    learns=st.booleans(),
)
def test_the_form_is_the_block(height, width, window, key, learns):
    """Its maps, its gradients, and the paths that a seed drops."""
    block = make(key, window).train(learns)
    x = torch.randn(3, height * width, 16, dtype=torch.float64)
    modules, form = both(block, (height, width))
    want, want_grads = gradients(modules, x, block)
    got, got_grads = gradients(form, x, block)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])
    with torch.no_grad():
        assert_same(form(x), want, TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('hw_shape', [(4, 4), (5, 6)])
def test_no_images(key, hw_shape):
    block, x = make(key).train(), torch.randn(0, math.prod(hw_shape), 16).double()
    _, form = both(block, hw_shape)
    out, grads = gradients(form, x, block)
    assert out.shape == x.shape
    assert not any(grad.any() for grad in grads.values())


def test_a_path_is_dropped():
    """Else the test above would say nothing of it."""
    block, x = make().train(), torch.randn(3, 16, 16, dtype=torch.float64)
    modules, _ = both(block, (4, 4))
    dropped = (modules(x) - both(block.eval(), (4, 4))[0](x)).abs().amax((1, 2)) > 0
    assert dropped.any()


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('learns', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_mixed_precision(dtype, learns):
    """Maps in the dtype that autocast gives the modules', and as near to float32."""
    block = make('SpatialK').float().train(learns)
    x = torch.randn(3, 30, 16).to(dtype)
    modules, form = both(block, (5, 6))
    want, want_grads = gradients(modules, x.float(), block)
    with torch.autocast('cpu', torch.bfloat16):
        of_modules, their_grads = gradients(modules, x, block)
        got, got_grads = gradients(form, x, block)
    assert got.dtype == of_modules.dtype == dtype
    assert_same(got, want, 2 * off(of_modules, want) + 1e-2)
    for name, grad in want_grads.items():
        assert got_grads[name].dtype == (dtype if name == 'input' else torch.float32)
        assert_same(got_grads[name], grad, 2 * off(their_grads[name], grad) + 1e-2)


@pytest.mark.usefixtures('on_cpu')
def test_a_key_that_is_called_gets_tokens_as_from_the_modules():
    """Autocast leaves them in float32, and a key may need that."""
    block, seen = make('VanillaK').float(), []
    key, x = block.attn.w_msa.key, torch.randn(2, 20, 16)
    key.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        for run in both(block, (4, 5)):
            run(x)
        windows.FusedWindows()(block.attn, x, (4, 5), 2)
    assert seen == [torch.float32] * 3


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK'])
def test_second_derivatives(key):
    block, hw_shape = make(key), (5, 6)
    x = torch.randn(2, 30, 16, dtype=torch.float64, requires_grad=True)
    found = []
    for run in both(block, hw_shape):
        inputs = x, *block.parameters()
        grads = torch.autograd.grad(run(x).pow(2).sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), inputs))
    for got, want in zip(*reversed(found)):
        assert_same(got, want, TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('learning', ['norm', 'bias', 'attn', 'ffn.layers.1.weight'])
def test_what_is_frozen_gets_no_gradient(learning):
    block, x = make('SpatialK'), torch.randn(2, 20, 16, dtype=torch.float64)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(learning in name)
    grads = []
    for run in both(block, (4, 5)):
        block.zero_grad()
        run(x).pow(2).sum().backward()
        grads.append({n: p.grad for n, p in block.named_parameters()})
    want, got = grads
    for name, grad in want.items():
        assert (grad is None) == (learning not in name) == (got[name] is None)
        if grad is not None:
            assert_same(got[name], grad, TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
def test_no_logits_and_no_activations_are_kept():
    block, hw_shape = make('SpatialK'), (8, 8)
    x = torch.randn(2, 64, 16, dtype=torch.float64, requires_grad=True)
    _, form = both(block, hw_shape)
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in kept(form, x, block)
    }
    # what enters, windows, mean of the charts, key, query, value, what attention gives,
    # with it, and normalised; four times as much enters GELU; the bias, as much here
    assert sum(storages.values()) < (9 + 4 + 1 + 0.5) * x.nbytes


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK', 'VanillaK'])
def test_what_is_kept_may_move(key, monkeypatch):
    """As to the CPU and back: each once, and none of what is made of an index."""
    block, x = make(key), torch.randn(2, 20, 16, dtype=torch.float64)
    project = block.attn.w_msa.qv if key else block.attn.w_msa.qkv
    _, form = both(block, (4, 5))
    want, want_grads = gradients(form, x, block)
    kept = []

    def copied(tensor):
        kept.append(tensor)  # its memory serves no other
        return tensor.clone()

    monkeypatch.setattr(position_bias, 'users_of', None)
    with torch.autograd.graph.saved_tensors_hooks(copied, torch.clone):
        got, got_grads = gradients(form, x, block)
    assert any(tensor is project.weight for tensor in kept)
    assert len({(tensor.data_ptr(), tensor.shape) for tensor in kept}) == len(kept)
    assert torch.equal(got, want)
    for name, grad in want_grads.items():
        assert torch.equal(got_grads[name], grad)


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK', 'VanillaK'])
def test_recomputed(key, monkeypatch):
    """With the same paths dropped, and the same gradients."""
    block = make(key).train()
    block.with_cp = True
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    run = seeded(lambda t: block(t, (5, 6)))
    with forms.use('plain'):
        want, want_grads = gradients(run, x, block)
    calls = []

    def once(self, *inputs):
        calls.append(self)
        return WholeBlock()(self, *inputs)

    monkeypatch.setattr(blocks.ManifoldKeyBlock, 'once', once)
    got, got_grads = gradients(run, x, block)
    assert calls == [block] * 2
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


class DiskIsFull:
    """What is kept for the backward pass goes to a disk, until it is full."""

    def __init__(self, space):
        self.space = space

    def pack(self, tensor):
        self.space -= 1
        if not self.space:
            raise OSError('No space left on device')
        return tensor


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK'])
def test_an_error_is_not_taken_for_the_want_of_a_c_compiler(key, monkeypatch):
    monkeypatch.setattr(triton_choice, 'given_up', [])
    block, x = make(key), torch.randn(2, 20, 16, dtype=torch.float64)
    _, form = both(block, (4, 5))
    many = len(kept(form, x, block))
    for space in range(1, many + 1):
        pack = DiskIsFull(space).pack
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
            pytest.raises(OSError, match='No space left'),
        ):
            form(x)
    assert not triton_choice.given_up


@pytest.mark.usefixtures('on_cpu')
def test_a_spatial_key_is_part_of_it(monkeypatch):
    """It is not called, and what is inside the block is not looked at again."""
    block, x = make('SpatialK'), torch.randn(2, 20, 16, dtype=torch.float64)
    modules, form = both(block, (4, 5))
    want = modules(x)
    monkeypatch.delattr(SpatialK, 'charts')
    monkeypatch.setattr(choice, 'why_changed', None)
    assert_same(form(x), want, TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
def test_without_drop_paths():
    block, x = make().train(), torch.randn(2, 20, 16, dtype=torch.float64)
    block.attn.drop = block.ffn.dropout_layer = nn.Identity()
    modules, form = both(block, (4, 5))
    assert_same(form(x), modules(x), TOLERANCE[x.dtype])


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('rates', [(0.5, 0), (0, 0.5), (0.25, 0.5)])
def test_drop_paths_of_two_rates(rates):
    block, x = make().train(), torch.randn(8, 20, 16, dtype=torch.float64)
    block.attn.drop.drop_prob, block.ffn.dropout_layer.drop_prob = rates
    modules, form = both(block, (4, 5))
    assert_same(form(x), modules(x), 1e-6)  # whose factors are in float32


@pytest.mark.usefixtures('on_cpu')
def test_drop_paths_do_not_take_the_default_dtype():
    block, x = make().train(), torch.randn(8, 20, 16, dtype=torch.float64)
    block.attn.drop.drop_prob = block.ffn.dropout_layer.drop_prob = 0.3
    modules, form = both(block, (4, 5))
    want = modules(x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert_same(form(x), want, 1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK'])
def test_a_map_of_channels_first_gives_tokens_in_a_row(key):
    """As of the modules: users cut what a block gives into a grid by ``view``."""
    block, x = make(key).train(), torch.randn(2, 16, 4, 5, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    for run in both(block, (4, 5)):
        assert run(tokens).is_contiguous()
        with torch.no_grad():
            assert run(tokens).view(2, 4, 5, 16).is_contiguous()


@pytest.mark.usefixtures('on_cpu')
def test_a_bias_of_a_keys_last_layer_gets_its_gradient():
    """It is zero but there, as DistributedDataParallel wants it to be."""
    block, x = make('SpatialK'), torch.randn(2, 20, 16, dtype=torch.float64)
    block.attn.w_msa.key.out = nn.Linear(16, 16).double()
    modules, form = both(block, (4, 5))
    want, want_grads = gradients(modules, x, block)
    got, got_grads = gradients(form, x, block)
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])


def test_a_small_map_is_refused_as_by_the_layer():
    block = make(pad=False)
    with pytest.raises(ValueError, match='smaller than the window of 4'):
        WholeBlock()(block, torch.randn(1, 9, 16, dtype=torch.float64), (3, 3))
    with pytest.raises(ValueError, match='do not fill a grid of 4 x 4'):
        WholeBlock()(block, torch.randn(1, 9, 16, dtype=torch.float64), (4, 4))


@pytest.mark.usefixtures('on_cpu')
@pytest.mark.parametrize('key', [None, 'SpatialK', 'KUA', 'residual'])
def test_by_tritons_kernels(key, monkeypatch):
    """A norm, its gradient, the biases and SpatialK, interpreted."""
    for name in ('mixing', 'norm', 'bias'):
        interpret(monkeypatch, f'mmmanikey.forms.triton_{name}')
    monkeypatch.setattr(triton_choice, 'runs', lambda *tensors: True)
    monkeypatch.setattr(triton_choice, 'why_not', lambda *tensors: None)
    launched, launch = set(), triton_launch.launch

    def record(kernel, *args, **kwargs):
        launched.add(kernel.__name__)
        launch(kernel, *args, **kwargs)

    monkeypatch.setattr(triton_launch, 'launch', record)
    block, x = make(key).train().float(), torch.randn(2, 20, 16)
    modules, form = both(block, (4, 5))
    want, want_grads = gradients(modules, x, block)
    got, got_grads = gradients(form, x, block)
    norms = {
        f'{name}_norm{part}_kernel'
        for name in ('window', 'residual')
        for part in ('', '_gradient')
    }
    assert {*norms, 'bias_kernel'} <= launched
    assert ('parameter_gradient_kernel' in launched) == (key == 'SpatialK')
    assert_same(got, want, TOLERANCE[x.dtype])
    for name, grad in want_grads.items():
        assert_same(got_grads[name], grad, TOLERANCE[x.dtype])
    with torch.no_grad():
        assert_same(form(x), want, TOLERANCE[x.dtype])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('key', KEYS)
def test_whole_blocks_on_cuda(key, dtype, with_cp, monkeypatch):
    """As near to float32 as plain code in the same precision, or to 0.05."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    block = make(key, window=7, with_cp=with_cp).float().train().cuda()
    x, hw_shape = torch.randn(3, 20 * 23, 16, device='cuda'), (20, 23)
    run = seeded(lambda t: block(t, hw_shape))
    mixed = torch.autocast('cuda', dtype, enabled=dtype != torch.float32)
    with forms.use('plain'):
        want, want_grads = gradients(run, x, block)
        with mixed:
            near, near_grads = gradients(run, x, block)
    with forms.recorded() as decisions, mixed:
        got, got_grads = gradients(run, x, block)
    assert 'whole block' in {decision.form for decision in decisions}
    # on a CPU KUA's gradients in bfloat16 are 0.05 away in plain code as well
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    assert_same(got, want, max(tolerance, 2 * off(near, want)))
    for name, grad in want_grads.items():
        most = max(tolerance, 2 * off(near_grads[name], grad))
        assert_same(got_grads[name], grad, most)
