"""The configs in docs/visualization.md load, and build what they promise."""

import re
from pathlib import Path

import mmengine.visualization
import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, VISUALIZERS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/visualization.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)


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


def test_all_are_tested():
    assert len(SNIPPETS) == 5
