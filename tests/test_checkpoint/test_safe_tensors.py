"""Checkpoints as .safetensors: written, read by every way, and refused if damaged."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import CheckpointLoader, load_checkpoint
from oracles import randomize
from safetensors.torch import load_file, save_file
from torch import nn

from mmmanikey.backbones import ManifoldKeyViT
from mmmanikey.checkpoint import (
    CheckpointError,
    PretrainedBackbone,
    atomic_save,
    publishable,
    read_checkpoint,
    safe_tensors,
)
from mmmanikey.checkpoint.files import refusing_unsafe

ARCH = dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=24)
META = dict(
    cfg='model = dict()', dataset_meta=dict(classes=['Katze', 'Hündin']), epoch=3
)


def make():
    return randomize(ManifoldKeyViT(ARCH, img_size=32, patch_size=8))


@pytest.fixture
def weights():
    return make().state_dict()


def assert_weights(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def test_a_checkpoint_comes_back(tmp_path, weights):
    path = atomic_save(dict(meta=META, state_dict=weights), tmp_path / 'w.safetensors')
    content = read_checkpoint(path)
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta'] == META
    assert_weights(content['state_dict'], weights)
    assert content['state_dict']._metadata == dict(weights._metadata)
    assert_weights(load_file(path), weights)  # as others read it
    assert os.listdir(tmp_path) == ['w.safetensors']


def test_a_plain_state_dict_stays_plain(tmp_path, weights):
    path = atomic_save(dict(weights), tmp_path / 'w.safetensors')
    assert_weights(read_checkpoint(path), weights)


def test_files_of_others(tmp_path, weights):
    save_file(weights, tmp_path / 'w.safetensors', dict(format='pt', author='someone'))
    assert_weights(read_checkpoint(tmp_path / 'w.safetensors'), weights)


def test_views_ties_and_every_dtype(tmp_path):
    storage = torch.arange(12.0)
    weights = dict(
        view=storage[:6].view(2, 3).t(),
        tied=storage,
        again=storage,
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 2),
        parameter=nn.Parameter(torch.ones(2)),
        half=torch.ones(2).half(),
        brain=torch.ones(2).bfloat16(),
        mask=torch.tensor([True, False]),
    )
    path = atomic_save(dict(state_dict=weights), tmp_path / 'w.safetensors')
    read = read_checkpoint(path)
    for name, value in weights.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name


def test_what_the_format_does_not_know(tmp_path):
    for value in (torch.ones(2, dtype=torch.complex128), torch.ones(2).to_sparse()):
        with pytest.raises(ValueError, match=r'\.safetensors has no place'):
            atomic_save(dict(a=value), tmp_path / 'w.safetensors')
    assert not os.listdir(tmp_path)


def test_the_same_again_in_another_process(tmp_path, weights):
    """Python and the library both order what they hash by the process."""
    content = publishable(dict(meta=META, state_dict=weights), 'w')
    path = atomic_save(content, tmp_path / 'w.safetensors', add_hash=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'w-{digest[:8]}.safetensors'
    code = (  # of the one file, for the time that the package takes to be imported
        'import runpy, sys; functions = runpy.run_path(sys.argv[1]); '
        'content = functions["read_safetensors"](sys.argv[2]); '
        'open(sys.argv[3], "wb").write(functions["to_safetensors"](content))'
    )
    for seed in '01':
        again = tmp_path / seed
        subprocess.run(
            [sys.executable, '-c', code, safe_tensors.__file__, path, again],
            env={**os.environ, 'PYTHONHASHSEED': seed},
            check=True,
        )
        assert hashlib.sha256(again.read_bytes()).hexdigest() == digest


def test_loads_into_a_backbone(tmp_path, weights):
    content = dict(state_dict={f'backbone.{n}': v for n, v in weights.items()})
    path = atomic_save(content, tmp_path / 'w.safetensors')
    backbone = ManifoldKeyViT(
        ARCH,
        img_size=32,
        patch_size=8,
        init_cfg=dict(type='mmmanikey.PretrainedBackbone', checkpoint=str(path)),
    )
    backbone.init_weights()
    assert_weights(backbone.state_dict(), weights)


@pytest.mark.parametrize('trusting', [False, True])
def test_by_mmengine(tmp_path, weights, trusting):
    """``load_from`` of a training, the test tool, and frameworks' own tools."""
    path = str(atomic_save(dict(state_dict=weights), tmp_path / 'w.safetensors'))
    model = make()
    if trusting:
        with refusing_unsafe(path):
            load_checkpoint(model, path, map_location='cpu')
    else:
        load_checkpoint(model, path, map_location='cpu')
    assert_weights(model.state_dict(), weights)


def header(text, data=b''):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, 'little') + text + data


TENSOR = dict(a=dict(dtype='F32', shape=[1], data_offsets=[0, 4]))
DAMAGED = {
    'empty': b'',
    'text': b'these are not the weights you are looking for',
    'no JSON': header(b'{"a": '),
    'a pickle': b'\x80\x02}q\x00.',
    'a huge header': (1 << 60).to_bytes(8, 'little') + b'{}',
    'without data': header(TENSOR),
    'too much data': header(TENSOR, bytes(8)),
    'entry no JSON': header(dict(TENSOR, __metadata__=dict(checkpoint='{')), bytes(4)),
    'entry of another form': header(
        dict(TENSOR, __metadata__=dict(checkpoint='3')), bytes(4)
    ),
}


@pytest.mark.parametrize('kind', DAMAGED)
def test_damaged_files(tmp_path, kind):
    path = tmp_path / 'x.safetensors'
    path.write_bytes(DAMAGED[kind])
    message = r'x.safetensors is no safetensors file, or a damaged one'
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match=message) as info:
            read(str(path))
        assert '\n' not in str(info.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'not found: .*gone.safetensors'):
        read_checkpoint(tmp_path / 'gone.safetensors')
    (tmp_path / 'x.safetensors').mkdir()
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(tmp_path / 'x.safetensors')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The bytes of a file, and a place for its parts."""
    folder = tmp_path_factory.mktemp('whole')
    path = atomic_save(
        dict(meta=META, state_dict=make().state_dict()), folder / 'w.safetensors'
    )
    return path.read_bytes(), folder / 'part.safetensors'


@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_at_any_byte(whole, share):
    content, path = whole
    path.write_bytes(content[: int(share * len(content))])
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='is no safetensors file, or a damaged'):
        PretrainedBackbone(str(path)).load(model)
    assert_weights(model.state_dict(), before)
