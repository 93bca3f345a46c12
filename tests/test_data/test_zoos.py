"""Every config of mmdet's, mmseg's and mmpretrain's zoos passes our checks.

Each gets data that fits it: files in COCO's formats where its dataset reads such, else
the classes that its dataset has, and the files and folders that are read. A config that
mmengine cannot read is no config of the zoo.
"""

import functools
import importlib
import json
from types import SimpleNamespace

import pytest
import scripts
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmmanikey.engine import cli
from mmmanikey.engine.data import flaw_in_config, flaw_in_dataset, leaf_configs
from mmmanikey.engine.levels import check_levels

PHASES = ('train', 'val', 'test')
#: Less than what the releases of 2023 to 2026 have.
CONFIGS = dict(mmdet=800, mmseg=600, mmpretrain=500)


def zoo(module):
    folder = scripts.installed(module, '').parent / 'configs'
    for path in sorted(folder.rglob('*.py')):
        if '_base_' not in path.parts:
            try:
                config = Config.fromfile(path, import_custom_modules=False)
            except Exception:  # a few name bases that are not there
                continue
            yield str(path.relative_to(folder)), config


def write(path, classes, panoptic):
    """An image of 640x480 with an object or a segment of every class."""
    categories = [dict(id=3 * i, name=n, isthing=1) for i, n in enumerate(classes)]
    found = [
        dict(id=i, category_id=category['id'], bbox=[9, 9, 30, 30], area=900, iscrowd=0)
        for i, category in enumerate(categories)
    ]
    if panoptic:
        found = [dict(image_id=7, file_name='7.png', segments_info=found)]
    else:
        polygon = [9, 9, 39, 9, 39, 39]
        found = [{**f, 'image_id': 7, 'segmentation': [polygon]} for f in found]
    image = dict(id=7, file_name='7.jpg', width=640, height=480)
    content = dict(images=[image], annotations=found, categories=categories)
    path.write_text(json.dumps(content))


class FittingData:
    """The datasets of configs, on data that fits them."""

    def __init__(self, folder):
        self.folder = folder
        (folder / '7.jpg').touch()
        self.built = {}

    def flaw(self, dataset, phase, model):
        """What our checks find."""
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(dataset['type'])
        if not hasattr(cls, '_load_metainfo'):
            return None  # datasets of texts have no classes
        metainfo = cls._load_metainfo(dataset.get('metainfo'))
        classes = metainfo.get('classes')
        if classes and hasattr(cls, 'COCOAPI') and 'LVIS' not in cls.__name__:
            built, found = self.coco(dataset, phase, tuple(classes))
        else:
            built, found = SimpleNamespace(metainfo=metainfo), None
        return found or flaw_in_dataset(built, model if phase == 'train' else {})

    def coco(self, dataset, phase, classes):
        """A dataset in one of COCO's formats, and what its file's flaw is."""
        masks = any(step.get('with_mask') for step in dataset.get('pipeline') or [])
        filters = dataset.get('filter_cfg')
        key = repr((dataset['type'], classes, filters, masks, phase))
        if key not in self.built:
            path = self.folder / f'{len(self.built)}.json'
            write(path, classes, 'Panoptic' in dataset['type'])
            place = dict(data_root=None, data_prefix=dict(img=str(self.folder)))
            leaf = {**dataset, **place, 'ann_file': str(path)}
            found = flaw_in_config({f'{phase}_dataloader': dict(dataset=leaf)}, phase)
            self.built[key] = DATASETS.build({**leaf, 'pipeline': []}), found
        return self.built[key]


@functools.cache
def make(path, is_folder):
    if is_folder:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def put_files(folder, dataset):
    """What a dataset reads: label maps only if a step asks for them."""
    root = folder / (dataset.get('data_root') or '')
    make(root, True)
    if isinstance(dataset.get('ann_file'), str):
        make(root / dataset['ann_file'], dataset['ann_file'].endswith('/'))
    prefix = dataset.get('data_prefix') or {}
    steps = repr(dataset.get('pipeline'))
    for name, value in ({'': prefix} if isinstance(prefix, str) else prefix).items():
        # mmdet's instance segmentation inherits the folder from panoptic configs
        read = name != 'seg' or "'with_seg': True" in steps or 'Panoptic' in steps
        if value and read:
            make(root / value, True)


@pytest.mark.slow
@pytest.mark.parametrize('module', CONFIGS)
def test_no_config_of_the_zoo_is_refused(module, tmp_path, monkeypatch):
    importlib.import_module(f'{module}.datasets')
    monkeypatch.chdir(tmp_path)
    init_default_scope(module)
    data = FittingData(tmp_path)
    refused, seen = {}, 0
    for name, config in zoo(module):
        seen += 1
        model = config.get('model') or {}
        try:
            check_levels(model)
            for phase in PHASES:
                loader = config.get(f'{phase}_dataloader') or {}
                for dataset in leaf_configs(loader.get('dataset') or {}):
                    if not dataset:
                        continue
                    put_files(tmp_path, dataset)
                    if flaw := data.flaw(dataset, phase, model):
                        raise ValueError(flaw)
                evaluators = config.get(f'{phase}_evaluator') or []
                for metric in (
                    [evaluators] if isinstance(evaluators, dict) else evaluators
                ):
                    if metric.get('ann_file'):
                        make(tmp_path / metric['ann_file'], False)
            # without data of a phase a config serves the others alone
            if has_data := [p for p in PHASES if config.get(f'{p}_dataloader')]:
                cli.check_data(config, *has_data)
        except (ValueError, cli.UsageError) as error:
            refused[name] = str(error)
    assert refused == {}
    assert seen >= CONFIGS[module]
