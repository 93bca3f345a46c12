"""The frameworks' inferencers, given a config's path and a checkpoint.

Each runs in a process of its own that imports nothing of ours: the config does, or
none is wanted where it is a stock one. It predicts what the model's own test step
predicts of the same image.
"""

import pytest

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
dataset = DATASETS.build(cfg.test_dataloader.dataset)
data = dataset[len(dataset) - 1]
if 'data_preprocessor' in cfg:  # as mmengine's Runner does
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
model = MODELS.build(cfg.model).eval()
load_checkpoint(model, checkpoint, map_location='cpu')
(expected,) = model.test_step({collate}([data]))
found = infer(data['data_samples'].img_path, return_datasamples=True){take}
print()  # after a progress bar
for name in {names}:
    value, other = (operator.attrgetter(name)(s) for s in (expected, found))
    print('same' if value.equal(other) else 'differs', name, tuple(value.shape))
"""


@pytest.mark.parametrize('kind', ['ours', 'stock'])
@pytest.mark.parametrize(
    ('framework', 'how', 'shapes'),
    [
        (
            'mmdet',
            ('mmdet.apis', 'DetInferencer', 'pseudo_collate', "['predictions'][0]"),
            {
                'pred_instances.bboxes': (20, 4),
                'pred_instances.scores': (20,),
                'pred_instances.masks': (20, 128, 128),
            },
        ),
        (
            'mmpretrain',
            ('mmpretrain', 'ImageClassificationInferencer', 'default_collate', '[0]'),
            {'pred_score': (10,), 'pred_label': (1,)},
        ),
        (
            'mmseg',
            ('mmseg.apis', 'MMSegInferencer', 'pseudo_collate', ''),
            {'seg_logits.data': (11, 128, 128), 'pred_sem_seg.data': (1, 128, 128)},
        ),
    ],
    ids=['detection', 'classification', 'segmentation'],
)
def test_inferencer(trainings, run, framework, how, shapes, kind):
    trained = trainings(framework, kind)
    if (framework, kind) == ('mmseg', 'stock'):  # the classes and image of ADE20K's
        shapes = {name: (shape[0], 64, 80) for name, shape in shapes.items()}
        shapes['seg_logits.data'] = (150, 64, 80)
    keys = ('module', 'inferencer', 'collate', 'take')
    code = CODE.format(**dict(zip(keys, how)), names=list(shapes))
    lines = run(framework, code, trained.config, trained.checkpoint).stdout.splitlines()
    found = [line for line in lines if line.startswith(('same ', 'differs '))]
    assert found == [f'same {name} {shape}' for name, shape in shapes.items()]
