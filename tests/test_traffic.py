"""What is counted on fake CUDA tensors, and how much of it there is.

The numbers below change with every operator that is added or removed, which is what
they are for: whoever means to change them writes the new ones here.
"""

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracles import TOLERANCE, assert_same
from torch import nn

from mmmanikey import forms
from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.forms import window_grid

FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'
#: Two windows of an image are shifted, and both grids are padded.
SMALL = dict(
    arch=dict(embed_dims=16, depths=[2, 1], num_heads=[2, 2]),
    window_size=4,
    out_indices=(0, 1),
    pad_small_map=True,
    drop_path_rate=0.2,
)
IMAGES = (2, 40, 24)
#: Launches and bytes of a forward pass, and of a step.
COUNTS = {
    'key=None': dict(forward=(50, 853_112), step=(157, 2_482_576)),
    'SpatialK': dict(forward=(56, 912_440), step=(196, 2_814_544)),
    'SpatialK, no Triton': dict(forward=(95, 1_348_400), step=(305, 3_969_112)),
    'VanillaK': dict(forward=(71, 1_184_760), step=(226, 3_514_896)),
    'SimpleK': dict(forward=(71, 1_178_616), step=(226, 3_502_608)),
    'KUA': dict(forward=(104, 1_410_344), step=(313, 4_266_608)),
}
#: The key's form in a forward pass and in a step.
RUN = {
    'key=None': {},
    'SpatialK': dict(SpatialK=('Triton', 'Triton')),
    'SpatialK, no Triton': dict(SpatialK=('mixing in pieces', 'mixing in pieces')),
    **{
        name: {name: ('charts at once',) * 2} for name in ('VanillaK', 'SimpleK', 'KUA')
    },
}
pytestmark = pytest.mark.skipif(
    torch.__version__ < (2, 13), reason='counts are those of torch 2.13 to 2.15'
)


