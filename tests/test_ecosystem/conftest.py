"""One small set of digits, and a short training with our tool in each framework."""

from types import SimpleNamespace

import pytest
import scripts

CONFIGS = scripts.ROOT / 'configs/demo'


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A folder with digits in all layouts, in which everything runs."""
    folder = tmp_path_factory.mktemp('ecosystem')
    sizes = ['--train-images=8', '--val-images=4', '--train-crops=32']
    tool = scripts.ROOT / 'tools/data/make_digits.py'
    scripts.script(folder, tool, '--out', 'data/digits', *sizes, '--val-crops=20')
    return folder


def train(folder, config):
    """Train with our tool; what the other scripts are compared with."""
    name = config.partition('_')[0]
    path = CONFIGS / f'{config}.py'
    tool = scripts.ROOT / 'tools/train.py'
    args = [f'--work-dir={name}/ours', *scripts.SHORT]
    scripts.script(folder, tool, path, *args, **scripts.CPU)
    trained = folder / name / 'ours'
    return SimpleNamespace(
        config=path,
        folder=folder / name,
        trained=trained,
        checkpoint=trained / 'epoch_1.pth',
    )


@pytest.fixture(scope='session')
def detector(digits):
    return train(digits, 'mask_rcnn_swin_nano_spatialk')


@pytest.fixture(scope='session')
def classifier(digits):
    return train(digits, 'pretrain_swin_nano_spatialk')


@pytest.fixture(scope='session')
def segmentor(digits):
    return train(digits, 'upernet_swin_nano_spatialk')


@pytest.fixture
def same_training(digits):
    """Train alike with a framework's script, and compare every digit."""

    def check(ours, module):
        path = scripts.installed(module, 'train.py')
        theirs = ours.folder / 'theirs'
        args = [ours.config, f'--work-dir={theirs}', *scripts.SHORT]
        scripts.script(digits, path, *args, **scripts.CPU)
        log = scripts.training_log(ours.trained)
        assert scripts.training_log(theirs) == log
        assert len(log) > 2
        return log

    return check


@pytest.fixture
def same_test(digits):
    """Test a checkpoint with our tool and a framework's; the metrics of both."""

    def check(ours, module, *options, dump=False):
        tools = scripts.ROOT / 'tools/test.py', scripts.installed(module, 'test.py')
        metrics = []
        for path, name in zip(tools, ('ours', 'theirs')):
            work_dir = ours.folder / f'test_{name}'
            args = [ours.config, ours.checkpoint, f'--work-dir={work_dir}']
            args += [f'--out={work_dir}.pkl'] if dump else []
            args += [*scripts.SHORT, *options]
            scripts.script(digits, path, *args, **scripts.CPU)
            metrics.append(scripts.metrics_of(work_dir))
        assert metrics[0] == metrics[1]
        return metrics[0]

    return check
