"""The comparison with other projects' Swin: its floors, its bounds, and its script."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import peers
    import report

    monkeypatch.setattr(report, 'product_rate', lambda *_: 1.0)
    return peers


@pytest.mark.parametrize('key', ['SpatialK', 'VanillaK', 'SimpleK', 'KUA'])
def test_a_floor_has_the_products_that_the_key_adds(peers, key):
    """Counted at sizes where windows are padded; KUA's small ones are left out."""
    from floors import floor
    from measure import macs

    arch, window, _ = case = peers.QUICK_CASES['quick 32 x 64 x 1']
    images = torch.randn(2, 3, 36, 60)
    calls = floor(key, arch, window, images)
    with torch.backends.mkldnn.flags(enabled=False):  # counters do not know oneDNN
        forward, step = macs(calls['forward']), macs(calls['step'])
        with torch.no_grad():
            each = {
                name: macs(lambda: peers.build(name, case).eval()(images))  # noqa: B023
                for name in (key, peers.LINEAR)
            }
    added = each[key] - each[peers.LINEAR]
    if key == 'KUA':
        assert 0.9 * added < forward < added
    else:
        assert forward == added
    # the first product four times, the second three times
    first, second = (8, 0) if key in ('SpatialK', 'SimpleK') else (8, 7)
    assert step * (first + second) == forward * (4 * first + 3 * second)


def test_bounds_are_of_the_fastest_peer_and_of_the_floor(peers):
    seconds = {
        peers.STOCK: [1.0, 1.0, 4.0],
        'timm': [0.8, 0.8, 3.2],
        peers.LINEAR: [0.9, 0.8, 2.4],
        **dict.fromkeys(('VanillaK', 'SimpleK', 'KUA'), [2.0, 2.0, 2.0]),
        'SpatialK': [1.1, 1.0, 2.8],
        **{peers.floor_of(key): [0.25, 0.1, 0.4] for key in peers.KEYS[1:]},
    }
    args = 'T 224 x 1', 'forward', seconds, [peers.STOCK, 'timm']
    rows = {row['model']: row for row in peers.timed_rows(*args, setting())}
    linear, spatial = rows[peers.LINEAR], rows['SpatialK']
    # round by round 0.9 / 0.8, 0.8 / 0.8 and 2.4 / 3.2
    assert linear['over']['timm'] == pytest.approx([1.0, 0.875, 1.0625])
    assert linear['bound'] == dict(over='timm', bound=1.00)
    assert peers.judged(linear) == 'reached: 1.00 over timm'
    # 0.2 / 0.25, 0.2 / 0.1 and 0.4 / 0.4
    assert spatial['over']['floor'] == pytest.approx([1.0, 0.9, 1.5])
    assert peers.judged(spatial) == 'reached: 1.10 over floor'
    assert peers.judged(rows['VanillaK']) == 'NOT reached: 1.10 over floor'
    assert rows['timm']['over'].keys() == {peers.STOCK}
    assert rows['timm']['bound'] is None
    rows = peers.timed_rows(*args, setting(bounded=False))
    assert not any(row['bound'] for row in rows)


def test_bounds_on_cuda_are_of_spatial_keys_and_the_best_peer(peers):
    cuda = setting('cuda', torch.bfloat16, bounded=False)
    seconds = {
        peers.STOCK: [1.0, 1.0, 4.0],
        'timm': [0.8, 0.8, 3.2],
        peers.LINEAR: [0.9, 0.8, 2.4],
        'SpatialK': [0.9, 0.9, 3.2],
    }
    title, names = 'T 224 x 64', [peers.STOCK, 'timm']
    rows = peers.timed_rows(title, 'step', seconds, names, cuda)
    found = {peers.STOCK: 100, 'timm': 120, peers.LINEAR: 80, 'SpatialK': 95}
    rows += peers.counted_rows(title, 'peak', found, names, cuda)
    rows += peers.counted_rows(title, 'saved', found, names, cuda)
    assert [peers.judged(row) for row in rows if row['model'] == 'SpatialK'] == [
        'reached: 1.15 over timm',
        'NOT reached: 0.90 over mmdet stock',
        '',
    ]
    assert not any(row['bound'] for row in rows if row['model'] != 'SpatialK')


def setting(device='cpu', dtype=torch.float32, bounded=True):
    """What the bounds ask of a :class:`report.Setting`."""
    device = torch.device(device)
    return SimpleNamespace(device=device, dtype=dtype, bounded=bounded, quick=False)


def run(peers, monkeypatch, path, *args):
    options = '--device', 'cpu', '--dtype', 'float32', '--threads', '1', '--rounds', '1'
    argv = ['peers.py', '--quick', *options, '--json', str(path), *args]
    monkeypatch.setattr(sys, 'argv', argv)
    threads = torch.get_num_threads()
    try:
        peers.main()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_script_goes_on_where_it_was_interrupted(peers, monkeypatch, tmp_path, capsys):
    path, (first, second) = tmp_path / 'new' / 'peers.json', peers.QUICK_CASES
    measured, measure_case = [], peers.measure_case

    def interrupted(title, *args):
        measured.append(title)
        if title == second and measured.count(second) == 1:
            raise KeyboardInterrupt
        return measure_case(title, *args)

    monkeypatch.setattr(peers, 'measure_case', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(peers, monkeypatch, path)
    assert {row['case'] for row in json.loads(path.read_text())['rows']} == {first}
    run(peers, monkeypatch, path, '--resume')
    assert measured == [first, second, second]
    output = capsys.readouterr()
    assert f'{first}: done before' in output.err
    assert '| floor' in output.out

    written = json.loads(path.read_text())
    assert written['benchmark'] == 'peers'
    known = {'device', 'cores', 'threads', 'torch', 'mmdet', 'rounds', 'networks'}
    assert known < set(written['conditions'])
    names = (*peers.installed_peers(), *peers.KEYS)
    assert [(row['case'], row['what'], row['model']) for row in written['rows']] == [
        (case, what, name)
        for case in (first, second)
        for what in ('forward', 'step', 'saved')
        for name in names
    ]
    for row in written['rows']:
        assert row['value'] > 0
        assert row['bound'] is None  # what small networks take is no measure of one
        timed_key = row['model'] in peers.KEYS[1:] and row['what'] != 'saved'
        assert ('floor' in row['over']) == timed_key

    with pytest.raises(SystemExit, match='2'):
        run(peers, monkeypatch, path, '--resume', '--rounds', '2')
    assert 'other conditions (rounds)' in capsys.readouterr().err


def test_bad_arguments_are_one_sentence(peers, monkeypatch, tmp_path, capsys):
    other = tmp_path / 'other.json'
    other.write_text('[]')
    for path, args, sentence in (
        (other, ('--cases', 'T 1'), "'T 1' is none of"),
        (tmp_path / 'none.json', ('--resume',), '--resume goes on with the file'),
        (other, ('--resume',), 'is no result of peers.py'),
    ):
        with pytest.raises(SystemExit, match='2'):
            run(peers, monkeypatch, path, *args)
        assert sentence in capsys.readouterr().err
