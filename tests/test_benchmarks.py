"""What the benchmarks count, and that each of them runs and writes what plot.py draws.

No times are compared: those of small models on a shared machine mean nothing.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from oracles import STRATEGIES, plain
from PIL import Image
from torch import nn

from mmmanikey.keys import build_key

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'benchmarks'
SIZES = {
    'key': ('--batch', 1, '--swin-pixels', 28),
    'backbone': ('--vit-batch', 1),
    'scaling': (
        *('--charts', 4, '--charts-pixels', 32, '--pixels', 32, 64),
        *('--batches', 1, 2, '--batch-pixels', 32),
    ),
    'detector': ('--shape', 64, 64),
    'rents': ('--swin-keys', 'SpatialK', '--vit-keys', 'KUA'),
    'crossovers': (),
    'against': ('HEAD',),
}
#: How many rows each writes: models or forms, times quantities.
ROWS = {
    'key': 5 * 4 * 2 * 2,
    'backbone': (3 + 4) * 3,
    'scaling': (3 + 4 + 4) * 3,
    'detector': 3 * 3,
    'rents': 2 * 3 * (1 + 6 + 1 + 5),
    'crossovers': 4 * 2 * (2 * 2 + 4 * 3),
    'against': 3,
}


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import measure

    return measure


@pytest.fixture
def report(measure):
    import report

    return report


@pytest.fixture
def plot(monkeypatch, measure):
    import plot

    def run(path):
        monkeypatch.setattr(sys, 'argv', ['plot.py', str(path)])
        plot.main()

    return run


def test_saved_bytes_count_each_storage_once(measure):
    # exp keeps its output, sigmoid its own; the products keep views of both
    model = nn.Linear(4, 3)

    def forward():
        x = torch.ones(5, 4, requires_grad=True).exp()  # (5, 4), kept by exp
        first, second = x.chunk(2)  # the rows 0..2 and 3..4, views of it
        return model(x).sigmoid().sum() + (first[:2] * second).sum()

    assert measure.saved_bytes(model, forward) == 4 * (5 * 4 + 5 * 3)


@pytest.mark.parametrize('name', STRATEGIES)
def test_saved_bytes_see_inside_the_fast_keys(measure, name):
    charts, shape = 3, (2, 6, 8)
    key = build_key(dict(type=name, num_charts=charts), shape[-1], (2, 3))
    x = torch.randn(shape, requires_grad=True)
    size = 4 * x.numel()
    fast = measure.saved_bytes(key, lambda: key(x).sum())
    # the input; SpatialK's projection keeps the fused charts, KUA the memberships
    extra = {'SpatialK': size, 'KUA': 4 * charts * shape[0] * shape[1]}.get(name, 0)
    assert fast == size + extra
    assert measure.saved_bytes(key, lambda: plain(key)(x).sum()) > (charts * size)


@pytest.mark.parametrize('name', STRATEGIES)
def test_macs_of_a_key_are_its_formula(measure, name):
    batch, tokens, dims, charts = 2, 6, 8, 3
    key = build_key(dict(type=name, num_charts=charts), dims, (2, 3))
    per_token = {
        'VanillaK': 2 * charts * dims**2,
        'SimpleK': charts * dims**2 + dims**2,
        'KUA': 2 * charts * dims**2 + charts * dims,
        'SpatialK': charts * tokens * dims + dims**2,
    }[name]
    with torch.no_grad():
        count = measure.macs(lambda: key(torch.randn(batch, tokens, dims)))
    assert count == batch * tokens * per_token


def test_compare_takes_turns(measure):
    calls = []
    names = ('a', 'b', 'c')
    seconds = measure.compare({n: lambda n=n: calls.append(n) for n in names}, rounds=3)
    assert ''.join(calls) == 'abc' + 'abc' + 'cba' + 'abc'
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        names, 3
    )


def test_ratios_are_of_rounds(report):
    """The second round was slow for both."""
    from networks import compared

    seconds = dict(old=[1.0, 4.0, 1.0], new=[2.0, 4.0, 1.5])
    macs = dict(old=10, new=20)
    row = compared('c', 'new', 'step', 'old', seconds, macs, SimpleNamespace(rate=60))
    assert row.value == 2
    assert (row.ratio, row.quartiles) == (1.5, [1.25, 1.75])
    assert row.mac_ratio == 2
    assert row.of_rate == 3 * 20 / 2 / 60
    assert '1.25 to 1.75' in row.cells()
    row = compared('c', 'old', 'step', 'old', seconds, macs, SimpleNamespace(rate=60))
    assert row.ratio is None


def test_better_rate_of_two_counts(report, monkeypatch, tmp_path):
    """Something else ran when the first one was measured, or the second."""
    for rates, of_rate in (((10, 40), 0.5), ((40, 10), 2.0)):
        turns = iter(rates)
        monkeypatch.setattr(report, 'product_rate', lambda *_, t=turns: next(t))
        path = tmp_path / 'rows.json'
        cpu = torch.device('cpu')
        setting = report.Setting(cpu, torch.float32, rounds=1, quick=True, json=path)
        rows = [
            report.Row('c', 'm', 'step', 0.1, of_rate=2.0),
            report.Row('c', 'm', 'saved', 8),
        ]
        report.finish('key', rows, setting)
        result = json.loads(path.read_text())
        assert [row['of_rate'] for row in result['rows']] == [of_rate, None]
        assert result['conditions']['matmul_macs_per_second'] == 40


def test_step_leaves_no_gradients(measure):
    model = nn.Linear(2, 1)
    seen = []
    model.weight.register_hook(lambda grad: seen.append(grad))
    measure.step(lambda: model(torch.ones(1, 2)).sum(), model)()
    assert len(seen) == 1
    assert model.weight.grad is None


def test_verdict_is_about_the_score(report):
    row = report.Row('c', 'm', 'step', 0.1, 'other', 2.2, 2.1, bound=1.1, per_mac=True)
    assert row.cells()[-1] == 'reached (1.05)'
    row.per_mac = False
    assert row.cells()[-1] == 'NOT reached (2.20)'


def test_line_through_one_and_two_charts(report):
    import scaling

    seconds = {1: 1.0, 2: 1.5, 4: 2.0, 8: 5.0}  # the line is 2.5 at 4 and 4.5 at 8
    rows = [report.Row('c', 'm', 'step', s, x=x) for x, s in seconds.items()]
    rows = [scaling.against_line(row, rows, bounded=True) for row in rows]
    assert [row.ratio for row in rows] == pytest.approx([1, 1, 2 / 2.5, 5 / 4.5])
    assert [row.bound for row in rows] == [None, None, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize('name', SIZES)
def test_script_writes_what_plot_draws(name, plot, fork, tmp_path):
    path = tmp_path / 'new' / f'{name}.json'
    args = ['--quick', '--json', path, '--device', 'cpu', '--dtype', 'float32']
    args += ['--threads', 1, '--rounds', 1, *SIZES[name]]
    result = fork(tmp_path, FOLDER / f'{name}.py', *args)
    assert 'median or bytes' in result.stdout

    written = json.loads(path.read_text())
    assert written['benchmark'] == name
    known = {'device', 'torch', 'mmdet', 'dtype', 'matmul_macs_per_second'}
    assert known < set(written['conditions'])
    assert written['conditions']['threads'] == written['conditions']['rounds'] == 1
    assert len(written['rows']) == ROWS[name]
    assert all(row['value'] > 0 for row in written['rows'])
    # what a small network on one round takes is no measure of a bound
    assert not any(row['bound'] for row in written['rows'])

    plot(path)
    assert len(Image.open(path.with_suffix('.png')).getcolors(2**24)) > 10
    assert sorted(p.suffix for p in path.parent.iterdir()) == ['.json', '.png']


def test_picture_marks_the_bounds(report):
    import plot

    rows = [
        report.Row('c', 'm', 'step', 2.0, 'other', ratio, bound=bound)
        for ratio, bound in ((1.1, 1.2), (1.3, 1.2), (1.3, None))
    ]
    rows[0].quartiles = (1.0, 1.25)
    figure = plot.draw_ratios(rows, 'title')
    bars = [bar.get_facecolor()[:3] for bar in figure.axes[0].patches]
    assert bars == [to_rgb(f'tab:{name}') for name in ('green', 'red', 'blue')]
    ticks = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert [tuple(tick.get_xdata()) for tick in ticks] == [(1.2, 1.2)] * 2
    spreads = [line for line in figure.axes[0].lines if line.get_linewidth() == 1]
    assert [tuple(line.get_xdata()) for line in spreads] == [(1.0, 1.25), (), ()]


def test_title_and_axis_label_fit_into_the_picture_beside_long_labels(report):
    import plot

    row = report.Row('a case ' * 5, 'a model ' * 5, 'step', 2.0, 'another', 1.1)
    figure = plot.draw_ratios([row], 'a title ' * 12)
    figure.draw_without_rendering()
    lines = [
        line.get_window_extent()
        for line in figure.findobj(Text)
        if line.get_text().startswith(('a title', 'ratio;'))
    ]
    assert len(lines) == 2
    assert all(line.x0 >= 0 and line.x1 <= figure.bbox.x1 for line in lines)


def test_a_soaks_memory_is_drawn_over_its_iterations(report):
    import plot

    checks = [dict(iterations=200 * n, memory=10**9 + n) for n in (1, 2, 3)]
    rows = plot.rows_of(dict(benchmark='soak', checks=checks))
    (line,) = plot.draw_curves(rows, 'title').axes[0].lines
    assert list(line.get_xdata()) == [200, 400, 600]
    assert line.get_ydata() == pytest.approx([1000, 1000, 1000])


def test_unusable_device_is_one_sentence(report, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['key.py', '--device', 'nowhere'])
    with pytest.raises(SystemExit, match='2'):
        report.start(report.make_parser('Keys.'))
    assert "--device 'nowhere' is not usable here" in capsys.readouterr().err


def test_plot_refuses_other_files_in_one_sentence(plot, tmp_path, capsys):
    (tmp_path / 'a.json').write_text('{}')
    with pytest.raises(SystemExit, match='2'):
        plot(tmp_path / 'a.json')
    assert 'as a benchmark' in capsys.readouterr().err
