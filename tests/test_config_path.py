"""Where the shipped configs are found; test_ecosystem inherits them from a wheel."""

import pytest
import zoo
from mmengine.config import Config

import mmmanikey.registry  # noqa: F401  (what makes the prefix known)
from mmmanikey import config_path


@pytest.mark.parametrize('name', ['mask_rcnn_swin_t', 'segmentation/upernet_swin_t'])
def test_path_leads_to_the_config(name):
    assert config_path(f'{name}.py') == str(zoo.CONFIGS / f'{name}.py')


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('mask_rcnn_swin_t_spatial.py', 'mask_rcnn_swin_t_spatialk.py'),
        ('mask_rcnn_swin_t', 'mask_rcnn_swin_t.py'),
        ('pretrain', None),  # a folder
    ],
)
def test_missing_config(name, hint):
    with pytest.raises(FileNotFoundError) as error:
        config_path(name)
    end = f'; did you mean {hint!r}' if hint else '.'
    assert str(error.value).startswith(f'mmmanikey has no config {name!r}{end}')


def test_prefix_names_a_config_in_a_folder(tmp_path):
    """As a user's project does, with the package installed."""
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmmanikey::pretrain/vit_s_kua_in1k.py'\n")
    inherited, own = Config.fromfile(path), zoo.read('pretrain/vit_s_kua_in1k')
    assert inherited.model.backbone.type == 'mmmanikey.ManifoldKeyViT'
    assert inherited.model.backbone.key.type == 'KUA'
    assert inherited.train_dataloader == own.train_dataloader
    assert inherited.optim_wrapper == own.optim_wrapper
