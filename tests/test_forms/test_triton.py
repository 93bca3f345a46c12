"""SpatialK's Triton kernels against the reference form.

Without a GPU they run in Triton's interpreter: the same kernels, statement by
statement, in NumPy. It multiplies bfloat16 as if it were integers and knows no tf32, so
these are compiled only, which needs no GPU either. What the compiled code computes is
seen by the tests marked ``cuda`` alone.
"""

import copy
import importlib
import subprocess
from types import SimpleNamespace

import pytest
import torch
from interpreted_triton import CUDA, interpret, interpreted
from oracles import TOLERANCE, assert_same, gradients, kept, plain, randomize

from mmmanikey import forms
from mmmanikey.forms import triton_choice as choice
from mmmanikey.forms import triton_launch
from mmmanikey.forms.gradients import compute
from mmmanikey.keys import SpatialK

NAME = 'mmmanikey.forms.triton_mixing'
KERNELS = ('forward_kernel', 'input_gradient_kernel', 'parameter_gradient_kernel')
# products of float16 are rounded to 11 bits once before each second product
HALF_TOLERANCE = 2e-3


@pytest.fixture
def kernels():
    """The module with interpreted kernels."""
    return interpreted(NAME)


@pytest.fixture(params=['cpu', CUDA])
def device(request, monkeypatch):
    """A device whose keys use the kernels: interpreted on the CPU, else compiled."""
    if request.param == 'cpu':
        interpret(monkeypatch, NAME)
        monkeypatch.setattr(choice, 'why_not', lambda *tensors: None)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # in plain code
    # so that programs add up several windows
    monkeypatch.setattr(importlib.import_module(NAME), 'PARAMETER_PROGRAMS', 8)
    return request.param


@pytest.fixture
def launches(device, monkeypatch):
    """Names of the kernels that run, in order."""
    names, launch = [], triton_launch.launch

    def record(kernel, *args, **kwargs):
        names.append(kernel.__name__)
        launch(kernel, *args, **kwargs)

    monkeypatch.setattr(triton_launch, 'launch', record)
    return names


def make_key(device, channels=20, charts=2, window=4, **kwargs):
    key = SpatialK(channels, num_charts=charts, window_size=window, **kwargs)
    return randomize(key).to(device)


def tokens(key, batch=3):
    return torch.randn(batch, key.num_tokens, key.embed_dims).to(key.scale)


def mean(key, x):
    """The mean of the charts by the form that is chosen."""
    return forms.find(key, x, None).mean(key, x)


def reference(key, x):
    """Output and gradients of the reference form in float64."""
    key = copy.deepcopy(key).double()
    return gradients(plain(key), x.double(), key)


def assert_like_reference(key, x, tolerance):
    want, want_grads = reference(key, x)
    got, got_grads = gradients(key, x, key)
    assert got.dtype == x.dtype
    assert_same(got.double(), want, tolerance)
    for name, grad in want_grads.items():
        assert_same(got_grads[name].double(), grad, tolerance)


@pytest.mark.parametrize(
    ('window', 'channels', 'charts', 'batch', 'approximate'),
    [
        (7, 20, 3, 3, 'none'),
        (7, 16, 2, 2, 'tanh'),
        (8, 16, 1, 2, 'none'),
        (9, 20, 2, 2, 'none'),  # rows in two blocks
        (12, 35, 2, 3, 'tanh'),
        (4, 35, 2, 5, 'tanh'),
        (2, 5, 8, 4, 'none'),
        ((3, 1), 1, 1, 1, 'tanh'),
    ],
)
def test_is_the_reference_form(device, window, channels, charts, batch, approximate):
    act = dict(type='GELU', approximate=approximate)
    key = make_key(device, channels, charts, window, act_cfg=act)
    assert_like_reference(key, tokens(key, batch), TOLERANCE[torch.float32])


@pytest.mark.parametrize('approximate', ['none', 'tanh'])
def test_far_from_zero(device, approximate):
    """GELU is 0 or z there, without an overflow on the way."""
    key = make_key(device, act_cfg=dict(type='GELU', approximate=approximate))
    assert_like_reference(key, 100 * tokens(key), TOLERANCE[torch.float32])


def test_float16(device):
    key = make_key(device).half()
    assert_like_reference(key, tokens(key), HALF_TOLERANCE)


