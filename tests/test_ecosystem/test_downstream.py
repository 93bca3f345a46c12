"""A project in a folder of its own, as docs/inherit.md has it, on an installed wheel.

The clone is not in sight of its processes. Its configs are the page's, inherited once
more for models and images small enough to train two iterations of each.
"""

import json
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pages
import pytest
import torch
import zoo
from forks import Forks
from scripts import environment
from wheels import build_wheel, copy_checkout, run

# One worker for all: they share the wheel and the project.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('downstream')]

NAMES = ('bolt', 'nut')

SMALL = """_base_ = './{name}.py'
sizes = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
model = dict(backbone=dict({sizes}, init_cfg=None), {rest})
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = train_dataloader
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, save_optimizer=False)
)
"""
#: In mmpretrain's spelling, and in mmseg's.
SIZES = 'arch=dict(_delete_=True, **sizes)', '**sizes'
SCALES = 'train_dataloader.dataset.pipeline.2', 'val_dataloader.dataset.pipeline.1'
DETECTION = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
SEGMENTATION = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
SEGMENTATION += ['train_dataloader.dataset.pipeline.3.crop_size=(64,64)']
SMALL_UPERNET = """data_preprocessor=dict(size=(64, 64)),
decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),
auxiliary_head=dict(in_channels=64, channels=16)"""

SPATIALK = {'scale', 'conv1.weight', 'conv1.bias', 'out.weight'}
WEIGHTEDK = {'scale', 'conv1.weight', 'conv1.bias', 'conv2.weight', 'logits'}
FOUR_LEVELS = """neck=dict(in_channels=[16, 32, 64, 128]),
roi_head=dict(bbox_head=dict(fc_out_channels=64))"""
THREE_LEVELS = 'neck=dict(in_channels=[32, 64, 128])'


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A clone of the repository inside the project, as a submodule would be."""
    project = tmp_path_factory.mktemp('project')
    (project / 'third_party').mkdir()
    return copy_checkout(project / 'third_party/mmmanikey')


@pytest.fixture(scope='module')
def site(clone, tmp_path_factory):
    """A folder with the package as a wheel, and nothing else."""
    folder = tmp_path_factory.mktemp('installed')
    wheel = build_wheel(clone, folder / 'wheel')
    options = ('--no-index', '--no-deps', '--target', folder / 'site')
    run('-m', 'pip', 'install', *options, wheel, cwd=folder)
    return folder / 'site'


def python_blocks(page):
    return [block.text for block in pages.blocks(page) if block.language == 'python']


@pytest.fixture(scope='module')
def project(clone):
    """The project that docs/inherit.md describes, with its data."""
    folder = clone.parent.parent
    (_, base, weighted, retinanet, upernet) = python_blocks('inherit.md')
    (parts,) = (b for b in python_blocks('getting_started.md') if '_base_ = ' in b)
    files = {
        'configs/parts.py': re.sub(r'_base_ = .*\n', base, parts),
        'parts/keys.py': python_blocks('extending.md')[0],
        'configs/weighted.py': weighted,
        'configs/retinanet.py': retinanet,
        'configs/upernet.py': upernet,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    zoo.write_coco(
        folder / 'data/parts', ('train', 'val'), annotations='{}.json', names=NAMES
    )
    zoo.write_coco(folder / 'data/coco')
    zoo.write_ade(folder / 'data/ade/ADEChallengeData2016')
    return folder


@pytest.fixture(scope='module')
def python(site, project):
    """Runs Python in the project with the wheel on its path, and the project itself."""
    env = environment(PYTHONPATH=os.pathsep.join(map(str, (site, project))))
    return lambda *command: run(*command, cwd=project, env=env)


@pytest.fixture(scope='module')
def script(site, project):
    """The same for a script, in a process that has imported the frameworks before."""
    env = environment(PYTHONPATH=os.pathsep.join(map(str, (site, project))))
    process = Forks(project, ['mmdet.apis', 'mmseg.apis'], env)
    yield process.run
    process.close()


def test_package_is_the_wheel(python, site):
    """So the tests below are about what is installed, and not about the clone."""
    code = 'import mmmanikey; print(mmmanikey.__file__, mmmanikey.CONFIGS)'
    for path in python('-c', code).split():
        assert Path(path).is_relative_to(site)


def test_ways_to_inherit_agree(python, project, site):
    """Those of the page's table, and all of them with the config's own bases."""
    name = 'mask_rcnn_swin_t_spatialk.py'
    _, base, *_ = python_blocks('inherit.md')
    page = (pages.ROOT / 'docs/inherit.md').read_text()
    relative = re.search(r"^\| `('\.\./.*\.py')` \|", page, re.MULTILINE)[1]
    (project / 'configs/by_helper.py').write_text(base)
    (project / 'configs/by_path.py').write_text(f'_base_ = {relative}')
    # Nothing of ours is imported before the first two are read.
    code = f"""
import json
from mmengine import Config
read = Config.fromfile
configs = [read('configs/by_helper.py'), read('configs/by_path.py')]
import mmmanikey
configs.append(read(mmmanikey.config_path({name!r})))
print(json.dumps([[cfg.to_dict(), cfg.text] for cfg in configs]))
"""
    helper, path, loaded = json.loads(python('-c', code).splitlines()[-1])
    assert helper[0]['model']['backbone']['key']['type'] == 'SpatialK'
    assert helper[0] == path[0] == loaded[0]
    for text, root in ((helper[1], site), (path[1], project), (loaded[1], site)):
        (read,) = re.findall(rf'^(/.*/{name})$', text, re.MULTILINE)
        assert Path(read).is_relative_to(root)


@pytest.mark.parametrize(
    ('name', 'tool', 'small', 'options', 'key', 'head', 'outputs'),
    [
        # Two classes and the background.
        ('parts', 'mmdet', FOUR_LEVELS, DETECTION, SPATIALK, 'fc_cls', 3),
        ('weighted', 'mmmanikey', FOUR_LEVELS, DETECTION, WEIGHTEDK, 'fc_cls', 3),
        # COCO's classes for nine anchors.
        ('retinanet', 'mmdet', THREE_LEVELS, DETECTION, SPATIALK, 'retina_cls', 720),
        # ADE20K's.
        ('upernet', 'mmseg', SMALL_UPERNET, SEGMENTATION, SPATIALK, 'conv_seg', 150),
    ],
    ids=['parts', 'weighted', 'retinanet', 'upernet'],
)
def test_two_iterations(
    project, site, script, name, tool, small, options, key, head, outputs
):
    """With the training script that comes with an installed package."""
    (project / f'configs/small_{name}.py').write_text(
        SMALL.format(name=name, rest=small, sizes=SIZES[name == 'upernet'])
    )
    package = (
        site / tool if tool == 'mmmanikey' else Path(find_spec(tool).origin).parent
    )
    script(
        package / '.mim/tools/train.py',
        f'configs/small_{name}.py',
        f'--work-dir=work_dirs/{name}',
        '--cfg-options',
        *(f'{place}.scale=(96,64)' for place in SCALES),
        *options,
    )
    folder = project / 'work_dirs' / name
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))

    (checkpoint,) = folder.glob('*_2.pth')
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    before = 'backbone.stages.0.blocks.0.attn.w_msa.key.'
    assert {n.removeprefix(before) for n in weights if n.startswith(before)} == key
    (biases,) = (
        weights[n]
        for n in weights
        if n.endswith(f'{head}.bias') and not n.startswith('auxiliary')
    )
    assert len(biases) == outputs
