"""Every shipped config: built, run forward and backward, and its data loaded.

Configs that are one network once it has fewer layers are built once.
"""

import ast
import copy
import json
import re

import pytest
import torch
import zoo
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmmanikey.engine.resume import resume_exactly

DETECTORS = [*zoo.DETECTION, *(n for n in zoo.TWO_LINES if '/' not in n)]
SEGMENTORS = [*zoo.SEGMENTATION, *(n for n in zoo.TWO_LINES if '/' in n)]
EVERY = [*zoo.ALL, *zoo.TWO_LINES]
#: Those of today predict as well.
TODAY = [n for n in EVERY if n in zoo.TWO_LINES or 'swin_l' in n or 'dinov2' in n]
DEMOS = sorted(f'demo/{path.stem}' for path in (zoo.CONFIGS / 'demo').glob('*.py'))


def small(name):
    """The model in a config, with fewer layers and without weights to load."""
    cfg = zoo.shallow(copy.deepcopy(zoo.read(name)))
    model = cfg.model
    model.backbone.pop('init_cfg', None)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model.data_preprocessor.pop('batch_augments', None)  # 1024 px is for GPUs
    if 'pad_size_divisor' in model.data_preprocessor:
        model.data_preprocessor.pad_size_divisor = 32
    zoo.fewer_regions(model)
    return model


def networks(names):
    """Configs with one model but for the rate of drop path, those of today first."""
    groups = {}
    for name in sorted(names, key=lambda name: name not in TODAY):
        model = small(name).to_dict()
        model['backbone'].pop('drop_path_rate', None)
        groups.setdefault(json.dumps(model, sort_keys=True), []).append(name)
    return [*groups.values()]


KINDS = dict(detectors=DETECTORS, classifiers=zoo.PRETRAINING, segmentors=SEGMENTORS)
NETWORKS = {kind: networks(names) for kind, names in KINDS.items()}


def each(kind):
    """The test is of one config for each network of this kind."""
    names = [first for first, *_ in NETWORKS[kind]]
    return pytest.mark.parametrize('name', names)


def build(name):
    """The model of a config, with fewer layers and without weights to load."""
    init_default_scope(zoo.read(name).default_scope)
    model = revert_sync_batchnorm(MODELS.build(small(name))).train()
    if hasattr(model, 'level_embed'):  # DINO's is uninitialised memory until then
        model.init_weights()
    return model


def check_gradients(model, batch):
    data = model.data_preprocessor(batch, training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@torch.no_grad()
def predict(model, batch):
    model.train(False)
    return model(**model.data_preprocessor(batch, training=False), mode='predict')


@pytest.mark.slow
@each('detectors')
def test_detector(name):
    from mmdet.testing import demo_mm_inputs

    detector = build(name)
    stuff = getattr(getattr(detector, 'panoptic_head', None), 'num_stuff_classes', 0)
    batch = demo_mm_inputs(
        1,
        [(3, 96, 128)],
        num_items=[3],
        num_classes=80 + stuff,
        with_mask=detector.with_mask or hasattr(detector, 'panoptic_head'),
        with_semantic=stuff > 0,
    )
    check_gradients(detector, copy.deepcopy(batch))
    if name in TODAY:
        (found,) = predict(detector, batch)
        assert ('pred_panoptic_seg' if stuff else 'pred_instances') in found


@pytest.mark.slow
@each('classifiers')
def test_classifier(name):
    from mmpretrain.structures import DataSample

    classifier = build(name)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    inputs = [torch.randint(0, 255, (3, 224, 224))] * 2
    check_gradients(classifier, dict(inputs=inputs, data_samples=samples))


@pytest.mark.slow
@each('segmentors')
def test_segmentor(name):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    segmentor = build(name)
    segmentor.data_preprocessor.size = (64, 64)
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 64))),
            metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)),
        )
        for _ in range(2)
    ]
    inputs = [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)] * 2
    batch = dict(inputs=inputs, data_samples=samples)
    check_gradients(segmentor, copy.deepcopy(batch))
    if name in TODAY:
        for found in predict(segmentor, batch):
            assert found.pred_sem_seg.data.shape == (1, 64, 64)