@pytest.mark.parametrize('device', [CUDA], indirect=True)
def test_bfloat16(device):
    key = make_key(device).bfloat16()
    assert_like_reference(key, tokens(key), 8 * HALF_TOLERANCE)  # three bits fewer


def test_autocast_keeps_parameters_in_float32(device, launches):
    key = make_key(device)
    x = tokens(key)
    _, want = reference(key, x)
    with torch.autocast(device, dtype=torch.float16):
        _, grads = gradients(key, x, key)
        assert launches == list(KERNELS)
        assert mean(key, x).dtype == torch.float16
    for name, grad in want.items():
        assert grads[name].dtype == torch.float32
        assert_same(grads[name].double(), grad, 10 * HALF_TOLERANCE)


def test_any_strides(device):
    key = make_key(device)
    x = tokens(key).transpose(0, 2).contiguous().transpose(0, 2)
    assert not x.is_contiguous()
    leaf = x.detach().requires_grad_()
    out = mean(key, leaf)
    outer = torch.linspace(-1, 1, x.numel()).to(x).view(x.shape[::-1]).permute(2, 1, 0)
    grads = torch.autograd.grad(out, [leaf, key.scale], outer)
    double = copy.deepcopy(key).double()
    leaf = x.double().requires_grad_()
    want = double.mix(leaf).mean(dim=1)
    want_grads = torch.autograd.grad(want, [leaf, double.scale], outer.double())
    for got, expected in zip((out, *grads), (want, *want_grads)):
        assert_same(got.detach().double(), expected.detach(), TOLERANCE[x.dtype])


def test_only_what_is_asked_for_is_computed(device, launches):
    key = make_key(device)
    x = tokens(key)
    mean(key, x).sum().backward()
    assert launches == [KERNELS[0], KERNELS[2]]
    launches.clear()
    x.requires_grad_()
    mean(key.requires_grad_(False), x).sum().backward()
    assert launches == list(KERNELS[:2])
    launches.clear()
    x.requires_grad_(False)
    key.scale.requires_grad_().grad = None
    mean(key, x).sum().backward()
    assert launches == [KERNELS[0], KERNELS[2]]
    assert key.scale.grad.any()
    key.scale.requires_grad_(False)
    key.conv1.weight.requires_grad_().grad = None
    mean(key, x).sum().backward()
    assert key.conv1.weight.grad.any()


def test_only_the_input_is_kept(device):
    key = make_key(device)
    x = tokens(key).requires_grad_()
    tensors = kept(lambda x: mean(key, x), x, key)
    assert [tensor.data_ptr() for tensor in tensors] == [x.data_ptr()]


