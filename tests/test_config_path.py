"""Where the shipped configs are found; test_ecosystem inherits them from a wheel."""

import pytest
import zoo

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
