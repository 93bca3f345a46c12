"""The frameworks' inferencers, given a config's path and a checkpoint.

Each runs in a process of its own that imports nothing of ours: the config does. It
predicts what the model's own test step predicts of the same image.
"""

import sys

import pytest
import scripts

# One worker for all that share a training.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ecosystem')]

CODE = """
import operator
import sys
from {module} import {inferencer}
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

assert 'mmmanikey' not in sys.modules
config, checkpoint = sys.argv[1:]
infer = {inferencer}(config, checkpoint, device='cpu')

cfg = Config.fromfile(config)
init_default_scope(cfg.default_scope)
data = DATASETS.build(cfg.test_dataloader.dataset)[1]
model = MODELS.build(cfg.model).eval()
load_checkpoint(model, checkpoint, map_location='cpu')
(expected,) = model.test_step({collate}([data]))
found = infer(data['data_samples'].img_path, return_datasamples=True){take}
print()  # after a progress bar
for name in {names}:
    value, other = (operator.attrgetter(name)(s) for s in (expected, found))
    print('same' if value.equal(other) else 'differs', name, tuple(value.shape))
"""


def infer(digits, ours, module, inferencer, collate, take, *names):
    """Whether found and expected are the same, by name, and their shapes."""
    code = CODE.format(
        module=module, inferencer=inferencer, collate=collate, take=take, names=names
    )
    command = (sys.executable, '-c', code, ours.config, ours.checkpoint)
    lines = scripts.run(digits, *command, **scripts.CPU).stdout.splitlines()
    return [line for line in lines if line.startswith(('same ', 'differs '))]


def test_detection(digits, detector):
    how = ('mmdet.apis', 'DetInferencer', 'pseudo_collate', "['predictions'][0]")
    names = [f'pred_instances.{name}' for name in ('bboxes', 'scores', 'masks')]
    assert infer(digits, detector, *how, *names) == [
        'same pred_instances.bboxes (20, 4)',
        'same pred_instances.scores (20,)',
        'same pred_instances.masks (20, 128, 128)',
    ]


def test_classification(digits, classifier):
    how = ('mmpretrain', 'ImageClassificationInferencer', 'default_collate', '[0]')
    found = infer(digits, classifier, *how, 'pred_score', 'pred_label')
    assert found == ['same pred_score (10,)', 'same pred_label (1,)']


def test_segmentation(digits, segmentor):
    how = ('mmseg.apis', 'MMSegInferencer', 'pseudo_collate', '')
    names = ('seg_logits.data', 'pred_sem_seg.data')
    assert infer(digits, segmentor, *how, *names) == [
        'same seg_logits.data (11, 128, 128)',
        'same pred_sem_seg.data (1, 128, 128)',
    ]
