"""What is kept of a checkpoint when it is published."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmmanikey import __version__
from mmmanikey.checkpoint import (
    CheckpointError,
    atomic_save,
    publishable,
    read_checkpoint,
)


def training_checkpoint():
    """As mmengine writes it; the weights are views into one storage."""
    storage = torch.arange(10_000.0)
    state_dict = OrderedDict(
        {'backbone.a': storage[:6].view(2, 3).t(), 'head.b': storage[6:8]}
    )
    state_dict._metadata = OrderedDict({'': dict(version=1), 'head': dict(version=3)})
    return dict(
        meta=dict(
            cfg='model = dict()',
            epoch=3,
            iter=np.int64(12),
            mmengine_version='0.10.12',
            dataset_meta=dict(classes=('cat', 'dog'), palette=np.zeros((2, 3), int)),
            hook_msgs=dict(last_ckpt='/home/someone/epoch_3.pth'),
        ),
        state_dict=state_dict,
        ema_state_dict={'module.backbone.a': torch.zeros(3, 2)},
        optimizer=dict(state={0: dict(exp_avg=torch.ones(5))}),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
    )


def publish(content, folder, **kwargs):
    source = atomic_save(content, folder / 'source.pth')
    content = publishable(read_checkpoint(source), str(source), **kwargs)
    return atomic_save(content, folder / 'out.pth', add_hash=True)


def test_plain_tensors_and_plain_words(tmp_path):
    path = publish(training_checkpoint(), tmp_path)
    assert path.stat().st_size < 10_000  # none of the 40 kB behind the views
    content = torch.load(path, weights_only=True)
    assert content.keys() == {'meta', 'state_dict'}
    expected = training_checkpoint()['state_dict']
    assert list(content['state_dict']) == list(expected)
    for name, value in content['state_dict'].items():
        assert torch.equal(value, expected[name])
        assert value.is_contiguous()
    assert content['state_dict']._metadata['head'] == dict(version=3)
    meta = content['meta']
    published_with = meta.pop('published_with')
    assert published_with['mmmanikey'] == __version__
    assert published_with.keys() == {'mmmanikey', 'mmengine', 'torch'}
    assert meta == dict(
        cfg='model = dict()',
        epoch=3,
        iter=12,
        mmengine_version='0.10.12',
        dataset_meta=dict(classes=['cat', 'dog'], palette=[[0] * 3] * 2),
    )


def test_what_has_no_plain_form_becomes_text(tmp_path):
    content = training_checkpoint()
    content['meta']['dataset_meta'] = dict(of=torch.float16, none=None)
    published = torch.load(publish(content, tmp_path), weights_only=True)
    assert published['meta']['dataset_meta'] == dict(of='torch.float16', none=None)


def test_the_same_again(tmp_path):
    first = publish(training_checkpoint(), tmp_path)
    written = first.read_bytes()
    assert publish(training_checkpoint(), tmp_path / 'again').name == first.name
    again = publish(torch.load(first, weights_only=True), tmp_path / 'twice')
    assert again.read_bytes() == written


def test_another_config(tmp_path):
    path = publish(training_checkpoint(), tmp_path, cfg='model = None')
    assert torch.load(path, weights_only=True)['meta']['cfg'] == 'model = None'


@pytest.mark.parametrize('wrapper', [None, 'model', 'state_dict'])
def test_bare_weights(tmp_path, wrapper):
    weights = nn.Linear(2, 3).state_dict()
    path = publish({wrapper: weights} if wrapper else weights, tmp_path)
    content = torch.load(path, weights_only=True)
    assert content['meta'].keys() == {'published_with'}
    for name, value in weights.items():
        assert torch.equal(content['state_dict'][name], value)


def test_what_is_not_finite_is_not_published(tmp_path):
    weights = {'a': torch.ones(3), 'b': torch.tensor([1.0, float('nan')])}
    with pytest.raises(CheckpointError, match=r'source.pth holds values in b that are'):
        publish(weights, tmp_path)