def test_second_derivatives_are_those_of_the_formula(device):
    key = make_key(device)
    x = tokens(key).requires_grad_()
    seconds = []
    for function in (key, plain(key)):
        (grad,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        seconds += torch.autograd.grad(grad.square().sum(), [x, key.scale])
    for got, want in zip(seconds[:2], seconds[2:]):
        assert_same(got, want, TOLERANCE[x.dtype])


def test_empty_batch(device):
    key = make_key(device)
    out, grads = gradients(key, tokens(key, 0), key)
    assert out.shape == (0, 16, 20)
    assert not any(grad.any() for grad in grads.values())


def test_every_entry_is_written_and_runs_agree(device, monkeypatch):
    """In torch's deterministic mode memory starts as NaN."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    key = make_key(device)
    x = tokens(key)
    torch.use_deterministic_algorithms(True)
    try:
        out, grads = gradients(key, x, key)
        again, grads_again = gradients(key, x, key)
    finally:
        torch.use_deterministic_algorithms(False)
    assert out.isfinite().all()
    assert torch.equal(out, again)
    for name, grad in grads.items():
        assert grad.isfinite().all()
        assert torch.equal(grad, grads_again[name])


class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, kernel):
        self.kernel, self.__name__ = kernel, kernel.__name__

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        names = self.kernel.arg_names
        self.options = {'num_warps': kwargs.pop('num_warps')}
        self.args = {**dict(zip(names, args)), **kwargs}
        assert set(self.args) == set(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'precision', 'approximate', 'tokens'),
    [
        (torch.float32, 'ieee', 'none', 144),  # which needs most shared memory
        (torch.float32, 'tf32', 'tanh', 49),
        (torch.float16, 'ieee', 'none', 49),
        (torch.bfloat16, 'ieee', 'tanh', 144),
    ],
)
def test_compiles_for_cuda(
    dtype, precision, approximate, tokens, monkeypatch, tmp_path
):
    """As launched for Swin, into the shared memory of every GPU that they serve."""
    triton = pytest.importorskip('triton')
    from triton.backends.compiler import GPUTarget

    module = importlib.import_module(NAME)
    monkeypatch.setattr(module, 'float32_precision', lambda: precision)
    recorders = [Recorder(getattr(module, name)) for name in KERNELS]
    for name, recorder in zip(KERNELS, recorders):
        monkeypatch.setattr(module, name, recorder)
    shapes = (3, tokens, 96), (8 * tokens, tokens), (8 * tokens,), (8, 96)
    args = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    compute(module.TritonMixing(*args, approximate)).sum().backward()

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for recorder in recorders:
        assert recorder.options == {'num_warps': 8 if dtype == torch.float32 else 4}
        signature, constants = {}, {}
        for parameter in recorder.kernel.params:
            value = recorder.args[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name] = 'constexpr'
                constants[parameter.name] = value
            else:
                signature[parameter.name] = triton.runtime.jit.mangle_type(value)
        source = triton.compiler.ASTSource(recorder.kernel, signature, constants)
        target = GPUTarget('cuda', 80, 32)
        compiled = triton.compile(source, target, recorder.options)
        assert compiled.asm['cubin']
        assert compiled.metadata.shared <= 99 * 1024  # the least since Ampere


@pytest.mark.parametrize(
    ('settings', 'want'),
    [
        (dict(fp32_precision='ieee'), 'ieee'),
        (dict(fp32_precision='none'), 'ieee'),
        (dict(fp32_precision='tf32'), 'tf32'),
        (dict(allow_tf32=False), 'ieee'),
        (dict(allow_tf32=True), 'tf32'),
    ],
)
def test_precision_follows_torch(kernels, settings, want, monkeypatch):
    settings = SimpleNamespace(**settings)
    monkeypatch.setattr(torch.backends.cuda, 'matmul', settings)
    assert kernels.float32_precision() == want


NO_COMPILER = [
    RuntimeError(
        'Failed to find C compiler. Please specify via CC environment variable'
    ),
    subprocess.CalledProcessError(1, ['gcc', 'main.c']),  # no headers of Python
    FileNotFoundError(2, 'No such file or directory', 'nowhere/cc'),  # CC is wrong
]


@pytest.fixture
def fail(monkeypatch):
    """Have a kernel, counted from 1, fail to compile; the launches so far."""
    interpret(monkeypatch, NAME)
    monkeypatch.setattr(
        choice, 'why_not', lambda *tensors: 'given up' if choice.given_up else None
    )
    monkeypatch.setattr(choice, 'given_up', [])
    launched, launch = [], triton_launch.launch

    def fail(number, error):
        def failing(*args, **kwargs):
            launched.append(args[0].__name__)
            if len(launched) >= number:
                raise error
            launch(*args, **kwargs)

        monkeypatch.setattr(triton_launch, 'launch', failing)
        return launched

    return fail


@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.parametrize('error', NO_COMPILER, ids=lambda error: type(error).__name__)
def test_without_a_c_compiler_the_other_form_runs(fail, number, error):
    """Triton finds what it compiled before in its cache: any kernel may be the first.

    One warning, and no kernel is tried again.
    """
    launched = fail(number, error)
    key = make_key('cpu')

    def use_twice():
        for _ in range(2):
            assert_like_reference(key, tokens(key), TOLERANCE[torch.float32])

    with pytest.warns(UserWarning, match=r'cannot be compiled .* C compiler') as told:
        use_twice()
    assert len(told) == 1
    assert launched == list(KERNELS[:number])


@pytest.mark.parametrize('number', [1, 2])
def test_other_failures_of_a_launch_are_not_hidden(fail, number):
    launched = fail(number, torch.OutOfMemoryError('CUDA out of memory'))
    key = make_key('cpu')
    with pytest.raises(torch.OutOfMemoryError):
        gradients(key, tokens(key), key)
    assert len(launched) == number
