"""A page of two tiny detectors, one with the linear key and one with SpatialK."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zoo
from oracles import randomize

from mmmanikey.engine.build import build_from
from mmmanikey.engine.cli import read_config
from mmmanikey.visualization.inputs import Model, load_model, read_image
from mmmanikey.visualization.page import objects
from mmmanikey.visualization.page.explore import Source, write_page

CONFIG = """
_base_ = {base!r}
# heads of random weights are sure of nothing
model = dict(
    backbone=dict({key}), test_cfg=dict(rcnn=dict(mask_thr_binary=0.01))
)
data_root = {data!r}
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
"""


class Explored(NamedTuple):
    page: Path
    data: dict
    models: list[Model]
    image: np.ndarray
    notes: list[str]


def write_model(folder, name, key):
    """A config and a checkpoint of random weights."""
    base = str(zoo.CONFIGS / 'demo/mask_rcnn_swin_nano_spatialk.py')
    text = CONFIG.format(base=base, key=key, data=f'{folder}/data/')
    (folder / f'{name}.py').write_text(text)
    model = build_from(read_config(str(folder / f'{name}.py')), whole=True)
    randomize(model.backbone, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return Source(str(folder / f'{name}.py'), str(folder / f'{name}.pth'))


def explore(folder):
    """Make the page, with detections of any score."""
    torch.manual_seed(0)
    zoo.write_coco(folder / 'data', ['val'], '{}.json', '0123456789')
    sources = [
        write_model(folder, 'linear', 'key=None'),
        write_model(folder, 'manifold', ''),
    ]
    path = folder / 'data/val/1.jpg'
    image = read_image(path)
    page = folder / 'page.html'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, 'MIN_SCORE', 0.0)
        patch.setattr(objects, 'MOST', 3)
        notes = write_page(sources, path, image, page)
    models = [load_model(*source) for source in sources]
    return Explored(page, read_data(page), models, image, notes)


def read_data(page):
    text = page.read_text(encoding='utf-8')
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start : text.index('</script>', start)])
