"""MMEngine's Python-style configs: types are classes, and ``default_scope`` is None.

As they are written, and as MMEngine dumps them, with long names for the classes.
"""

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
from loading import load_tool
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmmanikey.engine.build import build_from, is_detector
from mmmanikey.keys import VanillaK

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
BACKBONE = """
from torch.nn import ReLU

from mmmanikey.backbones import ManifoldKeySwin
from mmmanikey.keys import VanillaK

default_scope = None
backbone = dict(
    type=ManifoldKeySwin,
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[2, 4]),
    key=dict(type=VanillaK, num_charts=2, act_cfg=dict(type=ReLU)),
    out_indices=(0, 1),
    window_size=4,
)
"""
#: Of what heads build by name, mmengine's own registry has nothing.
MODELS = dict(
    detector="""
from mmdet.models import FPN, RPN, RPNHead

head = dict(type=RPNHead, in_channels=8, feat_channels=8)
neck = dict(type=FPN, in_channels=[8, 16], out_channels=8, num_outs=5)
model = dict(type=RPN, backbone=backbone, neck=neck, rpn_head=head)
model.update(train_cfg=None, test_cfg=dict(rpn=dict(nms_pre=9)))
""",
    classifier="""
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead

head = dict(type=LinearClsHead, num_classes=10, in_channels=16)
neck = dict(type=GlobalAveragePooling)
model = dict(type=ImageClassifier, backbone=backbone, neck=neck, head=head)
""",
)


@pytest.fixture(autouse=True)
def no_scope(monkeypatch):
    """As in a new process: none is left of another config."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(params=['written', 'dumped'])
def path(request, kind, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(BACKBONE + MODELS[kind])
    if request.param == 'dumped':
        Config.fromfile(path).dump(path)
        assert "'mmmanikey.keys.VanillaK'" in path.read_text()
    return path


def test_the_whole_model_is_built(path):
    model = build_from(Config.fromfile(path), whole=True)
    key = model.backbone.stages[0].blocks[0].attn.w_msa.key
    assert type(key) is VanillaK
    assert type(key.act).__name__ == 'ReLU'


def test_a_detector_is_known_as_one(path, kind):
    assert is_detector(Config.fromfile(path)) == (kind == 'detector')


def test_complexity_counts_the_whole_model(path, monkeypatch, capsys):
    tool = load_tool(TOOLS / 'analysis/complexity.py')
    monkeypatch.setattr('sys.argv', ['', str(path), '--shape', '32', '32'])
    tool.main()
    assert '| heads |' in capsys.readouterr().out


def test_predictions_of_detectors_are_written_as_mmdet_does(path, kind):
    metrics = []
    evaluator = SimpleNamespace(metrics=metrics)
    runner = SimpleNamespace(cfg=Config.fromfile(path), test_evaluator=evaluator)
    load_tool(TOOLS / 'test.py').dump_predictions(runner, 'predictions.pkl')
    name = 'DumpDetResults' if kind == 'detector' else 'DumpResults'
    assert [type(metric).__name__ for metric in metrics] == [name]
