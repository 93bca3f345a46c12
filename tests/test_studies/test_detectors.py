"""Question 6's runs, on a few scenes: trained, started and measured."""

import json
import subprocess
import sys

import pytest

from studies import one
from studies.arms import ROOT

#: ``studies.one`` for one epoch; the pretraining it starts from is not trained.
ONE = """
import sys
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from studies import jobs, one

jobs.RESULTS = Path('results')
jobs.best_key = lambda backbone: 'SpatialK'
job = jobs.Job(sys.argv[1], 'swin', 0)
cfg = jobs.config_of(job)
if job.pretraining:
    init_default_scope('mmpretrain')
    model = MODELS.build(jobs.config_of(job.pretraining).model)
    place = jobs.weights_of(job.pretraining)
    place.parent.mkdir(parents=True)
    torch.save(dict(state_dict=model.state_dict()), place)
cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
one.config_of = lambda job: cfg
one.run(job)
"""


@pytest.mark.slow
@pytest.mark.parametrize('arm', ['det-scratch', 'det-residual'])
def test_a_detector_trains(arm, fashion, fork, tmp_path):
    script = ROOT.parent / 'tools/data/make_garments.py'
    command = [sys.executable, script, '--source', fashion, '--out', 'data/garments']
    command += ['--train-images', '4', '--val-images', '2']
    subprocess.run(command, check=True, capture_output=True)
    log = fork(tmp_path, ONE, arm, OMP_NUM_THREADS='1').stdout
    assert ('start at zero: all 6' in log) == (arm == 'det-residual')
    result = json.loads((tmp_path / f'results/runs/swin-{arm}-seed0.json').read_text())
    assert set(result['metrics']) == {'bbox mAP', 'segm mAP'}
    assert result['step_seconds'] > 0


def test_detectors_are_not_shortened(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['one', 'det-best', 'swin', '0', '--shorter', '9'])
    with pytest.raises(SystemExit):
        one.main()
    assert '--shorter is for classifiers' in capsys.readouterr().err
