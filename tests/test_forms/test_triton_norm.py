"""Norms and position biases in Triton against PyTorch's operators.

Interpreted on a CPU, see ``test_triton.py``; compiled by the tests marked ``cuda``.
"""

from functools import partial

import pytest
import torch
from interpreted_triton import CUDA, interpret
from oracles import assert_same

from mmmanikey.forms import triton_choice, triton_launch
from mmmanikey.forms.norm import Norm
from mmmanikey.forms.position_bias import PositionBias
from mmmanikey.forms.window_grid import window_grid

# (1, 5 * 6) tokens in windows of 4 with a shift of 2: every mask, and padding
SIZE = 3, 5, 6, 4, 2
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(params=['cpu', CUDA])
def device(request, monkeypatch):
    monkeypatch.setattr(triton_choice, 'given_up', [])
    if request.param == 'cpu':
        interpret(monkeypatch, 'mmmanikey.forms.triton_norm')
        interpret(monkeypatch, 'mmmanikey.forms.triton_bias')
    return request.param


def kind_of_norm():
    from mmmanikey.forms.triton_norm import TritonNorm

    return TritonNorm


def kind_of_bias():
    from mmmanikey.forms.triton_bias import TritonBias

    return TritonBias


def normed(kind, x, weight, bias, grid, dtype, more=None, outer=None):
    norm = kind(x, weight, bias, 1e-5, grid, dtype)
    out, *kept = norm.forward()
    grad = torch.linspace(-1, 1, out.numel(), device=x.device).view_as(out)
    return out, *norm.backward(grad.to(dtype), (True,) * 6, *kept, more)


@pytest.mark.parametrize('in_windows', [False, True])
@pytest.mark.parametrize('adds', [False, True])
@pytest.mark.parametrize('dims', [3, 12, 96])
@pytest.mark.parametrize(
    ('of_x', 'of_weight', 'of_result'),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float16),
        (torch.float16, torch.float16, torch.float16),
        (torch.float16, torch.float32, torch.float16),
    ],
)
def test_norms(device, in_windows, adds, dims, of_x, of_weight, of_result):
    torch.manual_seed(0)
    grid = window_grid(*SIZE, torch.device(device), of_result) if in_windows else None
    x = torch.randn(3 * 5 * 6, dims, device=device).to(of_x)
    weight, bias = torch.randn(2, dims, device=device).to(of_weight)
    more = torch.randn_like(x) if adds else None
    given = [t if t is None else t.float() for t in (x, weight, bias)]
    want = normed(Norm, *given, grid, torch.float32, more=more)
    got = normed(kind_of_norm(), x, weight, bias, grid, of_result, more=more)
    dtypes = of_result, of_x, of_weight, of_weight
    for found, expected, dtype in zip(got, want, dtypes):
        assert found.dtype == dtype
        loosest = max(TOLERANCE[each] for each in (of_x, of_weight, of_result))
        assert_same(found.float(), expected, 4 * loosest)


def test_what_is_strided(device):
    x = torch.randn(12, 90, device=device).t()
    assert not x.is_contiguous()
    weight, bias = torch.randn(12, 2, device=device).unbind(1)
    run = partial(normed, grid=None, dtype=torch.float32, more=x)
    for found, want in zip(
        run(kind_of_norm(), x, weight, bias), run(Norm, x, weight, bias)
    ):
        assert_same(found, want, TOLERANCE[x.dtype])


def test_programs_share_the_gradients_of_parameters(device, monkeypatch, request):
    """Each takes several blocks of tokens, and the last one fewer."""
    import mmmanikey.forms.triton_norm as module

    monkeypatch.setattr(module, 'PROGRAMS', 3)
    monkeypatch.setattr(module, 'VALUES', 16)
    module.block_of.cache_clear()
    request.addfinalizer(module.block_of.cache_clear)
    x, weight, bias = torch.randn(90, 12, device=device), *torch.randn(2, 12).to(device)
    run = partial(normed, grid=None, dtype=torch.float32)
    for found, want in zip(
        run(module.TritonNorm, x, weight, bias), run(Norm, x, weight, bias)
    ):
        assert_same(found, want, TOLERANCE[x.dtype])


def test_no_tokens(device):
    weight, bias = torch.randn(2, 12, device=device)
    x = torch.randn(0, 12, device=device)
    out, *grads = normed(kind_of_norm(), x, weight, bias, None, x.dtype)
    assert out.shape == grads[0].shape == (0, 12)
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('shift', [0, 2])
def test_position_biases(device, shift, dtype):
    grid = window_grid(*SIZE[:4], shift, torch.device(device), dtype)
    table = torch.randn(49, 3, device=device)
    index = torch.randint(49, (16, 16), device=device)
    given = table, index, grid.masks, shift > 0
    want = PositionBias(*given).padded()
    got = kind_of_bias()(*given).padded()
    assert got.dtype == dtype
    assert torch.equal(got, want)  # rounded at the same places


@pytest.mark.parametrize('name', ['norm', 'bias'])
def test_without_a_c_compiler_pytorchs_operators_run(device, name, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('Failed to find C compiler.')

    monkeypatch.setattr(triton_launch, 'launch', fail)
    same = dict(
        norm=partial(test_what_is_strided, device),
        bias=partial(test_position_biases, device, 2, torch.float32),
    )
    with pytest.warns(UserWarning, match='cannot be compiled'):
        same[name]()
    assert triton_choice.given_up


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_compiles_for_cuda(dtype, monkeypatch, tmp_path):
    """As launched for Swin's widest and narrowest stages."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    triton = pytest.importorskip('triton')
    from triton.backends.compiler import GPUTarget

    compiled = []

    def compile_it(kernel, grid, tensors, sizes, num_warps, **constants):
        signature = {}
        for parameter, value in zip(kernel.params, (*tensors, *sizes)):
            signature[parameter.name] = triton.runtime.jit.mangle_type(value)
        assert [*signature, *constants] == kernel.arg_names
        signature |= dict.fromkeys(constants, 'constexpr')
        source = triton.compiler.ASTSource(kernel, signature, constants)
        options = dict(num_warps=num_warps)
        made = triton.compile(source, GPUTarget('cuda', 80, 32), options)
        assert made.asm['cubin']
        compiled.append(kernel.__name__)

    monkeypatch.setattr(triton_launch, 'launch', compile_it)
    for dims in (96, 1536):
        weight, bias = torch.randn(2, dims)
        for grid in (None, window_grid(*SIZE, torch.device('cpu'), dtype)):
            x = torch.randn(90, dims)
            normed(kind_of_norm(), x, weight, bias, grid, dtype, more=x)
    index, masks = torch.zeros(16, 16, dtype=torch.int64), torch.zeros(4, 16, 16)
    for shifted in (False, True):
        table = torch.zeros(49, 3)
        kind_of_bias()(table, index, masks.to(dtype), shifted).padded()
    assert compiled == ['norm_kernel', 'norm_gradient_kernel'] * 4 + ['bias_kernel'] * 2
