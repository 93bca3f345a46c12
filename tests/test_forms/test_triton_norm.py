"""Norms and position biases in Triton against PyTorch's operators.

Interpreted on a CPU, see ``test_triton.py``; compiled by the tests marked ``cuda``.
"""

import math
from functools import partial
from importlib import import_module

import pytest
import torch
from interpreted_triton import CUDA, interpret
from oracles import assert_same

from mmmanikey.forms import triton_choice, triton_launch
from mmmanikey.forms.norm import ResidualNorm, WindowNorm
from mmmanikey.forms.position_bias import PositionBias, prepared
from mmmanikey.forms.window_grid import window_grid

#: Three images of 5 x 6 tokens in windows of 4, shifted by 2: every mask, and padding.
SIZE = 3, 5, 6, 4, 2
COUNT = 3 * 5 * 6
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SINGLE = torch.float32


@pytest.fixture(params=['cpu', CUDA])
def device(request, monkeypatch):
    monkeypatch.setattr(triton_choice, 'given_up', [])
    if request.param == 'cpu':
        interpret(monkeypatch, 'mmmanikey.forms.triton_norm')
        interpret(monkeypatch, 'mmmanikey.forms.triton_bias')
    return request.param


def kernels():
    """The module, whose kernels may be interpreted."""
    return import_module('mmmanikey.forms.triton_norm')


def line(*shape, like):
    return torch.linspace(-1, 1, math.prod(shape)).view(shape).to(like)


def into_windows(kind, x, weight, bias, dtype, more=None, size=SIZE):
    """The result and its gradients, but that of nothing."""
    grid = window_grid(*size, x.device, dtype)
    norm = kind(x, weight, bias, 1e-5, grid, dtype, True)
    out, *kept = norm.forward()
    grad = line(*out.shape, like=out)
    return out, *norm.backward(grad, (True,) * 3, *kept, more)


def added(kind, x, weight, bias, dtype, drop=None, size=SIZE):
    """The same of a residual sum."""
    grid = window_grid(*size, x.device, dtype)
    branch = line(grid.tokens.numel(), x.shape[1], like=x).to(dtype)
    x = x.t().reshape(-1, size[0], size[1] * size[2]).permute(1, 2, 0)
    settings = drop, weight, bias, 1e-5, grid, dtype, True
    total, out, *kept = kind(x, branch, *settings).forward()
    of_sum, grad = line(*total.shape, like=total), line(*out.shape, like=out)
    norm = kind(total, None, *settings)
    return total, out, *norm.backward(of_sum, grad, (True,) * 3, *kept)


def inputs(device, dims, of_x=SINGLE, of_weight=SINGLE):
    torch.manual_seed(0)
    x = torch.randn(COUNT, dims, device=device).to(of_x)
    return x, *torch.randn(2, dims, device=device).to(of_weight).unbind()


@pytest.mark.parametrize('dims', [3, 12, 96])
@pytest.mark.parametrize('more', [False, True])
@pytest.mark.parametrize(
    ('of_x', 'of_weight', 'dtype'),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float16),
        (torch.float16, torch.float16, torch.float16),
        (torch.float16, torch.float32, torch.float16),
    ],
)
class TestNorms:
    def test_into_windows(self, device, of_x, of_weight, dtype, dims, more):
        given = inputs(device, dims, of_x, of_weight)
        more = torch.randn_like(given[0]) if more else None
        single = [each.float() for each in given]
        in_single = more if more is None else more.float()
        want = into_windows(WindowNorm, *single, SINGLE, in_single)
        got = into_windows(kernels().TritonWindowNorm, *given, dtype, more)
        dtypes = dtype, of_x, of_weight, of_weight
        self.same(got, want, dtypes)

    def test_residual(self, device, of_x, of_weight, dtype, dims, more):
        given = inputs(device, dims, of_x, of_weight)
        drop = torch.tensor([0.0, 2, 2], device=device)[:, None, None] if more else None
        single = [each.float() for each in given]
        want = added(ResidualNorm, *single, SINGLE, drop)
        got = added(kernels().TritonResidualNorm, *given, dtype, drop)
        of_sum = torch.promote_types(of_x, dtype)
        dtypes = of_sum, dtype, of_sum, dtype, of_weight, of_weight
        self.same(got, want, dtypes)

    def same(self, got, want, dtypes):
        loosest = 4 * max(TOLERANCE[dtype] for dtype in dtypes)
        for found, expected, dtype in zip(got, want, dtypes, strict=True):
            assert found.dtype == dtype
            assert_same(found.float(), expected, loosest)


PAIRS = {
    'windows': (into_windows, WindowNorm, 'TritonWindowNorm'),
    'residual': (added, ResidualNorm, 'TritonResidualNorm'),
}
both = pytest.mark.parametrize('name', PAIRS)


def assert_both_agree(name, x, weight, bias, **kwargs):
    function, plain, kind = PAIRS[name]
    run = partial(function, x=x, weight=weight, bias=bias, dtype=SINGLE, **kwargs)
    got, want = run(getattr(kernels(), kind)), run(plain)
    for found, expected in zip(got, want, strict=True):
        assert_same(found, expected, TOLERANCE[SINGLE])


@both
def test_what_is_strided(device, name):
    x = torch.randn(12, COUNT, device=device).t()
    assert not x.is_contiguous()
    assert_both_agree(name, x, *torch.randn(12, 2, device=device).unbind(1))


@both
def test_programs_share_the_gradients_of_parameters(device, name, monkeypatch, request):
    """Each takes several blocks of tokens, and the last one fewer."""
    module = kernels()
    monkeypatch.setattr(module, 'PROGRAMS', 3)
    monkeypatch.setattr(module, 'VALUES', 64)
    module.block_of.cache_clear()
    request.addfinalizer(module.block_of.cache_clear)
    assert module.block_of(12) == (12, 4, 16)
    assert_both_agree(name, *inputs(device, 12))


