"""The table of what the frameworks ship: complete, and true of our shipped configs."""

import ast
import re
import shlex
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest
import scripts
import stock
import zoo
from outcomes import TRUSTING, WORKS
from table import TABLE

FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')
IMAGES = dict(
    mmdet='digits/detection/val/*.png',
    mmseg='digits/semantic/images/val/*.png',
    mmpretrain='digits/classification/val/*/*.png',
)
ECOSYSTEM = pytest.mark.xdist_group('ecosystem')  # one worker for all of a training
#: Enough images for a benchmark of 200.
REPEATED = """
_base_ = {config!r}
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=200,
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


def predict(trained, run):
    """Write predictions, by our tool or by theirs."""
    framework, out = trained.framework, trained.trained
    options = [*trained.options]
    if framework == 'mmdet':  # a detector of two steps is sure of nothing
        options += ['model.test_cfg.rcnn.score_thr=0.0']
        options += [f'test_evaluator.outfile_prefix={out}']
    ours = scripts.ROOT / 'tools/test.py'
    tool = ours if trained.is_ours else scripts.installed(framework, 'test.py')
    args = [trained.config, trained.checkpoint, f'--work-dir={out}_test']
    run(framework, tool, *args, f'--out={out}.pkl', *options)


@pytest.fixture(scope='session')
def files(digits, trainings, run):
    """The files and names that commands contain, by framework and kind of config."""
    known = {}

    def make(framework, kind):
        trained = trainings(framework, kind)
        out = trained.trained
        if framework != 'mmseg':  # its scripts read no predictions
            predict(trained, run)
        repeated = trained.folder / f'{kind}_repeated.py'
        repeated.write_text(REPEATED.format(config=str(trained.config)))
        ours = trained.is_ours
        ade = zoo.CONFIGS / 'segmentation/upernet_swin_t_spatialk.py'
        return dict(
            config=str(trained.config),
            checkpoint=str(trained.checkpoint),
            log=str(next(out.glob('*/vis_data/scalars.json'))),
            image=str(min((digits / 'data').glob(IMAGES[framework]))),
            annotations='data/digits/detection/annotations/val.json',
            pkl=f'{out}.pkl',
            json=f'{out}.bbox.json',
            repeated=str(repeated),
            options=shlex.join(scripts.SHORT),
            ade=str(ade if ours else trained.config),
            backbone='ManifoldKeySwin' if ours else 'SwinTransformer',
            channels=256 if ours else stock.CHANNELS[-1],
            indexes=[str(scripts.ROOT)] if ours else [],
            model='swin_t_spatialk_in1k' if ours else 'swin-tiny_16xb64_in1k',
        )

    def get(framework, kind):
        if (framework, kind) not in known:
            known[framework, kind] = make(framework, kind)
        return known[framework, kind]

    return get


@ECOSYSTEM
@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ours', 'stock'])
@pytest.mark.parametrize(
    'entry', [e for e in TABLE if e.command], ids=lambda e: f'{e.framework}/{e.what}'
)
def test_run(entry, kind, files, digits, run, tmp_path):
    """The command on a config of ours and on a stock one, each in its own folder."""
    names = files(entry.framework, kind)
    (tmp_path / 'data').symlink_to(digits / 'data')
    result = entry.result if kind == 'ours' else entry.on_stock
    env = {}
    if result == TRUSTING:
        env['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'
    command = entry.command.format(**names)
    script, args = command, []
    if not entry.is_code:
        script = scripts.installed(entry.framework, entry.what)
        args = shlex.split(command)
    done = run(entry.framework, script, *args, folder=tmp_path, check=False, **env)
    works = result.startswith(WORKS)
    assert (done.returncode == 0) == works, done.stdout[-3000:]
    gives = entry.gives.format(**names)
    made = any(path.stat().st_size for path in tmp_path.glob(gives))
    assert made or re.search(gives, done.stdout), done.stdout[-3000:]


@ECOSYSTEM
@pytest.mark.slow
@pytest.mark.parametrize('framework', FRAMEWORKS)
def test_stock_training(framework, trainings):
    """So stock commands are about models that their own script trained."""
    first, *_, last = scripts.training_log(trainings(framework, 'stock').trained)
    assert 'loss' in first
    metric = dict(mmdet='coco/segm_mAP', mmseg='mIoU', mmpretrain='accuracy/top1')
    assert metric[framework] in last
