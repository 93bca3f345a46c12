"""Checkpoint files: what is read, what is refused, and files written whole or not."""

import hashlib
import os
import pickle
import re
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmmanikey.checkpoint import CheckpointError, atomic_save, files, read_checkpoint
from mmmanikey.checkpoint.files import TRUST, refusing_unsafe

WEIGHTS = {'a.weight': torch.arange(6.0).view(2, 3), 'a.bias': torch.ones(3)}


@pytest.fixture(autouse=True, scope='module', params=['allow-list', 'older torch'])
def reader(request):
    """The two ways of reading: by torch's list of what is allowed, and without one."""
    if request.param == 'allow-list' and not files.HAS_ALLOW_LIST:
        pytest.skip('torch has an allow-list since 2.5')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'HAS_ALLOW_LIST', request.param == 'allow-list')
        yield


class Burglar:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def save(path, content=WEIGHTS):
    torch.save(content, path)
    return str(path)


def assert_weights(content):
    assert content.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(content[name], value)


def test_a_trainings_checkpoint_is_read_without_its_classes(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(
        state_dict=WEIGHTS,
        message_hub=dict(log_scalars=dict(loss=log)),
        meta=dict(seed=np.int64(3), best=np.float32(0.5), palette=np.eye(2)),
    )
    path = save(tmp_path / 'epoch_1.pth', content)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read = read_checkpoint(path)
    assert_weights(read['state_dict'])
    assert (read['meta']['seed'], read['meta']['best']) == (3, 0.5)
    assert np.array_equal(read['meta']['palette'], np.eye(2))
    log = read['message_hub']['log_scalars']['loss']
    assert not isinstance(log, HistoryBuffer)
    assert np.array_equal(log._log_history, [1.0, 2.0])


def test_frameworks_read_a_trainings_checkpoint_in_the_same_way(tmp_path):
    """mmengine's loaders would allow getattr, and the logs' own class."""
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    path = save(tmp_path / 'epoch_1.pth', dict(state_dict=WEIGHTS, log=log))
    with refusing_unsafe(path):
        read = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    assert_weights(read['state_dict'])
    assert not isinstance(read['log'], HistoryBuffer)
    path = save(tmp_path / 'x.pth', dict(WEIGHTS, extra=Burglar(tmp_path / 'in')))
    with pytest.raises(CheckpointError, match='x.pth holds'), refusing_unsafe(path):
        CheckpointLoader.load_checkpoint(path, map_location='cpu')
    assert not (tmp_path / 'in').exists()


@pytest.mark.parametrize('value', [np.str_('a'), np.array(['a', None])])
def test_what_is_not_allowed_of_numpy_is_named(tmp_path, value):
    """It was said to be a damage."""
    if not files.HAS_ALLOW_LIST:
        pytest.skip('the restricted unpickler reads it')
    path = save(tmp_path / 'x.pth', dict(state_dict=WEIGHTS, meta=value))
    with pytest.raises(CheckpointError, match=r'x.pth holds numpy\.\S+DType, .* set'):
        read_checkpoint(path)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_runs_only_where_the_user_trusts_the_file(tmp_path, monkeypatch, legacy):
    folder = tmp_path / 'broken_in'
    path = str(tmp_path / 'x.pth')
    torch.save(
        dict(WEIGHTS, extra=Burglar(folder)),
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(CheckpointError, match=f'x.pth holds .*mkdir.* set {TRUST}=1'):
        read_checkpoint(path)
    assert not folder.exists()
    monkeypatch.setenv(TRUST, '1')
    assert read_checkpoint(path)['a.bias'].sum() == 3
    assert folder.exists()


def test_getattr_is_none(tmp_path):
    """By getattr a pickle could reach anything from what it may name."""
    path = tmp_path / 'x.pth'
    content = (
        b'\x80\x02c__builtin__\ngetattr\ncnumpy\nndarray\nX\x04\x00\x00\x00dump\x86R.'
    )
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', content)
        archive.writestr('archive/version', '3\n')
    assert read_checkpoint(path) is None


FOREIGN = {
    'empty': b'',
    'text': b'these are not the weights you are looking for',
    'png': b'\x89PNG\r\n\x1a\n' + bytes(100),
    'pickle': pickle.dumps({'a': [1, 2]}),
    'zeros': bytes(5000),
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_foreign_files(tmp_path, kind):
    path = tmp_path / 'x.pth'
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(CheckpointError, match=r'x.pth is no checkpoint') as info:
        read_checkpoint(path)
    assert '\n' not in str(info.value)


def test_zip_of_something_else_and_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    with pytest.raises(CheckpointError, match=r'x.pth is no checkpoint'):
        read_checkpoint(tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'not found: .*gone.pth'):
        read_checkpoint(tmp_path / 'gone.pth')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The bytes of one checkpoint in both of torch's formats, and a place for parts."""
    folder = tmp_path_factory.mktemp('whole')
    save(folder / 'new.pth')
    torch.save(WEIGHTS, folder / 'old.pth', _use_new_zipfile_serialization=False)
    return [(folder / f'{name}.pth').read_bytes() for name in ('new', 'old')], folder


@given(share=st.floats(0, 1, exclude_max=True), version=st.sampled_from([0, 1]))
def test_truncated_at_any_byte(whole, share, version):
    contents, folder = whole
    path = folder / 'part.pth'
    path.write_bytes(contents[version][: int(share * len(contents[version]))])
    # a name cut in the middle is none of the allowed ones
    message = r'part.pth (is no checkpoint|holds \S+, which could run code)'
    with pytest.raises(CheckpointError, match=message) as info:
        read_checkpoint(path)
    assert '\n' not in str(info.value)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder served over HTTP, its address, and the paths asked for."""
    (tmp_path / 'served').mkdir()
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / 'served')

        def log_request(self, code='-', size='-'):
            asked.append(self.path)

        def log_message(self, *args):
            pass

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield tmp_path / 'served', f'http://127.0.0.1:{httpd.server_port}', asked
        httpd.shutdown()


def test_url_is_downloaded_once(server):
    folder, address, asked = server
    save(folder / 'w.pth')
    for _ in range(2):
        assert_weights(read_checkpoint(f'{address}/w.pth'))
    assert asked == ['/w.pth']
    assert os.path.isfile(os.path.join(torch.hub.get_dir(), 'checkpoints/w.pth'))


def test_code_behind_a_url_does_not_run_either(server, tmp_path):
    folder, address, _ = server
    save(folder / 'x.pth', dict(WEIGHTS, extra=Burglar(tmp_path / 'broken_in')))
    for _ in range(2):  # also from the cache
        with pytest.raises(CheckpointError, match='could run code'):
            read_checkpoint(f'{address}/x.pth')
    assert not (tmp_path / 'broken_in').exists()


def test_url_that_fails(server):
    folder, address, _ = server
    (folder / 'cut.pth').write_bytes(b'PK\x03\x04 and no more')
    with pytest.raises(CheckpointError, match=r'none.pth: HTTP Error 404'):
        read_checkpoint(f'{address}/none.pth')
    cache = re.escape(os.path.join(torch.hub.get_dir(), 'checkpoints', 'cut.pth'))
    with pytest.raises(CheckpointError, match=f'damaged: remove {cache}'):
        read_checkpoint(f'{address}/cut.pth?download=1')


def test_safetensors_behind_urls_of_one_name(server):
    """On hubs every model's file is called model.safetensors."""
    folder, address, asked = server
    others = {name: value + 1 for name, value in WEIGHTS.items()}
    for user, weights in (('a', WEIGHTS), ('b', others)):
        atomic_save(dict(weights), folder / user / 'model.safetensors')
    for _ in range(2):
        assert_weights(read_checkpoint(f'{address}/a/model.safetensors'))
        read = read_checkpoint(f'{address}/b/model.safetensors?download=true')
        assert torch.equal(read['a.bias'], others['a.bias'])
    assert asked == ['/a/model.safetensors', '/b/model.safetensors?download=true']
    by_mmengine = CheckpointLoader.load_checkpoint(f'{address}/a/model.safetensors')
    assert_weights(by_mmengine)


def test_damaged_safetensors_behind_a_url(server):
    folder, address, _ = server
    whole = atomic_save(dict(WEIGHTS), folder / 'w.safetensors').read_bytes()
    (folder / 'w.safetensors').write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r'none.safetensors: HTTP Error 404'):
        read_checkpoint(f'{address}/none.safetensors')
    url = f'{address}/w.safetensors'
    with pytest.raises(CheckpointError, match='no safetensors file, or its') as info:
        read_checkpoint(url)
    os.unlink(re.search(r'remove (\S+) to repeat', str(info.value))[1])
    (folder / 'w.safetensors').write_bytes(whole)
    assert_weights(read_checkpoint(url))


def test_unknown_zoo_name():
    with pytest.raises(CheckpointError, match=r'cannot load open-mmlab://no_such'):
        read_checkpoint('open-mmlab://no_such')


def test_saving_fails_without_a_trace(tmp_path):
    path = tmp_path / 'w.pth'
    atomic_save(WEIGHTS, path)
    with pytest.raises(AttributeError):
        atomic_save(dict(WEIGHTS, f=lambda: 0), path)
    assert_weights(torch.load(path, weights_only=True))
    assert os.listdir(tmp_path) == ['w.pth']


def test_hash_in_the_name(tmp_path):
    path = atomic_save(WEIGHTS, tmp_path / 'new/w.pth', add_hash=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.hub.HASH_REGEX.search(path.name)[1] == digest[:8]
    assert os.listdir(path.parent) == [path.name]
