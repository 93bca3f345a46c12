"""What a file may lack of a residual key: all of its parameters, or nothing."""

import logging

import pytest
import tiny
import torch
from mmengine.logging import MMLogger
from oracles import STRATEGIES
from torch import nn

from mmmanikey.checkpoint import CheckpointError, PretrainedBackbone
from mmmanikey.keys import SimpleK

MAKERS = {'swin': tiny.swin, 'vit': tiny.vit}


class NormedK(SimpleK):
    """A user's key, with a layer that other keys do not have."""

    def __init__(self, embed_dims, num_charts=8):
        super().__init__(embed_dims, num_charts)
        self.norm = nn.LayerNorm(embed_dims)

    def charts(self, x, hw_shape=None):
        return super().charts(self.norm(x), hw_shape)


def config(strategy, residual=True):
    key = dict(type=strategy, num_charts=2, residual=residual)
    return dict(key, window_size=4) if strategy == 'SpatialK' else key


def save(folder, weights):
    torch.save(dict(state_dict=weights), folder / 'w.pth')
    return PretrainedBackbone(str(folder / 'w.pth'))


def key_names(model):
    return [name for name in model.state_dict() if '.key.' in name]


def assert_refused(start, model, *parts):
    """With one sentence, which has these parts; and the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as info:
        start.load(model)
    sentence = str(info.value).partition('\n')[0]
    for part in parts:
        assert part in sentence
    assert 'allow_missing' not in sentence
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('strategy', [*STRATEGIES, NormedK])
@pytest.mark.parametrize('family', MAKERS)
def test_all_or_nothing(family, strategy, tmp_path):
    make = MAKERS[family]
    source = make(config(strategy))
    weights, keys = source.state_dict(), key_names(source)

    target = make(config(strategy))
    coverage = save(tmp_path, weights).load(target)
    assert not coverage.starting_keys()
    assert 'start at zero' not in str(coverage)
    for name, value in weights.items():
        assert torch.equal(target.state_dict()[name], value), name

    target = make(config(strategy))
    start = {name: target.state_dict()[name].clone() for name in keys}
    stock = {name: value for name, value in weights.items() if name not in keys}
    coverage = save(tmp_path, stock).load(target)
    assert coverage.missing == keys
    number = len({name.partition('.key.')[0] for name in keys})
    assert f'not in the file start at zero: all {number}\n' in str(coverage)
    for name, value in {**stock, **start}.items():
        assert torch.equal(target.state_dict()[name], value), name

    for lost in [name for name in keys if name.startswith(keys[0][:20])]:
        some = {name: value for name, value in weights.items() if name != lost}
        key, _, parameter = lost.partition('.key.')
        assert_refused(
            save(tmp_path, some),
            make(config(strategy)),
            f'a part of 1 residual keys, where it must hold all or nothing of each, '
            f'such as {key}.key without {parameter} (missing)',
        )


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('family', MAKERS)
def test_of_another_key_nothing_may_be_missing(family, strategy, tmp_path):
    make, key = MAKERS[family], config(strategy, residual=False)
    source = make(key)
    lost = {name.partition('.key.')[0] for name in key_names(source)}
    for layer in lost:
        weights = {
            name: value
            for name, value in source.state_dict().items()
            if not name.startswith(f'{layer}.key.')
        }
        words = f'lacks or misshapes .* such as {layer}.key.scale (missing)'
        assert_refused(save(tmp_path, weights), make(key), *words.split('.*'))


def test_each_layer_for_itself(tmp_path):
    """Lists may mix, and the log says which keys the file has not."""
    first, second = config('VanillaK'), config('SimpleK', residual=False)
    source = tiny.vit([None, second])
    target = tiny.vit([first, second])
    attention = [layer.attn for layer in target.layers]
    assert [hasattr(each, 'qkv') for each in attention] == [True, False]
    assert [each.key.residual for each in attention] == [True, False]
    coverage = save(tmp_path, source.state_dict()).load(target)
    assert {name[:14] for name in coverage.missing} == {'layers.0.attn.'}
    assert coverage.starting_keys() == ['layers.0.attn.key']

    target = tiny.vit(config('VanillaK'))
    source = tiny.vit([None, first])
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    save(tmp_path, source.state_dict())(target)
    logger.removeHandler(handler)
    words = 'residual keys that are not in the file start at zero: layers.0.attn.key\n'
    assert words in messages[-1]


def test_a_key_of_another_width_or_kind(tmp_path):
    """These are parts as well; the remedy is the key of the file."""
    source = tiny.vit(dict(config('VanillaK'), hidden_ratio=2.0))
    refused = 'layers.0.attn.key without conv1.weight ((32, 8, 1) in the file, (16, 8,'
    start = save(tmp_path, source.state_dict())
    assert_refused(start, tiny.vit(config('VanillaK')), refused)
    start = save(tmp_path, tiny.vit(config('KUA')).state_dict())
    assert_refused(
        start,
        tiny.vit(config('SimpleK')),
        'a part of 2 residual keys',
        'such as layers.0.attn.key without out.weight (missing);',
        "ask for key=dict(type='KUA', num_charts=2, residual=True)",
    )


@pytest.mark.parametrize('groups', [('key',), ['norms', 'key']])
def test_the_old_permission(groups):
    """Said when the backbone is built, before any data is read."""
    start = dict(
        type='mmmanikey.PretrainedBackbone', checkpoint='x', allow_missing=groups
    )
    with pytest.raises(ValueError, match=r"no longer .*'key'.* residual=True in its"):
        tiny.vit(config('KUA'), init_cfg=start)
    del start['allow_missing']
    tiny.vit(config('KUA'), init_cfg=start)
