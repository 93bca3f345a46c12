"""mmseg's installed scripts on our configs and checkpoints."""

import pytest
import scripts

# One worker for all that share a training.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ecosystem')]


def test_train(segmentor, same_training):
    log = same_training(segmentor)
    assert 'aux.loss_ce' in log[0]
    assert 'mIoU' in log[-1]


def test_test(segmentor, same_test):
    logged = scripts.training_log(segmentor.trained)[-1]
    metrics = same_test(segmentor)
    assert metrics['mIoU'] > 0
    assert metrics == {name: logged[name] for name in metrics}
