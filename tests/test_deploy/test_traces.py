"""Networks traced and exported without our tool, by all ways that torch has.

A file either gives what the network gives, or refuses an image; it is never wrong.
"""

from pathlib import Path

import openvino
import pytest
import tiny
import torch
from oracles import CHANNEL_STRATEGIES, randomize

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

#: SpatialK where a Swin has most windows; and last, where a ViT attends globally.
KEYS = ['SpatialK', *CHANNEL_STRATEGIES, None, 'SpatialK']
FAMILIES = ['swin', 'vit', 'classifier']
TRACED = (2, 3, 32, 64)
#: Another batch; as many tokens on another grid; and sizes to be padded, small ones.
OTHERS = [(1, 3, 32, 64), (2, 3, 64, 32), (3, 3, 33, 70), (1, 3, 16, 16), (2, 3, 5, 40)]


def make(family, keys=KEYS, residual=False, **options):
    """A Swin; a ViT with windows and relative positions; one with a class token.

    Each key is that of a stage or layer, which has an output.
    """
    many = len(keys)
    keys = [key and dict(type=key, num_charts=2, residual=residual) for key in keys]
    options.update(key=keys, out_indices=list(range(many)))
    if family == 'swin':
        depths = [2] + [1] * (many - 1)  # the second block of a stage has a shift
        arch = dict(embed_dims=4, depths=depths, num_heads=[2] * many)
        model = ManifoldKeySwin(arch, window_size=4, pad_small_map=True, **options)
        return randomize(model, std=0.1).eval()
    for key in keys:
        if key and key['type'] == 'SpatialK':
            key['window_size'] = 4
    if family == 'vit':
        options.update(with_cls_token=False, out_type='featmap', use_rel_pos=True)
        options.update(window_size=4, global_attn_indexes=list(range(1, many, 2)))
    arch = dict(embed_dims=8, num_layers=many, num_heads=2, feedforward_channels=16)
    model = ManifoldKeyViT(arch, img_size=32, patch_size=4, **options)
    return randomize(model, std=0.1).eval()


def outcome(traced, model, shape):
    """'right', 'refused' or 'wrong'."""
    torch.manual_seed(0)
    image = torch.randn(shape)
    with torch.no_grad():
        wanted = model(image)
        try:
            given = [torch.as_tensor(out) for out in traced(image)]
        except (RuntimeError, AssertionError):
            return 'refused'
    if [out.shape for out in given] != [out.shape for out in wanted]:
        return 'wrong'
    close = (torch.allclose(*pair, 1e-4, 1e-4) for pair in zip(given, wanted))
    return 'right' if all(close) else 'wrong'


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('family', FAMILIES)
def test_a_trace_takes_any_batch_and_size(family, residual):
    """Positions of the traced grid are those that it learned: none is resized there."""
    model = make(family, residual=residual, with_cp=residual)
    for shape in (TRACED, (2, 3, 32, 32)):
        traced = torch.jit.trace(model, torch.randn(shape), check_trace=False)
        said = [outcome(traced, model, other) for other in (shape, *OTHERS)]
        assert said == ['right'] * len(said), shape


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('side', [32, 64])
def test_a_classifiers_swin_is_traced_with_its_rule_for_single_windows(side):
    """It does not shift those; and refuses maps that are smaller than a window."""
    model = tiny.swin(pad_small_map=False)
    traced = torch.jit.trace(model, torch.randn(1, 3, side, side))
    for size in (32, 64), (64, 32), (36, 60), (32, 32), (96, 70):
        assert outcome(traced, model, (1, 3, *size)) == 'right', size
    for size in (24, 64), (64, 20), (24, 24):
        with pytest.raises(RuntimeError, match='is invalid for input of size'):
            traced(torch.randn(1, 3, *size))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('family', FAMILIES)
def test_openvino_converts(family):
    """It traces, and takes all sizes of the trace for dynamic."""
    model = make(family)
    converted = openvino.convert_model(model, example_input=torch.randn(TRACED))
    (image,) = converted.inputs
    assert image.partial_shape[2].is_dynamic
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.compile_model(converted, 'CPU', exact)

    def run(image):
        return list(compiled(image.numpy()).values())

    said = [outcome(run, model, shape) for shape in (TRACED, *OTHERS)]
    assert said == ['right'] * len(said)


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_the_older_onnx_exporter(family, fork):
    """In a process of its own, which the exporter's own arithmetic may end."""
    script = Path(__file__).with_name('older_onnx.py')
    done = fork(script.parent, script, family, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    lines = done.stdout.splitlines()  # some are of packages that it imports
    said = [line.split(': ') for line in lines if line.endswith(('right', 'refused'))]
    sizes = {'none': 1, 'batch': 2, 'all': 6}
    assert [dynamic for dynamic, _ in said] == list(sizes)
    for dynamic, outcomes in said:
        many = sizes[dynamic]
        expected = ['right'] * many + ['refused'] * (6 - many)
        assert outcomes.split() == expected, dynamic


@pytest.mark.slow
@pytest.mark.parametrize(
    ('family', 'mode', 'strict'),
    [  # each pair of two is met
        ('swin', 'eval', True),
        ('swin', 'train', False),
        ('vit', 'eval', False),
        ('vit', 'train', True),
        ('classifier', 'eval', False),
        ('classifier', 'train', True),
    ],
)
def test_torch_export_with_gradients(family, mode, strict):
    """Some sizes are refused: its guards depend on the example."""
    model = make(family, ['SpatialK'] * 2, residual=True, drop_path_rate=0.0)
    model.train(mode == 'train')
    dims = dict.fromkeys([0, 2, 3], torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        model, (torch.randn(TRACED),), dynamic_shapes=(dims,), strict=strict
    )
    said = [outcome(program.module(), model, shape) for shape in (TRACED, *OTHERS)]
    assert said[0] == 'right'
    assert 'wrong' not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ('family', 'dynamic'),
    [*((family, [0, 2, 3]) for family in FAMILIES), ('swin', [0])],
)
def test_the_newer_onnx_exporter_with_gradients(family, dynamic, tmp_path):
    from older_onnx import session

    model = make(family, ['KUA'] * 2)
    dims = dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC)
    path = tmp_path / 'file.onnx'
    torch.onnx.export(
        model,
        (torch.randn(TRACED),),
        path,
        dynamo=True,
        dynamic_shapes=(dims,),
        verbose=False,
    )
    run = session(path)
    said = [outcome(run, model, shape) for shape in (TRACED, *OTHERS)]
    sizes = 2 if dynamic == [0] else 6
    assert said == ['right'] * sizes + ['refused'] * (6 - sizes)


@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_fake_tensors_leave_nothing_behind(family):
    """They build, they run, and no cache hands one on to a real network."""
    from torch._subclasses import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        outs = make(family)(torch.randn(TRACED))
        assert all(isinstance(out, FakeTensor) for out in outs)
    model, image = make(family), torch.randn(TRACED)
    graph = torch.fx.experimental.proxy_tensor.make_fx(model)(image)
    for out, same in zip(model(image), graph(image), strict=True):
        assert type(out) is torch.Tensor
        torch.testing.assert_close(out, same, rtol=1e-4, atol=1e-5)