@pytest.fixture(scope='module')
def data_roots(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    zoo.write_coco(root / 'coco')
    zoo.write_imagenet(root / 'imagenet')
    zoo.write_ade(root / 'ade')
    return {
        'mmdet': f'{root}/coco/',
        'mmpretrain': f'{root}/imagenet',
        'mmseg': f'{root}/ade',
    }


def datasets(name, data_roots):
    """Train and val datasets of a config, at the tiny folders."""
    cfg = zoo.load(name)
    for loader in ('train_dataloader', 'val_dataloader'):
        outer = dataset = copy.deepcopy(cfg[loader].dataset)
        while 'dataset' in dataset:
            dataset = dataset.dataset
        dataset.data_root = data_roots[cfg.default_scope]
        yield loader, outer


# one config for each distinct pair of training and validation data
DATA = [
    'mask_rcnn_swin_t',
    'mask_rcnn_swin_t_3x',
    'cascade_mask_rcnn_swin_t_3x',
    'mask_rcnn_vit_b',
    'pretrain/swin_t_in1k',
    'segmentation/upernet_swin_t',
]


@pytest.mark.parametrize('name', DATA)
def test_data(name, data_roots):
    for loader, cfg in datasets(name, data_roots):
        dataset = DATASETS.build(cfg)
        sample = dataset[0]
        assert sample['inputs'].shape[0] == 3, loader
        assert sample['data_samples'] is not None, loader


def test_no_config_has_other_data():
    def content(name):
        cfg = zoo.read(name)
        loaders = (cfg.train_dataloader, cfg.val_dataloader)
        return json.dumps([loader.dataset.to_dict() for loader in loaders])

    tried = {content(name) for name in DATA}
    assert not [name for name in zoo.ALL if content(name) not in tried]


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_masks_of_tested_images_keep_their_size(name):
    """They are drawn on the image as it is, and compared with results of its size."""
    cfg = zoo.read(name)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        kinds = [step.type for step in loader.dataset.pipeline]
        if 'LoadAnnotations' in kinds and 'Resize' in kinds:
            assert kinds.index('Resize') < kinds.index('LoadAnnotations')


@pytest.mark.parametrize('name', [*zoo.SEGMENTATION, 'demo/upernet_swin_nano_spatialk'])
def test_variables_that_mmseg_reads_by_name(name):
    """Its apis and scripts do; the loaders and the model have the same."""
    cfg = zoo.read(name)
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline
    assert cfg.data_preprocessor == cfg.model.data_preprocessor
    assert cfg.tta_model.type == 'SegTTAModel'
    assert cfg.tta_pipeline[-1].type == 'TestTimeAug'


def test_no_variable_is_a_switch_of_the_runner():
    """mmengine's Runner takes a top-level ``sync_bn`` as the name of a conversion."""
    assert not [name for name in (*EVERY, *DEMOS) if 'sync_bn' in zoo.read(name)]


@pytest.mark.parametrize('name', [*EVERY, *DEMOS])
def test_resumes_exactly_whichever_tool_trains(name):
    """Our own tool has no hook to add."""
    cfg = zoo.load(name)
    resume_exactly(cfg)
    assert cfg.to_dict() == zoo.read(name).to_dict()


NAME = re.compile(
    r'((cascade_)?mask_rcnn|upernet|mask2former(_panoptic|_semantic)?|dino_5scale|rtmdet_l)?_?'
    r'(?P<family>swin|vit)_(?P<size>[tsbl])(?P<dinov2>_dinov2)?'
    r'(_(?P<key>vanillak|simplek|kua|spatialk))?(?P<variant>_cb)?'
    r'(?P<rest>_in1k|_3x|_warmstart)?'
)
KEYS = dict(vanillak='VanillaK', simplek='SimpleK', kua='KUA', spatialk='SpatialK')
SIZES = dict(t='tiny', s='small', b='base', l='large')


def size_of(backbone):
    """Its arch, by whichever arguments say it."""
    if 'arch' in backbone:
        return backbone.arch.removeprefix('deit-')
    sizes = backbone.embed_dims, sum(backbone.depths)
    named = {(96, 12): 'tiny', (96, 24): 'small', (128, 24): 'base', (192, 24): 'large'}
    return named[sizes]


@pytest.mark.parametrize('name', EVERY)
def test_names_say_what_is_inside(name):
    stem = name.rsplit('/')[-1]
    match = NAME.fullmatch(stem)
    assert match, f'{stem} does not follow <detector>_<arch>_<key>'
    backbone = zoo.load(name).model.backbone
    key = backbone.get('key')
    assert (key and key.type) == KEYS.get(match['key'])
    assert backbone.type.lower().endswith(match['family'])
    assert size_of(backbone) == SIZES[match['size']]
    assert (backbone.get('patch_size') == 14) == bool(match['dinov2'])
    assert bool((key or {}).get('residual')) == (match['rest'] == '_warmstart')
    assert bool(backbone.get('context_broadcasting')) == (match['variant'] == '_cb')


def test_each_config_is_of_one_network():
    """By name, one network is tiny or small, which is a depth, and of any schedule."""
    groups = [group for kind in NETWORKS.values() for group in kind]
    assert sorted(name for group in groups for name in group) == sorted(EVERY)
    for group in groups:
        alike = {re.sub('_s(?=_|$)', '_t', name).removesuffix('_3x') for name in group}
        assert len(alike) == 1


def split(name):
    """What a config says itself, and what it inherits."""
    path = zoo.CONFIGS / f'{name}.py'
    first, *rest = ast.parse(path.read_text()).body
    assert ast.unparse(first).startswith('_base_ = ')
    bases = eval(ast.unparse(first.value))  # it may ask a package for its path
    inherited = ConfigDict()
    for base in [bases] if isinstance(bases, str) else bases:
        file = path.parent / base
        if '::' in base:  # as mmengine finds another project's config
            file, _ = Config._get_cfg_path(base, str(path))
        inherited.update(Config.fromfile(file, import_custom_modules=False).to_dict())
    said = {'_base_': inherited}
    exec(compile(ast.Module(rest, []), path, 'exec'), said)
    return {k: v for k, v in said.items() if not k.startswith('_')}, inherited


def restated(said, inherited, at=''):
    """The entries that already have this value in what is inherited."""
    for name, value in said.items():
        place = f'{at}.{name}'.lstrip('.')
        if name not in inherited:
            continue
        if isinstance(value, dict) and isinstance(inherited[name], dict):
            if not value.get('_delete_'):
                yield from restated(value, inherited[name], place)
        elif value == inherited[name]:
            yield place


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_a_config_says_only_what_is_new(name):
    """In at most 8 lines; it names no file that follows from its arch and key."""
    text = (zoo.CONFIGS / f'{name}.py').read_text()
    lines = [line.strip() for line in text.splitlines()]
    code = [line for line in lines if line and not line.startswith('#')]
    assert len(code) <= 8
    assert 'work_dirs' not in text
    assert 'configs/' not in text
    said, inherited = split(name)
    assert not [*restated(said, inherited)]


def test_restated_entries_are_found():
    inherited = ConfigDict(model=dict(neck=dict(a=1, b=[2]), head=3), lr=4)
    said = dict(model=dict(neck=dict(a=1, b=[3]), head=3, new=5), lr=4)
    assert [*restated(said, inherited)] == ['model.neck.a', 'model.head', 'lr']
    said = dict(model=dict(neck=dict(_delete_=True, a=1)))
    assert not [*restated(said, inherited)]


def test_no_config_changes_only_the_number_of_charts():
    """That is one option, as docs/pretraining.md shows it."""
    seen = {}
    for name in zoo.ALL:
        content = zoo.read(name).to_dict()
        key = content['model']['backbone'].get('key')
        if key is not None:
            charts = key.pop('num_charts')
            rest = json.dumps(content, sort_keys=True)
            assert seen.setdefault(rest, charts) == charts
