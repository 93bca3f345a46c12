"""Compiling mmcv in units: on a small tree of sources, and by rules of straw."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loading import load_tool

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'environment' / 'mmcv_setup.py'
mmcv_setup = load_tool(SCRIPT)

# The first two define a struct of the same name; the third leaves macros behind, one of
# them of several lines, which the fourth, in alphabetical order or not, cannot bear.
FILES = {
    'first.cpp': 'struct Point { int x; };\nint first() { return Point{1}.x; }\n',
    'second.cpp': 'struct Point { int y; };\nint second() { return Point{2}.y; }\n',
    'third.cpp': """
#ifndef min
#define min(a, b) (((a) < (b)) ? (a) : (b))
#endif
#  define both(a) \\
  min(a, 5)
int third() { return both(3); }
""",
    'fourth.cpp': """
namespace math { int min(int a, int b, int c) { return a < b ? a : c; } }
int both = 4;
int fourth() { return math::min(both, 9, 0); }
""",
}


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / 'sources'
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


class Compiler:
    """The compiler, which notes the sources that it was asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.sources = []

    def __call__(self, source):
        self.sources.append(source)
        made = str(self.folder / f'{Path(source).stem}.o')
        return made, ['c++', '-fPIC', '-c', str(source), '-o', made]


@pytest.mark.parametrize('jobs', [1, 2])
@pytest.mark.parametrize('units', [1, 2, 3, 4])
def test_what_clashes_is_split(tmp_path, sources, monkeypatch, capsys, jobs, units):
    """In whatever units it begins, all is compiled, once, and works."""
    share_out = mmcv_setup.share_out
    monkeypatch.setattr(mmcv_setup, 'share_out', lambda f, _: share_out(f, units))
    compiler = Compiler(tmp_path)
    compilation = mmcv_setup.Compilation(sources, tmp_path, compiler, jobs)
    objects = compilation.objects()
    assert len(objects) == len(set(objects)) <= units + 1
    library = tmp_path / 'library.so'
    subprocess.run(['c++', '-shared', '-o', library, *objects], check=True)
    loaded = ctypes.CDLL(str(library))
    names = {1: '_Z5firstv', 2: '_Z6secondv', 3: '_Z5thirdv', 4: '_Z6fourthv'}
    assert {value: loaded[name]() for value, name in names.items()} == {
        value: value for value in names
    }
    assert '[4/4]' in capsys.readouterr().out


def test_macros_end_with_their_file(tmp_path, sources, monkeypatch):
    """Files that nothing but leftover macros would part share a unit."""
    monkeypatch.setattr(mmcv_setup, 'share_out', lambda f, _: [sorted(f, reverse=True)])
    files = [file for file in sources if file.stem in ('third', 'fourth')]
    compilation = mmcv_setup.Compilation(files, tmp_path, Compiler(tmp_path), 1)
    assert len(compilation.objects()) == 1


def test_the_compiler_names_what_goes_apart(sources):
    first, fourth, second, third = sources
    complaint = f'{second}:1:8: error: redefinition of ‘struct Point’\n'
    parts = mmcv_setup.split(sources, complaint)
    assert parts == ([first, fourth, third], [second])
    # A warning is no reason, and where all are named, or none, it is halved.
    everywhere = ''.join(f'{file}:1:8: error: no\n' for file in sources)
    for said in ('', f'{second}:1:8: warning: unused\n', 'killed', everywhere):
        assert mmcv_setup.split(sources, said) == (sources[:2], sources[2:])


@pytest.mark.parametrize('named', [True, False])
@pytest.mark.parametrize('count', [1, 2, 7, 30])
def test_any_clash_ends_at_single_files(tmp_path, monkeypatch, named, count):
    """Even where no two files of one kind get along, and the compiler tells nothing."""
    files = [tmp_path / f'f{index}.cpp' for index in range(count)]
    for index, file in enumerate(files):
        file.write_text('x' * (1 + index % 5))
    compiled = []

    def run(unit):
        kinds = [int(file.stem[1:]) % 3 for file in unit]
        clashing = [f for f, kind in zip(unit, kinds, strict=True) if kind != kinds[0]]
        if clashing:
            lines = [f'{file}:1:1: error: clash' for file in clashing]
            return 1, '\n'.join(lines) if named else 'internal compiler error'
        compiled.extend(unit)
        return 0, ''

    monkeypatch.setattr(mmcv_setup, 'run', run)
    monkeypatch.setattr(mmcv_setup.Compilation, 'source_of', lambda self, unit: unit)
    compilation = mmcv_setup.Compilation(
        files, tmp_path, lambda unit: (str(unit), unit), 2
    )
    compilation.objects()
    assert sorted(compiled) == sorted(files)


