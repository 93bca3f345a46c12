"""The version check that every import of the package makes."""

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

import mmmanikey
from mmmanikey import SUPPORTED, check_versions

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg', 'torch')


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a module before the installed one; importing it is an error."""

    def install_module(module, version_py):
        package = tmp_path / module
        package.mkdir()
        (package / '__init__.py').write_text('raise AssertionError("imported")')
        (package / 'version.py').write_text(version_py)
        monkeypatch.delitem(sys.modules, module, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return install_module


@pytest.fixture
def hide(monkeypatch):
    """Makes a module look as if it were not installed."""
    find_spec = util.find_spec

    def hide_module(hidden):
        monkeypatch.setattr(
            util, 'find_spec', lambda name: None if name == hidden else find_spec(name)
        )

    return hide_module


def test_import_is_light():
    code = f'import sys, mmmanikey; print([m for m in {HEAVY} if m in sys.modules])'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == '[]'


def test_installed_stack_is_supported():
    check_versions()


@pytest.mark.parametrize(
    ('module', 'version'),
    [
        ('mmengine', '0.10.0'),
        ('mmengine', '0.10.12'),
        ('mmcv', '2.0.1'),
        ('mmcv', '2.1.0'),
        ('mmcv', '2.3.6+cu130'),
        ('mmdet', '3.2.0'),
        ('mmdet', '3.5.1'),
        ('mmpretrain', '1.1.0'),
        ('mmpretrain', '1.3.6'),
    ],
)
def test_supported(install, module, version):
    install(module, f'__version__ = {version!r}')
    check_versions()


@pytest.mark.parametrize(
    ('module', 'version'),
    [
        ('mmengine', '0.9.1'),
        ('mmengine', '1.0.0'),
        ('mmcv', '2.0.0'),
        ('mmcv', '2.5.0'),
        ('mmcv', '2.5.0rc1'),
        ('mmdet', '3.1.0'),
        ('mmdet', '4.0.0'),
        ('mmpretrain', '1.0.2'),
        ('mmpretrain', '2.0.0'),
    ],
)
def test_unsupported(install, module, version):
    install(module, f'__version__ = {version!r}')
    with pytest.raises(ImportError) as error:
        check_versions()
    message = str(error.value)
    assert f'needs {module}{SUPPORTED[module]}, but found {version}:' in message
    assert 'pip install' in message


def test_version_from_metadata(install, tmp_path):
    """The maintained distributions ask their own metadata for the version."""
    install(
        'mmpretrain',
        'from importlib.metadata import version\n'
        "__version__ = version('onedl-mmpretrain')",
    )
    dist_info = tmp_path / 'onedl_mmpretrain-0.9.0.dist-info'
    dist_info.mkdir()
    (dist_info / 'METADATA').write_text('Name: onedl-mmpretrain\nVersion: 0.9.0\n')
    (dist_info / 'top_level.txt').write_text('mmpretrain\n')
    with pytest.raises(ImportError, match=r'found 0\.9\.0: .*onedl-mmpretrain>=1\.1'):
        check_versions()


def test_command_names_the_installed_distribution(install, tmp_path):
    """Whoever has upstream's mmcv is told to install that, not a second one over it."""
    install('mmcv', "__version__ = '1.7.2'")
    dist_info = tmp_path / 'mmcv_full-1.7.2.dist-info'
    dist_info.mkdir()
    (dist_info / 'METADATA').write_text('Name: mmcv-full\nVersion: 1.7.2\n')
    (dist_info / 'top_level.txt').write_text('mmcv\n')
    with pytest.raises(ImportError, match='"mmcv-full>=2.0.1,<2.5"'):
        check_versions()


@pytest.mark.parametrize('module', ['mmengine', 'mmcv', 'mmpretrain'])
def test_missing(hide, module):
    hide(module)
    with pytest.raises(ImportError, match=f'{module}.*none installed.*pip install'):
        check_versions()


def test_mmdet_is_optional(hide):
    hide('mmdet')
    check_versions()


def test_version_is_a_release():
    assert mmmanikey.__version__.count('.') == 2


@pytest.mark.slow
def test_transformers_5_stands_beside(tmp_path):
    """mmpretrain's multimodal models ask it for names that it no longer has."""
    (tmp_path / 'transformers').mkdir()
    (tmp_path / 'transformers/__init__.py').write_text('__version__ = "5.24.0"')
    dist_info = tmp_path / 'transformers-5.24.0.dist-info'
    dist_info.mkdir()
    (dist_info / 'METADATA').write_text('Name: transformers\nVersion: 5.24.0\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    def run(code):
        env = {**os.environ, 'PYTHONPATH': path}
        return subprocess.run(
            [sys.executable, '-c', code], env=env, capture_output=True, text=True
        )

    alone = run('import mmpretrain.models')
    assert 'transformers' in alone.stderr
    assert alone.returncode != 0
    result = run(
        'import mmmanikey.backbones, mmpretrain.apis, mmdet.apis, mmseg.apis\n'
        'from mmpretrain.registry import MODELS\n'
        'mmmanikey.backbones.ManifoldKeyViT("deit-tiny")\n'
        'MODELS.get("BlipCaption")()\n'
    )
    assert result.stderr.splitlines()[-1].startswith('ImportError')
    assert 'requires extra multi-modal dependencies' in result.stderr
