"""OpenMMLab's launcher, ``mim``, on an editable install of the package."""

import sys
from pathlib import Path

import pytest
import scripts
from wheels import copy_checkout

# One worker for all that share a training.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ecosystem')]


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """An environment over this one, in which the package is installed by pip."""
    folder = tmp_path_factory.mktemp('mim')
    checkout = copy_checkout(folder / 'checkout')
    scripts.run(folder, sys.executable, '-m', 'venv', '--without-pip', 'venv')
    (packages,) = (folder / 'venv').glob('lib/python*/site-packages')
    paths = [path for path in sys.path if path.endswith('site-packages')]
    # mmengine imports distutils, which is setuptools' since Python 3.12
    shims = [s for path in paths for s in Path(path).glob('distutils-precedence.pth')]
    lines = [*paths, *(shim.read_text() for shim in shims)]
    (packages / 'this_environment.pth').write_text('\n'.join(lines))
    python = folder / 'venv/bin/python'
    options = ['--no-index', '--no-deps', '--no-build-isolation', '--ignore-installed']
    command = [python, '-m', 'pip', 'install', *options, '--editable', checkout]
    scripts.run(folder, *command, PYTHONPATH='')
    return python


def test_train_and_test(python, classifier, digits):
    """The same training as with our tools, and the same test of it."""
    config = python.parents[2] / 'checkout/configs/demo' / classifier.config.name

    def mim(command, *args):
        full = [python, '-m', 'mim', command, 'mmmanikey', config, '--yes', *args]
        scripts.run(digits, *full, *scripts.SHORT, **scripts.CPU, PYTHONPATH='')

    mim('train', '--work-dir=mim')
    log = scripts.training_log(classifier.trained)
    assert scripts.training_log(digits / 'mim') == log
    mim('test', '--work-dir=mim_test', '--checkpoint', digits / 'mim/epoch_1.pth')
    metrics = scripts.metrics_of(digits / 'mim_test')
    assert metrics == {'accuracy/top1': log[-1]['accuracy/top1']}