def test_units_are_of_about_equal_size(tmp_path):
    sizes = {'large': 50, 'a': 20, 'b': 20, 'c': 10, 'd': 10, 'e': 1}
    for name, size in sizes.items():
        (tmp_path / name).write_text('x' * size)
    files = [tmp_path / name for name in sizes]
    units = mmcv_setup.share_out(files, 2)
    assert sorted(file for unit in units for file in unit) == sorted(files)
    assert [sum(sizes[f.name] for f in unit) for unit in units] == [60, 51]
    # The large one is begun first, and there is no empty unit.
    assert units[0][0].name == 'large'
    assert len(mmcv_setup.share_out(files, 99)) == len(files)


def test_file_that_does_not_compile(tmp_path, sources):
    bad = tmp_path / 'sources' / 'bad.cpp'
    bad.write_text('int broken( { return 0; }\n')
    compilation = mmcv_setup.Compilation(
        [*sources, bad], tmp_path, Compiler(tmp_path), 1
    )
    with pytest.raises(mmcv_setup.BuildError) as error:
        compilation.objects()
    assert str(error.value).startswith('bad.cpp does not compile: ')
    assert 'bad.cpp:1:' in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_cuda_sources_stand_alone(tmp_path, sources):
    kernel = tmp_path / 'sources' / 'kernel.cu'
    kernel.write_text('// not for c++')
    compiler = Compiler(tmp_path)

    def command(source):
        made, arguments = compiler(source)
        return made, ['true'] if source.suffix == '.cu' else arguments

    mmcv_setup.Compilation([*sources, kernel], tmp_path, command, 1).objects()
    assert compiler.sources.count(kernel) == 1


@pytest.fixture
def tree(tmp_path):
    """A source of mmcv with one small operator for each place of a file."""
    folder = tmp_path / 'mmcv' / 'ops' / 'csrc' / 'pytorch'
    (folder / 'cpu').mkdir(parents=True)
    (folder / 'cuda').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'setup.py').write_text(SCRIPT.read_text())
    (tmp_path / 'pyproject.toml').write_text('[project]\nname = "x"\nversion = "1"\n')
    (folder / 'cpu' / 'one.cpp').write_text('struct P {};\nint one() { return 1; }\n')
    (folder / 'two.cpp').write_text('struct P {};\nint two() { return 2; }\n')
    (folder / 'cuda' / 'bind.cpp').write_text('int bind() { return 3; }\n')
    (folder / 'cuda' / 'kernel.cu').write_text('int kernel() { return 4; }\n')
    (folder / 'pybind.cpp').write_text("""
#include <Python.h>
int one(), two();
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ext"};
extern "C" PyObject* PyInit__ext() {
  PyObject* made = PyModule_Create(&module);
  PyModule_AddIntConstant(made, "sum", one() + two());
  PyModule_AddIntConstant(made, "standard", __cplusplus);
  return made;
}
""")
    return tmp_path


@pytest.mark.slow
def test_extension_is_built_as_torch_wants_it(tree):
    """With the C++ standard of torch itself, and without debug information."""
    environment = dict(os.environ, FORCE_CUDA='0', MAX_JOBS='1')
    build = [sys.executable, 'setup.py', 'build_ext', '--inplace']
    result = subprocess.run(
        build, cwd=tree, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert '[3/3]' in result.stdout
    code = 'import torch; from mmcv import _ext; print(_ext.sum, _ext.standard)'
    printed = subprocess.run(
        [sys.executable, '-c', code], cwd=tree, capture_output=True, check=True
    )
    total, standard = map(int, printed.stdout.split())
    assert total == 3
    (torchs,) = [
        int(line.split(':')[1])
        for line in torch.__config__.show().splitlines()
        if 'C++ Version' in line
    ]
    assert standard >= torchs
    (library,) = (tree / 'mmcv').glob('_ext*.so')
    assert b'.debug_info' not in library.read_bytes()


def test_sources_of_cuda_are_built_where_asked_for(tree, monkeypatch):
    monkeypatch.chdir(tree)
    monkeypatch.setattr(mmcv_setup, 'CppExtension', lambda **given: given)
    monkeypatch.setattr(mmcv_setup, 'CUDAExtension', lambda **given: given)
    monkeypatch.setenv('FORCE_CUDA', '0')
    plain = mmcv_setup.extension()
    names = {Path(source).name for source in plain['sources']}
    assert names == {'one.cpp', 'two.cpp', 'pybind.cpp'}
    assert plain['define_macros'] == []
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setenv('MMCV_CUDA_ARGS', '-lineinfo -O1')
    cuda = mmcv_setup.extension()
    names |= {'bind.cpp', 'kernel.cu'}
    assert {Path(source).name for source in cuda['sources']} == names
    assert cuda['define_macros'] == [('MMCV_WITH_CUDA', None)]
    assert cuda['extra_compile_args']['nvcc'] == ['-lineinfo', '-O1']
    folders = [Path(folder) for folder in cuda['include_dirs']]
    csrc = tree / 'mmcv' / 'ops' / 'csrc'
    assert folders == [csrc / 'pytorch', csrc / 'common', csrc / 'common' / 'cuda']
