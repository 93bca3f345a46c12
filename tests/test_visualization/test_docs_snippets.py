"""The examples in docs/visualization.md run, and build what they promise."""

import re
from pathlib import Path

import mmengine.visualization
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, VISUALIZERS, init_default_scope
from mmpretrain.models import ImageClassifier

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/visualization.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
SNIPPETS = [text for text in BLOCKS if '_base_' in text]


@pytest.mark.parametrize('number', range(len(SNIPPETS)))
def test_snippet(number, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(SNIPPETS[number].replace("'./", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    backends = cfg.visualizer.vis_backends
    assert all(hasattr(mmengine.visualization, backend.type) for backend in backends)
    if 'vis_backends' in SNIPPETS[number]:
        assert len(backends) == 2
    else:
        hook = cfg.default_hooks.visualization
        assert hook.get('draw') or hook.get('enable')
        VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=str(tmp_path)))
        assert HOOKS.build(hook).interval == hook.interval


def test_rollout():
    (text,) = (text for text in BLOCKS if text not in SNIPPETS)
    backbone = dict(
        type='mmmanikey.ManifoldKeyViT',
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        img_size=32,
        patch_size=4,
    )
    head = dict(type='VisionTransformerClsHead', num_classes=5, in_channels=8)
    model = ImageClassifier(backbone=backbone, head=head).eval()
    names = dict(model=model, image=torch.rand(1, 3, 32, 32))
    exec(text, names)
    assert names['where'].shape == (8, 8)


def test_all_are_tested():
    assert len(SNIPPETS) == 5
