"""Mistakes on the command line end in one sentence, before anything is built."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmmanikey.engine import cli, running

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / 'configs/demo/mask_rcnn_swin_nano_spatialk.py'


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a tool in this process; give back its exit status, stderr and Runner config.

    The Runner is replaced: its config shows what would have been built.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name, *args):
        built = []
        monkeypatch.setattr(
            Runner, 'from_cfg', lambda cfg: built.append(cfg) or FakeRunner(cfg)
        )
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        status = 0
        try:
            cli.tool(load_tool(name).main)
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err, built[0] if built else None

    return run


class FakeRunner:
    train_dataloader = val_dataloader = test_dataloader = SimpleNamespace(dataset=None)

    def __init__(self, cfg):
        self.cfg = cfg

    def train(self):
        pass

    def test(self):
        pass


@pytest.fixture
def config(tmp_path):
    """A small config whose files all exist."""
    (tmp_path / 'data/images').mkdir(parents=True)
    (tmp_path / 'data/ann.json').write_text('{}')
    (tmp_path / 'start.pth').write_text('')
    path = tmp_path / 'tiny.py'
    path.write_text(
        "model = dict(type='Model', backbone=dict(\n"
        "    init_cfg=dict(type='Pretrained', checkpoint='start.pth')))\n"
        "dataset = dict(type='Some', data_root='data', ann_file='ann.json',\n"
        "    data_prefix=dict(img='images/'))\n"
        'train_dataloader = dict(dataset=dict(type="Repeat", dataset=dataset))\n'
        'val_dataloader = test_dataloader = dict(dataset=dataset)\n'
        "val_evaluator = test_evaluator = dict(ann_file='data/ann.json')\n"
        "optim_wrapper = dict(type='OptimWrapper')\n"
        "default_scope = 'mmdet'\n"
        "default_hooks = dict(visualization=dict(type='DetVisualizationHook'))\n"
    )
    return path


def assert_one_sentence(result, *parts):
    status, stderr, built = result
    assert status == 2
    assert built is None
    assert stderr.startswith('error: ')
    assert stderr.count('\n') == 1
    for part in parts:
        assert part in stderr


def test_config_is_handed_to_the_runner(run, config):
    status, _, cfg = run('train', config, '--cfg-options', 'seed=3', 'model.type=Other')
    assert status == 0
    assert cfg.work_dir == './work_dirs/tiny'
    assert (cfg.seed, cfg.model.type, cfg.launcher) == (3, 'Other', 'none')
    assert run('train', config, '--work-dir', 'here')[2].work_dir == 'here'
    assert run('train', config, '--cfg-options', 'work_dir=o')[2].work_dir == 'o'


def test_unknown_config_suggests_close_names(run, config):
    wrong = config.with_name('tinny.py')
    assert_one_sentence(run('train', wrong), 'tinny.py', 'did you mean', 'tiny.py')
    wrong = 'configs/mask_rcnn_swin_nano_spatial.py'
    assert_one_sentence(run('train', wrong), 'mask_rcnn_swin_nano_spatialk.py')
    assert_one_sentence(run('test', 'qqqq.py', 'x.pth'), "'qqqq.py' does not exist\n")


@pytest.mark.parametrize(
    'text',
    [
        'model = dict(',
        '_base_ = "missing.py"',
        'x = 1 / 0',
        'raise ValueError("a\\nb")',
    ],
)
def test_unreadable_config(run, config, text):
    config.write_text(text)
    assert_one_sentence(run('train', config), 'cannot read config', 'tiny.py')


def test_failing_custom_import(run, config):
    config.write_text("custom_imports = dict(imports=['no_such_module'])")
    assert_one_sentence(run('train', config), 'no_such_module')


@pytest.mark.parametrize('option', ['novalue', 'a=[1,2', 'model.type.name=3'])
def test_malformed_options(run, config, option):
    assert_one_sentence(run('train', config, '--cfg-options', option))


@pytest.mark.parametrize(
    ('missing', 'phase'),
    [
        ('data/ann.json', 'train_dataloader.dataset'),
        ('data/images', 'train_dataloader.dataset'),
        ('data', 'train_dataloader.dataset'),
    ],
)
def test_missing_data_of_a_wrapped_dataset(run, config, missing, phase):
    Path(missing).rename('elsewhere')
    assert_one_sentence(run('train', config), missing, phase)


def test_missing_data_of_val_test_and_metrics(run, config):
    option = 'val_dataloader.dataset.ann_file=no.json'
    result = run('train', config, '--cfg-options', option)
    assert_one_sentence(result, 'data/no.json', 'val_dataloader')
    option = 'test_evaluator.ann_file=no.json'
    result = run('test', config, 'start.pth', '--cfg-options', option)
    assert_one_sentence(result, "'no.json'", 'test_evaluator')
    assert run('train', config, '--cfg-options', option)[0] == 0


def test_missing_demo_data_names_the_command(run):
    option = 'model.backbone.init_cfg=None'
    result = run('train', DETECTOR, '--cfg-options', option)
    assert_one_sentence(result, 'data/digits', 'tools/data/make_digits.py')


def test_remote_and_downloaded_data_are_not_looked_for():
    remote = dict(type='X', data_root='s3://bucket/', ann_file='a.json')
    assert list(cli.dataset_paths(remote)) == []
    assert (
        list(cli.dataset_paths(dict(type='mmpretrain.CIFAR10', data_root='no'))) == []
    )
    several = dict(datasets=[dict(data_root='a'), dict(data_root='b', data_prefix='c')])
    assert list(cli.dataset_paths(several)) == ['a', 'b', 'b/c']


def test_missing_pretrained_backbone(run, config):
    Path('start.pth').unlink()
    assert_one_sentence(
        run('train', config),
        'start.pth',
        '--cfg-options model.backbone.init_cfg.checkpoint=FILE',
        '--cfg-options model.backbone.init_cfg=None',
    )
    status, _, cfg = run(
        'train', config, '--cfg-options', 'model.backbone.init_cfg=None'
    )
    assert status == 0
    assert cfg.model.backbone.init_cfg is None
    url = 'model.backbone.init_cfg.checkpoint=https://host/start.pth'
    assert run('train', config, '--cfg-options', url)[0] == 0


def test_resuming_needs_no_pretrained_backbone(run, config):
    Path('start.pth').unlink()
    assert_one_sentence(run('train', config, '--resume'), 'start.pth')  # nothing yet
    folder = Path('work_dirs/tiny')
    folder.mkdir(parents=True)
    (folder / 'epoch_1.pth').write_text('')
    (folder / 'last_checkpoint').write_text('/moved/from/epoch_1.pth')
    status, _, cfg = run('train', config, '--resume')
    assert status == 0
    assert cfg.resume is True
    assert cfg.load_from == 'work_dirs/tiny/epoch_1.pth'
    assert cfg.model.backbone.init_cfg is None
    status, _, cfg = run('train', config, '--resume', folder / 'epoch_1.pth')
    assert (status, cfg.load_from) == (0, 'work_dirs/tiny/epoch_1.pth')
    assert_one_sentence(run('train', config, '--resume', 'no.pth'), 'no.pth')


def test_folders_are_resumed_where_they_are_written(run, config):
    """FSDP's sharded state dicts and DeepSpeed's checkpoints are folders."""
    folder = Path('work_dirs/tiny')
    (folder / 'epoch_1.pth').mkdir(parents=True)
    (folder / 'last_checkpoint').write_text('/moved/from/epoch_1.pth')
    last = str(folder / 'epoch_1.pth')
    sharded = ['--cfg-options', 'strategy.type=DeepSpeedStrategy']
    for resume in (['--resume'], ['--resume', last]):
        assert_one_sentence(run('train', config, *resume), last, 'is a folder')
        status, _, cfg = run('train', config, *resume, *sharded)
        assert (status, cfg.load_from, cfg.resume) == (0, last, True)
    assert_one_sentence(run('test', config, last), last, 'is a folder')
    assert run('test', config, last, *sharded)[2].load_from == last


def test_resuming_drops_pretrained_as_mmseg_spells_it(run, config):
    Path('work_dirs/tiny').mkdir(parents=True)
    options = ['model.pretrained=gone.pth', 'model.backbone.pretrained=gone.pth']
    cfg = run('train', config, '--resume', 'start.pth', '--cfg-options', *options)[2]
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.pretrained is None


def test_a_work_dir_that_is_a_file(run, config):
    for folder in ('start.pth', 'start.pth/below'):
        result = run('train', config, '--work-dir', folder)
        assert_one_sentence(result, f'work dir {folder!r}')


def test_a_config_without_data(run, config):
    result = run('train', config, '--cfg-options', 'train_dataloader=None')
    assert_one_sentence(result, 'the config has no train_dataloader')
    result = run('test', config, 'start.pth', '--cfg-options', 'test_dataloader=None')
    assert_one_sentence(result, 'the config has no test_dataloader')


def test_a_folder_is_no_config(run, config):
    assert_one_sentence(run('train', 'data'), "config 'data' is a folder")


def test_resume_without_a_checkpoint_starts_anew(run, config):
    cfg = run('train', config, '--resume')[2]
    assert cfg.resume is False
    assert cfg.load_from is None
    assert cfg.model.backbone.init_cfg.checkpoint == 'start.pth'


def test_resume_without_a_checkpoint_starts_from_the_weights_of_the_config(run, config):
    """And goes on from the last checkpoint as soon as there is one."""
    Path('coco.pth').write_text('')
    load = ['--cfg-options', 'load_from=coco.pth']
    cfg = run('train', config, '--resume', *load)[2]
    assert (cfg.resume, cfg.load_from) == (False, 'coco.pth')
    Path('work_dirs/tiny/epoch_1.pth').write_text('')
    Path('work_dirs/tiny/last_checkpoint').write_text('epoch_1.pth')
    cfg = run('train', config, '--resume', *load)[2]
    assert (cfg.resume, cfg.load_from) == (True, 'work_dirs/tiny/epoch_1.pth')


def test_safetensors_start_a_training_and_resume_none(run, config):
    Path('model.safetensors').write_text('')
    result = run('train', config, '--resume', 'model.safetensors')
    assert_one_sentence(result, 'no state of a training', 'load_from=model.safetensors')
    options = 'load_from=model.safetensors'
    status, _, cfg = run('train', config, '--cfg-options', options)
    assert (status, cfg.load_from) == (0, 'model.safetensors')
    result = run('test', config, 'modl.safetensors')
    assert_one_sentence(result, 'did you mean model.safetensors')


def test_testing_needs_the_checkpoint_only(run, config):
    Path('start.pth').rename('epoch_3.pth')
    result = run('test', config, 'epoch_4.pth')
    assert_one_sentence(result, 'epoch_4.pth', 'did you mean epoch_3.pth')
    status, _, cfg = run('test', config, 'epoch_3.pth')
    assert (status, cfg.load_from, cfg.resume) == (0, 'epoch_3.pth', False)
    assert cfg.model.backbone.init_cfg is None


def test_out_must_be_a_pickle(run, config):
    assert_one_sentence(run('test', config, 'start.pth', '--out', 'x.json'), 'x.json')


def test_amp_and_auto_scale_lr(run, config, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    assert_one_sentence(run('train', config, '--amp'), '--amp needs a GPU')
    remedy = 'optim_wrapper.type=OptimWrapper'
    result = run('train', config, '--cfg-options', 'optim_wrapper.type=AmpOptimWrapper')
    assert_one_sentence(result, 'AmpOptimWrapper needs a GPU', remedy)
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    cfg = run('train', config, '--amp')[2]
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert_one_sentence(run('train', config, '--auto-scale-lr'), 'base_batch_size')
    option = 'auto_scale_lr.base_batch_size=16'
    cfg = run('train', config, '--auto-scale-lr', '--cfg-options', option)[2]
    assert cfg.auto_scale_lr.enable is True


@pytest.mark.parametrize(
    ('hook', 'expected'),
    [
        ('DetVisualizationHook', dict(draw=True, test_out_dir='{cwd}/pics')),
        ('mmpretrain.VisualizationHook', dict(enable=True, out_dir='{cwd}/pics')),
        ('SegVisualizationHook', dict(draw=True)),
    ],
)
def test_show_dir_reaches_each_framework(run, config, hook, expected):
    args = ['--show-dir', 'pics', '--cfg-options']
    args += [f'default_hooks.visualization.type={hook}', 'visualizer.type=Visualizer']
    cfg = run('test', config, 'start.pth', *args)[2]
    for name, value in expected.items():
        value = value.format(cwd=os.getcwd()) if isinstance(value, str) else value
        assert cfg.default_hooks.visualization[name] == value
    if hook == 'SegVisualizationHook':
        assert cfg.visualizer.save_dir == f'{os.getcwd()}/pics'
    args = ['--show-dir', 'pics', '--cfg-options', 'default_hooks.visualization=None']
    assert_one_sentence(run('test', config, 'start.pth', *args), 'visualization hook')


def test_runner_type_is_built_from_the_registry(config, monkeypatch):
    built = []
    monkeypatch.setattr(running.RUNNERS, 'build', built.append)
    cfg = Config(dict(runner_type='FlexibleRunner', launcher='none'))
    running.build_runner(cfg)
    assert built == [cfg]


@pytest.mark.xdist_group('fork')
def test_the_script_itself_prints_no_traceback(tmp_path, fork):
    result = fork(tmp_path, ROOT / 'tools/train.py', 'no.py', check=False)
    assert result.returncode == 2
    assert result.stdout == "error: config 'no.py' does not exist\n"


@pytest.mark.parametrize(
    'name', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test']
)
def test_launchers_say_how_they_are_used(name):
    result = subprocess.run(
        [ROOT / f'tools/{name}.sh', 'one'], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ')
    assert f'{name}.sh' in result.stderr


@pytest.mark.parametrize('name', ['slurm_train', 'slurm_test'])
def test_slurm_hands_over_its_arguments(name, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    env |= {'GPUS': '4', 'SRUN_ARGS': '--time 10', 'PYTHON': 'my python'}
    words = subprocess.run(
        [ROOT / f'tools/{name}.sh', 'part', 'job', 'a b.py', 'target', '--x', 'y z'],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = (
        '--partition part --job-name job --gres gpu:4 --ntasks 4 --ntasks-per-node 4 '
        '--cpus-per-task 5 --kill-on-bad-exit=1 --time 10'
    )
    assert ' '.join(words[: words.index('my python')]) == expected
    tool = str(ROOT / f'tools/{name.removeprefix("slurm_")}.py')
    target = ['--work-dir', 'target'] if name == 'slurm_train' else ['target']
    assert words[words.index('my python') :] == (
        [
            'my python',
            '-u',
            tool,
            'a b.py',
            *target,
            '--launcher',
            'slurm',
            '--x',
            'y z',
        ]
    )


def test_loaders_of_mmpretrain_get_what_its_tools_add():
    own = dict(num_workers=0, pin_memory='mine')
    cfg = Config(dict(train_dataloader=dict(num_workers=2), val_dataloader=own))
    cli.add_mmpretrain_loader_defaults(cfg)
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.val_dataloader.persistent_workers is False
    assert cfg.val_dataloader.pin_memory == 'mine'
    assert 'test_dataloader' not in cfg
