"""Errors of a training become one sentence, in the process that meets them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS, MODELS
from mmpretrain.datasets import CustomDataset

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.engine import cli, launch
from mmmanikey.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmmanikey.engine.running import checked_data

SGD = dict(type='SGD', lr=0.1)


def of_no_data():
    return SimpleNamespace(cfg=Config(dict()))


def wrong_images():
    arch = dict(embed_dims=8, depths=[1], num_heads=[2])
    ManifoldKeySwin(arch, out_indices=(0,))(torch.rand(1, 4, 32, 32))


def wrong_decay(**paramwise_cfg):
    LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(SGD, weight_decay=0.0)), paramwise_cfg
    )


@pytest.mark.parametrize(
    ('train', 'told'),
    [
        (wrong_images, r'ValueError: the backbone takes images \(B, 3, H, W\)'),
        (lambda: wrong_decay(layer_decay_rate=2), 'ValueError: layer_decay_rate must'),
        (
            lambda: LayerDecayOptimWrapperConstructor(dict(optimizer=SGD)),
            'ValueError: layer-wise decay wants the weight_decay',
        ),
        (
            lambda: Path('no/such.txt').read_text(),
            "cannot open 'no/such.txt': No such file",
        ),
    ],
    ids=['images', 'rate', 'decay', 'file'],
)
def test_what_a_user_can_help(train, told):
    with pytest.raises(cli.UsageError, match=told), checked_data(of_no_data(), 'train'):
        train()


def test_a_mistake_of_ours_keeps_its_traceback():
    """Nobody raised it: it says nothing without its line."""
    with pytest.raises(TypeError), checked_data(of_no_data(), 'train'):
        LayerDecayOptimWrapperConstructor(3)


def test_an_empty_image_in_a_folder_of_a_class(tmp_path):
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one/empty.png').write_text('')
    dataset = CustomDataset(
        data_root=str(tmp_path), pipeline=[dict(type='LoadImageFromFile')]
    )
    runner = SimpleNamespace(
        cfg=Config(dict(train_dataloader=dict(batch_size=1))),
        train_dataloader=SimpleNamespace(dataset=dataset),
    )
    with (
        pytest.raises(cli.UsageError, match=r"cannot read '.*empty.png': it is empty"),
        checked_data(runner, 'train'),
    ):
        dataset[0]


def test_the_process_that_meets_an_error_tells_it(monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1')

    def train():
        with checked_data(of_no_data(), 'train'):
            Path('no/such.txt').read_text()

    def start():
        raise cli.UsageError('all processes see this')

    for main in (train, start):
        with pytest.raises(SystemExit):
            cli.tool(main)
    message = "error: cannot open 'no/such.txt': No such file or directory\n"
    assert capsys.readouterr().err == message


def test_distributed_models_with_sync_bn_train_on_a_cpu(monkeypatch):
    """PyTorch's own refuses to be wrapped there; mmseg's configs have it."""
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setitem(MODELS._module_dict, 'SyncBN', MODELS.get('SyncBN'))
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', WORLD_SIZE='1')
    for name, value in dict(place, RANK='0', LOCAL_RANK='0').items():
        monkeypatch.setenv(name, value)
    cfg = Config(dict(launcher='pytorch'))
    launch.prepare_launch(cfg)
    try:
        module = ConvModule(3, 4, 1, norm_cfg=dict(type='SyncBN'))
        wrapper = {**cfg.model_wrapper_cfg, 'type': MMDistributedDataParallel}
        MODEL_WRAPPERS.build({**wrapper, 'module': module})(torch.rand(2, 3, 8, 8))
    finally:
        torch.distributed.destroy_process_group()