@pytest.fixture
def traffic(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import traffic

    return traffic


@pytest.fixture
def tally(traffic):
    import tally

    return tally


def small(name):
    key = None if name == 'key=None' else dict(type=name.split(',')[0], num_charts=2)
    return ManifoldKeySwin(**SMALL, key=key)


def test_an_operator_counts_what_it_reads_and_writes(tally):
    a, b, memory = torch.ones(4, 6), torch.ones(6, 5), torch.ones(4, 5)
    with tally.Tally() as count:
        c = a @ b
        c.t()[1:].unflatten(0, (2, 2))  # views
        torch.empty(1000)  # memory alone
        c += 1
        torch.add(c, c, out=memory)
        c.copy_(memory)
        torch.ones(1).expand(8).exp()
    assert {name: (n.launches, n.bytes) for name, n in count.by_name.items()} == {
        'aten::mm': (1, 4 * (4 * 6 + 6 * 5 + 4 * 5)),
        'aten::add_': (1, 4 * 2 * 20),
        'aten::add': (1, 4 * 2 * 20),  # what is read twice counts once
        'aten::copy_': (1, 4 * 2 * 20),
        'aten::ones': (1, 4),
        'aten::exp': (1, 4 * (1 + 8)),
    }
    assert count.total.launches == 6
    assert count.total.flops == 2 * 4 * 6 * 5


def test_an_estimate_is_of_the_launches_or_of_the_work(tally):
    many = tally.Count(launches=1000, busy=1e-3)
    assert many.estimate == pytest.approx(4e-3)
    large = tally.Tally()
    large.add('copy', 3_300_000_000, flops=0)
    large.add('product', 0, flops=0.6 * 989e12)
    assert large.total.estimate == pytest.approx(1.001)


@pytest.mark.parametrize('how', ['fast', 'plain'])
@pytest.mark.parametrize('name', ['key=None', 'SpatialK', 'KUA'])
def test_the_backward_pass_is_that_of_the_engine(tally, name, how):
    """Its gradients, and the launches and bytes of each operator."""
    model = small(name).train()
    with forms.use(how):
        maps = list(model(torch.randn(2, 3, *IMAGES[1:])))
    grads = [torch.randn_like(each) for each in maps]
    tally.backward(maps, grads)  # what is kept between calls is there afterwards
    with tally.Tally() as ours:
        found = tally.backward(maps, grads)
        tally.accumulate(found)
    with tally.Tally() as engine:
        torch.autograd.backward(maps, grads)
    assert len(found) == len(list(model.parameters()))
    for parameter, grad in found.items():
        assert_same(grad, parameter.grad, TOLERANCE[grad.dtype])
    assert moved(ours) == moved(engine)


def moved(count):
    """Launches and bytes by operator."""
    return {name: (n.launches, n.bytes) for name, n in count.by_name.items()}


def test_a_misaligned_bias_is_copied_as_pytorch_does(traffic, tally):
    """Aligned rows go to the kernel as they are."""
    from fake_cuda import fake_cuda

    for length, copies in ((49, 1), (56, 0)):
        count = tally.Tally()
        with fake_cuda(count):
            query = torch.empty(2, 3, 49, 8)
            bias = torch.empty(1, 3, 49, length)[..., :49]
            with count:
                F.scaled_dot_product_attention(query, query, query, attn_mask=bias)
        attention = 'aten::_scaled_dot_product_efficient_attention'
        assert count.by_name[attention].launches == 1
        assert count.total.launches == 1 + copies


@pytest.fixture(scope='module')
def counted():
    """The counts of a small network, and the forms of its layers, by its name."""

    @functools.lru_cache
    def count(name):
        import traffic

        model, counts, found = small(name), {}, {}
        for what in ('forward', 'step'):
            with forms.recorded() as decisions:
                tally = traffic.count(
                    model, IMAGES, what, triton='no Triton' not in name
                )
            total = tally.total
            counts[what] = total.launches, total.bytes
            found[what] = {type(each.module).__name__: each.form for each in decisions}
        return counts, found

    return count


@pytest.mark.parametrize('name', RUN)
def test_what_is_counted_is_what_runs_on_cuda(traffic, counted, name):
    _, found = counted(name)
    for place, what in enumerate(('forward', 'step')):
        assert found[what] == {
            'ManifoldKeyBlock': 'whole block',
            **{layer: names[place] for layer, names in RUN[name].items()},
        }


@pytest.mark.parametrize('name', COUNTS)
def test_launches_and_bytes_of_a_small_network(traffic, counted, name):
    counts, _ = counted(name)
    assert counts == COUNTS[name]


def test_the_rule_is_whole_afterwards(traffic):
    """Fake tensors are refused again, and no cache holds one."""
    traffic.count(small('key=None'), IMAGES, 'forward')
    layer, x = small('key=None').stages[0].blocks[0].ffn, torch.ones(1, 2, 16)
    assert forms.find(layer, x).name == 'tokens in pieces'
    with torch._subclasses.FakeTensorMode() as mode:
        (reason,) = dict(forms.reasons(layer, mode.from_tensor(x))).values()
    assert reason == 'a tracer or compiler is looking'
    layer.layers[1].weight = nn.Parameter(mode.from_tensor(layer.layers[1].weight))
    (reason,) = dict(forms.reasons(layer, x)).values()
    assert reason == 'a weight is a FakeTensor'
    assert window_grid.window_grid.cache_info().currsize == 0


@pytest.mark.slow
def test_swin_t_is_within_its_bounds(traffic):
    """Of launches and bytes over those of mmdet's stock network, in a forward pass."""
    shape = traffic.SHAPES[0]
    for row in traffic.rows_of(
        shape, traffic.NETWORKS, quick=False, parts=('forward',)
    ):
        for ratio, bound in zip(row.ratios, row.bounds):
            assert bound is None or ratio <= bound, (row.network, row.ratios)


def run(traffic, monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['traffic.py', *map(str, args)])
    traffic.main()


def test_script_prints_and_writes_counts(traffic, monkeypatch, tmp_path, capsys):
    path = tmp_path / 'new' / 'traffic.json'
    args = '--quick', '--networks', 'key=None', '--shape', 2, 32, 64, '--json', path
    run(traffic, monkeypatch, *args)
    printed = capsys.readouterr().out
    assert 'H100, estimate' in printed
    assert printed.count('2x32x64') == 4
    written = json.loads(path.read_text())
    assert written['benchmark'] == 'traffic'
    assert {'torch', 'mmdet', 'autocast'} < set(written['conditions'])
    assert not {'device', 'threads'} & set(written['conditions'])
    assert [(row['network'], row['what']) for row in written['rows']] == [
        (name, what)
        for name in ('mmdet stock', 'key=None')
        for what in ('forward', 'step')
    ]
    for row in written['rows']:
        operators = row['operators'].values()
        assert row['launches'] == sum(launches for launches, _ in operators) > 0
        assert row['bytes'] == sum(moved for _, moved in operators)
        assert row['bounds'] == [None, None]  # which are for Swin-T


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (('--shape', 1, 30, 32), 'must be multiples of 4'),
        (('--shape', 0, 32, 32), 'must be at least 1, got 0'),
        (('--networks', 'ResNet'), "invalid choice: 'ResNet'"),
    ],
)
def test_bad_arguments_are_one_sentence(traffic, monkeypatch, capsys, args, sentence):
    with pytest.raises(SystemExit, match='2'):
        run(traffic, monkeypatch, *args)
    assert sentence in capsys.readouterr().err


def test_without_triton_its_kernels_are_not_counted(traffic, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='2'):
        run(traffic, monkeypatch, '--networks', 'SpatialK')
    assert 'Triton is not installed' in capsys.readouterr().err
