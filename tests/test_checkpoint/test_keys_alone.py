"""Inserted keys frozen, trained at a rate of their own, saved and loaded alone."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mmmanikey
from mmmanikey.checkpoint import CheckpointError, atomic_save

sys.path.append(str(Path(__file__).parents[1] / 'test_anywhere'))
import small  # noqa: E402

KEY = dict(type='VanillaK', num_charts=2, residual=True)
X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


def made(key=KEY, depth=2, **options):
    torch.manual_seed(4)
    model = small.Stack(depth=depth)
    if key is not None:
        mmmanikey.insert_keys(model, key, example=X, **options)
    return model


def trained():
    model = made()
    torch.manual_seed(5)
    for p in mmmanikey.key_parameters(model):
        nn.init.normal_(p, std=0.3)
    return model


def test_the_keys_are_what_the_state_dict_gains():
    stock, model = made(None), made()
    gained = set(model.state_dict()) - set(stock.state_dict())
    assert set(mmmanikey.key_state_dict(model)) == gained
    ids = {id(p) for n, p in model.named_parameters() if n in gained}
    assert {id(p) for p in mmmanikey.key_parameters(model)} == ids
    assert len(ids) == len(gained) == 8


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_file_of_only_the_keys(tmp_path, suffix):
    model = trained()
    path = atomic_save(mmmanikey.key_state_dict(model), tmp_path / f'keys{suffix}')
    whole = atomic_save(model.state_dict(), tmp_path / f'whole{suffix}')
    assert path.stat().st_size < whole.stat().st_size
    other = made()
    assert not torch.equal(other(X), model(X))
    mmmanikey.load_keys(other, path)
    assert torch.equal(other(X), model(X))
    mmmanikey.load_keys(other, str(path))


@pytest.mark.parametrize('suffix', ['', '.pth', '.safetensors'])
def test_keys_over_tokens_keep_their_window(tmp_path, suffix):
    """Six tokens of 2 x 3 are not those of 3 x 2."""
    key = dict(type='SpatialK', num_charts=2, residual=True)
    wide, tall, whole = (made(key, window=w) for w in [(2, 3), (3, 2), (3, 2)])
    for p in mmmanikey.key_parameters(wide):
        nn.init.normal_(p)
    whole.load_state_dict(wide.state_dict())
    keys = mmmanikey.key_state_dict(wide)
    if suffix:
        keys = atomic_save(keys, tmp_path / f'keys{suffix}')
    mmmanikey.load_keys(tall, keys)
    expected = whole.state_dict()
    for name, value in mmmanikey.key_state_dict(tall).items():
        assert torch.equal(value, expected[name]), name
    name = '0.qkv.key.conv1.weight'
    assert not torch.equal(expected[name], wide.state_dict()[name])


def test_a_file_around_the_keys(tmp_path):
    model, other = trained(), made()
    content = dict(state_dict=mmmanikey.key_state_dict(model), epoch=3)
    mmmanikey.load_keys(other, atomic_save(content, tmp_path / 'keys.pth'))
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize('wrap', [torch.compile, nn.DataParallel])
def test_a_wrapper_is_no_part_of_the_names(tmp_path, wrap):
    model, other = trained(), made()
    keys = mmmanikey.key_state_dict(wrap(model))
    assert list(keys) == list(mmmanikey.key_state_dict(model))
    path = atomic_save(keys, tmp_path / 'keys.pth')
    for target in (wrap(other), other):
        mmmanikey.load_keys(target, path)
        assert torch.equal(other(X), model(X))


def test_only_the_keys_learn():
    model = made()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    model.requires_grad_(False)
    for p in mmmanikey.key_parameters(model):
        p.requires_grad_()
    body = [p for p in model.parameters() if not p.requires_grad]
    groups = [dict(params=body), dict(params=mmmanikey.key_parameters(model), lr=1.0)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name]) == ('.key.' not in name)


OTHERS = (
    (lambda: made(depth=3), r'2.qkv.key.* is \(.*\), and here nothing'),
    (lambda: made(depth=1), r'1.qkv.key.* is nothing, and here \('),
    (
        lambda: made(dict(KEY, num_charts=3)),
        r'0.qkv.key.scale is \(3, 8\), and here \(2, 8\)',
    ),
    (lambda: made(dict(KEY, type='KUA')), r'0.qkv.key.* is \(16,\), and here nothing'),
)


@pytest.mark.parametrize(('build', 'message'), OTHERS)
def test_keys_of_another_model(build, message):
    model = trained()
    before = model(X)
    with pytest.raises(CheckpointError, match=message) as error:
        mmmanikey.load_keys(model, mmmanikey.key_state_dict(build()))
    assert '\n' not in str(error.value)
    assert torch.equal(model(X), before)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match='checkpoint not found: .*none.pth'):
        mmmanikey.load_keys(made(), tmp_path / 'none.pth')
    path = atomic_save([1], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='list.pth holds no state dict'):
        mmmanikey.load_keys(made(), path)
    path = tmp_path / 'text.pth'
    path.write_text('keys')
    with pytest.raises(CheckpointError, match='is no checkpoint of torch'):
        mmmanikey.load_keys(made(), path)


def test_models_without_keys():
    stock = made(None)
    assert mmmanikey.key_parameters(stock) == []
    assert mmmanikey.key_state_dict(stock) == {}
    with pytest.raises(CheckpointError, match='0.qkv.key.* is .*, and here nothing'):
        mmmanikey.load_keys(stock, mmmanikey.key_state_dict(made()))
