"""One small set of digits, and a short training of each kind in each framework."""

from types import SimpleNamespace

import pytest
import scripts
import stock
import zoo
from forks import Forks

DEMOS = dict(
    mmdet='mask_rcnn_swin_nano_spatialk',
    mmseg='upernet_swin_nano_spatialk',
    mmpretrain='pretrain_swin_nano_spatialk',
)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A folder with digits in all layouts and ADE20K's, in which everything runs."""
    folder = tmp_path_factory.mktemp('ecosystem')
    sizes = ['--train-images=8', '--val-images=4', '--train-crops=32']
    tool = scripts.ROOT / 'tools/data/make_digits.py'
    scripts.script(folder, tool, '--out', 'data/digits', *sizes, '--val-crops=20')
    zoo.write_ade(folder / 'data/ade/ADEChallengeData2016')
    return folder


@pytest.fixture(scope='session')
def run(digits):
    """Run a script or code where a framework is imported, and nothing of ours."""
    forks = {}

    def run(framework, script, *args, **kwargs):
        if framework not in forks:
            modules = [
                f'{framework}.apis',
                f'{framework}.datasets',
                'matplotlib.pyplot',
            ]
            # on a GPU the last digits of runs to compare may differ
            env = scripts.environment(**scripts.CPU, MPLBACKEND='Agg')
            forks[framework] = Forks(digits, modules, env)
        return forks[framework].run(script, *args, **kwargs)

    yield run
    for process in forks.values():
        process.close()


def only(paths):
    (path,) = paths
    return path


@pytest.fixture(scope='session')
def trainings(digits, run):
    """What was trained for an epoch, by framework: ours with our tool, or stock."""
    known = {}

    def train(framework, kind):
        folder = digits / framework
        trained = folder / kind
        if kind == 'ours':
            config = scripts.ROOT / f'configs/demo/{DEMOS[framework]}.py'
            tool = scripts.ROOT / 'tools/train.py'
            options = scripts.SHORT
        else:
            folder.mkdir(exist_ok=True)
            config = folder / 'stock.py'
            stock.write(framework, config)
            tool = scripts.installed(framework, 'train.py')
            options = ['--cfg-options', 'default_hooks.logger.interval=1']
        run(framework, tool, config, f'--work-dir={trained}', *options)
        return SimpleNamespace(
            framework=framework,
            is_ours=kind == 'ours',
            config=config,
            options=options,
            folder=folder,
            trained=trained,
            checkpoint=only(trained.glob('*_[12].pth')),
        )

    def get(framework, kind='ours'):
        if (framework, kind) not in known:
            known[framework, kind] = train(framework, kind)
        return known[framework, kind]

    return get


@pytest.fixture
def detector(trainings):
    return trainings('mmdet')


@pytest.fixture
def segmentor(trainings):
    return trainings('mmseg')


@pytest.fixture
def classifier(trainings):
    return trainings('mmpretrain')


@pytest.fixture
def same_training(run):
    """Train alike with a framework's script, and compare every digit."""

    def check(ours):
        path = scripts.installed(ours.framework, 'train.py')
        theirs = ours.folder / 'theirs'
        run(ours.framework, path, ours.config, f'--work-dir={theirs}', *scripts.SHORT)
        log = scripts.training_log(ours.trained)
        assert scripts.training_log(theirs) == log
        assert len(log) > 2
        return log

    return check


@pytest.fixture
def same_test(run):
    """Test a checkpoint with our tool and a framework's; the metrics of both."""

    def check(ours, *options, dump=False):
        installed = scripts.installed(ours.framework, 'test.py')
        tools = scripts.ROOT / 'tools/test.py', installed
        metrics = []
        for path, name in zip(tools, ('ours', 'theirs')):
            work_dir = ours.folder / f'test_{name}'
            args = [ours.config, ours.checkpoint, f'--work-dir={work_dir}']
            args += [f'--out={work_dir}.pkl'] if dump else []
            run(ours.framework, path, *args, *scripts.SHORT, *options)
            metrics.append(scripts.metrics_of(work_dir))
        assert metrics[0] == metrics[1]
        return metrics[0]

    return check