@both
@pytest.mark.parametrize('size', [(3, 8, 4, 4, 0), (3, 8, 8, 4, 0)])
def test_other_grids(device, name, size):
    """Without padding, and without a shift."""
    x = torch.randn(size[0] * size[1] * size[2], 12, device=device)
    assert_both_agree(name, x, *torch.randn(2, 12, device=device).unbind(), size=size)


@both
def test_nothing_is_kept_without_gradients(device, name):
    x, weight, bias = inputs(device, 12)
    grid = window_grid(*SIZE, x.device, SINGLE)
    settings = weight, bias, 1e-5, grid, SINGLE
    if name == 'windows':
        kind, given = kernels().TritonWindowNorm, (x, *settings)
    else:
        kind, branch = kernels().TritonResidualNorm, x.new_ones(grid.tokens.numel(), 12)
        given = x.view(3, -1, 12), branch, None, *settings
    *results, mean, rstd = kind(*given, False).forward()
    assert mean is rstd is None
    *want, _, _ = kind(*given, True).forward()
    for found, expected in zip(results, want, strict=True):
        assert_same(found, expected, TOLERANCE[SINGLE])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('shift', [0, 2])
def test_position_biases(device, shift, dtype):
    TritonBias = import_module('mmmanikey.forms.triton_bias').TritonBias
    grid = window_grid(*SIZE[:4], shift, torch.device(device), dtype)
    table = torch.randn(49, 3, device=device)
    index = torch.randint(49, (16, 16), device=device)
    given = table, prepared(index, 49), grid.masks, shift > 0
    got = TritonBias(*given).padded()
    assert got.dtype == dtype
    assert torch.equal(got, PositionBias(*given).padded())  # rounded at the same places


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_gradients_of_tables(device, dtype):
    """Entries of one user, of many, and of none."""
    TritonBias = import_module('mmmanikey.forms.triton_bias').TritonBias
    grid = window_grid(*SIZE, torch.device(device), dtype)
    table = torch.randn(49, 3, device=device)
    index = torch.randint(3, 48, (16, 16), device=device)
    index[0, 0] = 48
    grad = torch.randn(12, 3, 16, 24, device=device).to(dtype)[..., :16]
    given = table, prepared(index, 49), grid.masks, True
    (got,) = TritonBias(*given).backward(grad, (True,))
    (want,) = PositionBias(*given).backward(grad, (True,))
    assert not got[:3].any()
    assert got[48].all()
    assert got.dtype == torch.float32
    assert_same(got, want, 1e-5)


@pytest.mark.parametrize('name', [*PAIRS, 'bias'])
@pytest.mark.parametrize('number', [1, 2])
def test_without_a_c_compiler_pytorchs_operators_run(device, name, number, monkeypatch):
    """Triton has what it compiled before in its cache: any kernel may be the first."""
    launched, launch = [], triton_launch.launch

    def fail(*args, **kwargs):
        launched.append(args)
        if len(launched) >= number:
            raise RuntimeError('Failed to find C compiler.')
        launch(*args, **kwargs)

    monkeypatch.setattr(triton_launch, 'launch', fail)

    def run_twice():
        for _ in range(2):
            if name == 'bias':
                test_position_biases(device, 2, SINGLE)
                test_gradients_of_tables(device, SINGLE)
            else:
                assert_both_agree(name, *inputs(device, 12))

    with pytest.warns(UserWarning, match=r"^Triton's kernels cannot be compiled"):
        run_twice()
    assert triton_choice.given_up
    assert len(launched) == number


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_compiles_for_cuda(dtype, monkeypatch, tmp_path):
    """As launched for Swin's narrowest stage and for its widest."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    triton = pytest.importorskip('triton')
    from triton.backends.compiler import GPUTarget

    from mmmanikey.forms.triton_bias import TritonBias

    compiled = []

    def compile_it(kernel, grid, tensors, sizes, constants, num_warps):
        arguments = dict(
            zip(kernel.arg_names, (*tensors, *sizes, *constants), strict=True)
        )
        fixed = kernel.arg_names[-len(constants) :]
        signature = {
            name: 'constexpr' if name in fixed else triton.runtime.jit.mangle_type(each)
            for name, each in arguments.items()
        }
        assert [p.name for p in kernel.params if p.is_constexpr] == fixed
        values = {name: arguments[name] for name in fixed}
        source = triton.compiler.ASTSource(kernel, signature, values)
        options = dict(num_warps=num_warps)
        made = triton.compile(source, GPUTarget('cuda', 80, 32), options)
        assert made.asm['cubin']
        compiled.append(kernel.__name__)

    monkeypatch.setattr(triton_launch, 'launch', compile_it)
    for dims in (96, 1536):
        given = inputs('cpu', dims)
        into_windows(kernels().TritonWindowNorm, *given, dtype, given[0])
        added(kernels().TritonResidualNorm, *given, dtype, torch.ones(3, 1, 1))
    pairs = prepared(torch.zeros(16, 16, dtype=torch.int64), 49)
    masks = torch.zeros(4, 16, 16)
    for masked in (False, True):
        bias = TritonBias(torch.zeros(49, 3), pairs, masks.to(dtype), masked)
        bias.backward(torch.zeros(9, 3, 16, 16), (True,))
        bias.padded()
    norms = [
        f'{name}_norm{gradient}_kernel'
        for name in ('window', 'residual')
        for gradient in ('', '_gradient')
    ]
    assert compiled == norms * 2 + ['table_gradient_kernel', 'bias_kernel'] * 2
