"""Builds mmcv in few compiler calls: build_mmcv.py puts this in place of its setup.py.

Nearly all the time of a usual build goes into parsing torch's headers once for each of
mmcv's files. Here many files are compiled as one unit that includes them. Files that
define things of the same name cannot share a unit: one that does not compile is split,
at worst to single files. Which flags torch wants for them, its C++ standard among
them, torch's own `BuildExtension` says. CUDA sources are compiled as they are.
"""

import os
import re
import subprocess
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

SOURCES = Path('mmcv/ops/csrc')
NO_DEBUG = ['-O2', '-g0']  # Python's own flags ask for symbols: 80 MB of them
ERROR = re.compile(r'^(\S.*?):\d+:\d+: (?:fatal )?error:', re.MULTILINE)
MACRO = re.compile(r'^[ \t]*#[ \t]*define[ \t]+(\w+)', re.MULTILINE)


class BuildError(Exception):
    """A file that does not compile on its own."""


def share_out(files, count):
    """Lists of files of about equal size in bytes, at most `count`, none empty."""
    units = [[] for _ in range(count)]
    sizes = [0] * count
    for size, file in sorted(((f.stat().st_size, f) for f in files), reverse=True):
        smallest = sizes.index(min(sizes))
        units[smallest].append(file)
        sizes[smallest] += size
    return [unit for unit in units if unit]


def split(unit, complaint):
    """Two parts of a unit that does not compile.

    The compiler names the files that define again what others did before them: they
    go into a unit of their own. Where that tells nothing, the unit is halved.
    """
    named = set(ERROR.findall(complaint))
    apart = [file for file in unit if str(file) in named]
    if apart and len(apart) < len(unit):
        return [file for file in unit if file not in apart], apart
    middle = len(unit) // 2
    return unit[:middle], unit[middle:]


def why_not(file, complaint):
    """One sentence on a file that does not compile."""
    lines = [line for line in complaint.splitlines() if 'error' in line.lower()]
    return f'{file.name} does not compile: {(lines or ["no reason given"])[0].strip()}'


def unit_text(files):
    """A C++ file that includes others; what one defines is unknown to the next."""
    lines = []
    for file in files:
        lines.append(f'#include "{file}"')
        lines += [f'#undef {name}' for name in MACRO.findall(file.read_text())]
    return '\n'.join(lines) + '\n'


class Compilation:
    """Compiles sources to objects, some processes at a time.

    Args:
        files: Sources with absolute paths: those that end in .cpp share units, others
            stand alone.
        folder: Where to write units.
        command: Gives, for a source, the object that it becomes and how.
        jobs: Processes at a time.
    """

    def __init__(self, files, folder, command, jobs):
        self.files = files
        self.folder = folder
        self.command = command
        self.jobs = jobs
        self.written = 0
        self.compiled = 0

    def source_of(self, unit):
        """The file that stands for a unit."""
        if len(unit) == 1:
            return unit[0]
        self.written += 1
        source = self.folder / f'unit_{self.written}.cpp'
        source.write_text(unit_text(unit))
        return source

    def objects(self):
        """Compiles everything.

        Returns:
            The paths of the objects.

        Raises:
            BuildError: If a file does not compile on its own.
        """
        shared = [file for file in self.files if file.suffix == '.cpp']
        units = share_out(shared, 2 * self.jobs)
        units += [[file] for file in self.files if file not in shared]
        objects = []
        running = {}
        with ThreadPoolExecutor(self.jobs) as pool:

            def start(unit):
                made, command = self.command(self.source_of(unit))
                running[pool.submit(run, command)] = unit, made

            print(f'[0/{len(self.files)}] in {len(units)} units', flush=True)
            for unit in units:
                start(unit)
            try:
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        unit, made = running.pop(future)
                        status, output = future.result()
                        if status == 0:
                            objects.append(made)
                            self.report(unit)
                            continue
                        if len(unit) == 1:
                            print(output)
                            raise BuildError(why_not(unit[0], output))
                        for part in split(unit, output):
                            start(part)
            finally:
                for future in running:
                    future.cancel()
        return sorted(objects)

    def report(self, unit):
        """Says how far it is; the set-up's sign of life looks for these lines."""
        self.compiled += len(unit)
        others = f' and {len(unit) - 1} others' if len(unit) > 1 else ''
        name = unit[0].name
        print(f'[{self.compiled}/{len(self.files)}] {name}{others}', flush=True)


def run(command):
    """Runs a command; its exit status and what it wrote."""
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, LC_ALL='C'),  # errors in English, which are searched
    )
    return result.returncode, result.stdout


class BuildUnits(BuildExtension.with_options(use_ninja=False)):
    """torch's build of an extension, with its sources compiled in units."""

    def build_extension(self, extension):
        compile_one, spawn = self.compiler.compile, self.compiler.spawn

        def compile_all(sources, output_dir, **options):
            folder = Path(output_dir).resolve()
            folder.mkdir(parents=True, exist_ok=True)

            def command(source):
                """What torch would run for a source, without running it."""
                commands = []
                self.compiler.spawn = lambda command, **_: commands.append(command)
                try:
                    made = compile_one([str(source)], str(folder), **options)
                finally:
                    self.compiler.spawn = spawn
                return made[0], commands[0]

            files = [Path(source).resolve() for source in sources]
            jobs = int(os.environ.get('MAX_JOBS') or 2)
            return Compilation(files, folder, command, jobs).objects()

        self.compiler.compile = compile_all
        super().build_extension(extension)


def extension():
    """mmcv's operators: those of the CPU, with FORCE_CUDA=1 those of CUDA too."""
    cuda = os.environ.get('FORCE_CUDA') == '1'
    pytorch, common = SOURCES / 'pytorch', SOURCES / 'common'
    sources = [*pytorch.glob('*.cpp'), *pytorch.glob('cpu/*.cpp')]
    folders = [pytorch, common]
    if cuda:
        sources += [*pytorch.glob('cuda/*.cpp'), *pytorch.glob('cuda/*.cu')]
        folders.append(common / 'cuda')
    return (CUDAExtension if cuda else CppExtension)(
        name='mmcv._ext',
        sources=sorted(map(str, sources)),
        include_dirs=[str(folder.resolve()) for folder in folders],
        define_macros=[('MMCV_WITH_CUDA', None)] if cuda else [],
        extra_compile_args={
            'cxx': NO_DEBUG,
            'nvcc': os.environ.get('MMCV_CUDA_ARGS', '').split(),
        },
    )


if __name__ == '__main__':
    setup(
        packages=find_packages(),
        ext_modules=[extension()],
        cmdclass={'build_ext': BuildUnits},
        zip_safe=False,
    )
