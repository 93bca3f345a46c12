"""The table of what the frameworks ship: complete, and true of our shipped configs."""

import ast
import json
import re
import shlex
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest
import scripts
import zoo
from table import TABLE, TRUSTING, WORKS

FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')
TRAINED = dict(mmdet='detector', mmseg='segmentor', mmpretrain='classifier')
IMAGES = dict(
    mmdet='detection/val/*.png',
    mmseg='semantic/images/val/*.png',
    mmpretrain='classification/val/*/*.png',
)
ECOSYSTEM = pytest.mark.xdist_group('ecosystem')  # one worker for all of a training
#: Enough images for a benchmark of 200.
REPEATED = """
_base_ = {config!r}
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=50,
        dataset=_base_.test_dataloader.dataset,
    )
)
"""


def shipped(framework):
    """The scripts of a package, and the names of its apis."""
    tools = scripts.installed(framework, '')
    for path in tools.rglob('*'):
        if path.suffix in ('.py', '.sh'):
            yield path.relative_to(tools).as_posix()
    apis = ast.parse(
        (Path(find_spec(framework).origin).parent / 'apis/__init__.py').read_text()
    )
    (names,) = (
        node.value.elts
        for node in apis.body
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__'
    )
    yield from (name.value for name in names)


@pytest.mark.parametrize('framework', FRAMEWORKS)
def test_the_table_knows_all_that_is_shipped(framework):
    patterns = [
        pattern
        for entry in TABLE
        if entry.framework == framework
        for pattern in entry.what.split(', ')
    ]
    names = list(shipped(framework))
    assert len(names) > 20
    assert [n for n in names if not any(fnmatch(n, p) for p in patterns)] == []


@pytest.mark.parametrize('entry', TABLE, ids=lambda entry: entry.what)
def test_what_works_is_shown_by_a_test(entry):
    if entry.test:
        name, _, function = entry.test.partition('::')
        assert f'def {function}(' in Path(__file__).with_name(name).read_text()
    assert bool(entry.command) == bool(entry.gives)
    if entry.result.startswith(WORKS):
        assert entry.command or entry.test


def predict(ours, out, framework):
    """Write predictions, by our tool."""
    options = [*scripts.SHORT]
    if framework == 'mmdet':  # a detector of two steps is sure of nothing
        options += [f'test_evaluator.outfile_prefix={out}']
        options += ['model.test_cfg.rcnn.score_thr=0.0']
    args = [ours.config, ours.checkpoint, f'--work-dir={out}', f'--out={out}.pkl']
    tool = scripts.ROOT / 'tools/test.py'
    scripts.script(out.parent, tool, *args, *options, **scripts.CPU)


@pytest.fixture(scope='session')
def files(digits, request):
    """The files that commands name, by framework."""
    zoo.write_ade(digits / 'data/ade/ADEChallengeData2016')

    def make(framework):
        ours = request.getfixturevalue(TRAINED[framework])
        out = digits / framework
        if framework != 'mmseg':  # its scripts read no predictions
            predict(ours, out, framework)
        repeated = digits / f'repeated_{framework}.py'
        repeated.write_text(REPEATED.format(config=str(ours.config)))
        return dict(
            config=str(ours.config),
            checkpoint=str(ours.checkpoint),
            log=str(next(ours.trained.glob('*/vis_data/scalars.json'))),
            image=str(min((digits / 'data/digits').glob(IMAGES[framework]))),
            annotations='data/digits/detection/annotations/val.json',
            pkl=f'{out}.pkl',
            json=f'{out}.bbox.json',
            repeated=str(repeated),
            options=shlex.join(scripts.SHORT),
            ade=str(zoo.CONFIGS / 'segmentation/upernet_swin_t_spatialk.py'),
        )

    return make


@pytest.fixture(scope='session')
def outcome(digits, files):
    """Output and exit status of an entry's command; all of a framework run at once."""
    known = {}

    def run_all(framework):
        entries = [e for e in TABLE if e.framework == framework and e.command]
        names = files(framework)
        commands = []
        for entry in entries:
            command = entry.command.format(**names)
            known[entry] = dict(env={})
            if entry.result == TRUSTING:
                known[entry]['env']['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'
            if entry.is_code:
                known[entry].update(code=command)
            else:
                script = scripts.installed(framework, entry.what)
                known[entry].update(script=str(script), args=shlex.split(command))
            commands.append(known[entry])
        imports = ['matplotlib.pyplot', f'{framework}.apis', f'{framework}.datasets']
        path = digits / f'{framework}.json'
        path.write_text(json.dumps(dict(imports=imports, commands=commands)))
        forks = Path(__file__).with_name('forks.py')
        scripts.script(digits, forks, path, **scripts.CPU, MPLBACKEND='Agg')
        known.update(zip(entries, json.loads(path.read_text())['commands']))

    def get(entry):
        if entry not in known:
            run_all(entry.framework)
        return known[entry]

    return get


@ECOSYSTEM
@pytest.mark.slow
@pytest.mark.parametrize(
    'entry', [e for e in TABLE if e.command], ids=lambda e: f'{e.framework}/{e.what}'
)
def test_run(entry, outcome, digits):
    result = outcome(entry)
    works = entry.result.startswith(WORKS)
    assert (result['status'] == 0) == works, result['output'][-3000:]
    made = any(path.stat().st_size for path in digits.glob(entry.gives))
    assert made or re.search(entry.gives, result['output']), result['output'][-3000:]
