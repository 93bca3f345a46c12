"""Training is compiled, and nothing else."""

from types import SimpleNamespace

import tiny
import torch

from studies.compiled import CompiledBackbone


def test_training_is_compiled_and_evaluation_is_not(monkeypatch):
    ran = []

    def compile_with(function, **options):
        assert options == dict(dynamic=False)
        return lambda x: (ran.append('compiled'), function(x))[1]

    monkeypatch.setattr(torch, 'compile', compile_with)
    backbone, x = tiny.vit(), torch.randn(2, 3, 32, 32)
    names = list(backbone.state_dict())
    before = backbone(x)[0]
    runner = SimpleNamespace(model=SimpleNamespace(backbone=backbone))
    CompiledBackbone().before_train(runner)
    assert torch.equal(backbone(x)[0], before)
    assert not ran
    backbone.train()
    backbone(x)
    assert ran == ['compiled']
    assert list(backbone.state_dict()) == names
