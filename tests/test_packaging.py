"""What the wheel, the source distribution and an editable install carry."""

import email
import tarfile
import zipfile
from pathlib import Path

import pytest
from wheels import build_wheel, copy_checkout, run

import mmmanikey

MIM = 'mmmanikey/.mim/'

# One worker builds for all of these.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('packaging')]


def contents(source, folder):
    """The names in the wheel of a source, and its metadata."""
    with zipfile.ZipFile(build_wheel(source, folder)) as wheel:
        names = wheel.namelist()
        (metadata,) = (name for name in names if name.endswith('/METADATA'))
        return set(names), email.message_from_bytes(wheel.read(metadata))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of what is packaged, with a test and compiled files strewn in."""
    folder = copy_checkout(tmp_path_factory.mktemp('source') / 'checkout')
    (folder / 'tests').mkdir()
    (folder / 'tests' / 'test_stray.py').touch()
    for name in ('tools', 'configs', 'mmmanikey'):
        (folder / name / '__pycache__').mkdir()
        (folder / name / '__pycache__' / 'stray.cpython-311.pyc').touch()
    return folder


@pytest.fixture(scope='module')
def shipped(source):
    """The paths that belong under `.mim/`."""
    files = [*source.glob('configs/**/*'), *source.glob('tools/**/*')]
    return {'model-index.yml'} | {
        path.relative_to(source).as_posix()
        for path in files
        if path.is_file() and path.suffix != '.pyc'
    }


@pytest.fixture(scope='module')
def wheel(source):
    return contents(source, source.parent / 'wheel')


def under_mim(names):
    return {name.removeprefix(MIM) for name in names if name.startswith(MIM)}


def test_wheel_carries_mim(wheel, shipped):
    names, _ = wheel
    assert any(name.startswith('configs/') for name in shipped)
    assert under_mim(names) == shipped


def test_wheel_carries_the_package_alone(wheel, source):
    names, _ = wheel
    modules = {
        path.relative_to(source).as_posix()
        for path in (source / 'mmmanikey').rglob('*.py')
        if '.mim' not in path.parts
    }
    page = source / 'mmmanikey/visualization/page/assets'
    modules |= {path.relative_to(source).as_posix() for path in page.iterdir()}
    assert modules <= names
    rest = {name.split('/')[0] for name in names - modules}
    assert rest == {'mmmanikey', f'mmmanikey-{mmmanikey.__version__}.dist-info'}
    assert not [name for name in names if '__pycache__' in name]


def test_metadata(wheel):
    _, metadata = wheel
    assert metadata['Name'] == 'mmmanikey'
    assert metadata['Version'] == mmmanikey.__version__
    assert metadata['Requires-Python'] == '>=3.10'
    extras = {'mm', 'demo', 'deploy', 'test', 'docs', 'dev', 'all'}
    assert set(metadata.get_all('Provides-Extra')) == extras
    required = metadata.get_all('Requires-Dist')
    always = [line for line in required if 'extra ==' not in line]
    assert sorted(always) == [
        'numpy',
        'packaging',
        'safetensors>=0.4',
        'torch<2.16,>=2.1',
    ]
    # The distributions of the OpenMMLab packages vary: only the extras name some.
    named = {line.split(';')[1].strip() for line in required if 'onedl' in line}
    assert named == {f'extra == "{name}"' for name in ('mm', 'test', 'dev', 'all')}


def test_source_distribution_builds_the_same_wheel(wheel, source, tmp_path):
    run('setup.py', '-q', 'sdist', '--dist-dir', tmp_path, cwd=source)
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert not [name for name in names if '__pycache__' in name]
    # setuptools would add tests/test_*.py, which do not run without their helpers.
    assert not [name for name in names if '/tests' in name]
    names, _ = contents(archive, tmp_path / 'wheel')
    assert names == wheel[0]


def test_editable_install_carries_mim(source, shipped, tmp_path):
    # Beside what this environment has, not in place of it.
    options = ['--no-index', '--no-deps', '--no-build-isolation', '--ignore-installed']
    options += ['--prefix', tmp_path, '--editable', source]
    run('-m', 'pip', 'install', *options, cwd=tmp_path)
    (site,) = tmp_path.glob('**/site-packages')
    # Neither this environment's packages nor the current folder are in sight (-I -S).
    code = (
        f'import site; site.addsitedir({str(site)!r}); import importlib.util as util; '
        'print(util.find_spec("mmmanikey").submodule_search_locations[0])'
    )
    mim = Path(run('-I', '-S', '-c', code, cwd=tmp_path).strip(), '.mim')
    assert mim.parent.parent == source
    assert all((mim / name).is_file() for name in shipped)
