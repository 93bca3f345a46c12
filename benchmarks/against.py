"""This working tree against an older commit of it, in one run.

python benchmarks/against.py COMMIT [--json FILE]

Each version has a process of its own, with that version's ``networks.py``. They take
turns, call by call; see ``serve.py``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.utils import track_iter_progress
from networks import LINEAR
from report import Row, finish, make_parser, start

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
NEW = 'this tree'
#: Case: the function of ``networks.py``, the images' shape, and the keys.
CASES = {
    'Swin-T 8 x 224': ('swin', (8, 3, 224, 224), (LINEAR, 'SpatialK')),
    'Swin-T 1 x 640': ('swin', (1, 3, 640, 640), (LINEAR, 'SpatialK')),
    'ViT-B 8 x 224': ('vit', (8, 3, 224, 224), (LINEAR, 'VanillaK')),
}
QUICK_CASES = {'Swin-T 1 x 64': ('swin', (1, 3, 64, 64), (LINEAR,))}


class Version:
    """A process that measures one version when it is asked to."""

    def __init__(self, tree: Path, threads: int, device: str, dtype: str) -> None:
        read, write = os.pipe()  # libraries print to stdout
        settings = map(str, (threads, write, device, dtype))
        self.process = subprocess.Popen(
            [sys.executable, '-c', (FOLDER / 'serve.py').read_text(), *settings],
            cwd=tree / 'benchmarks',  # whose modules it imports
            env={**os.environ, 'PYTHONPATH': str(tree)},
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            pass_fds=[write],
            text=True,
        )
        os.close(write)
        self.answers = os.fdopen(read)

    def ask(self, *request: object) -> float:
        """Send a request, wait for its answer."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.answers.readline()
        if not answer:
            sys.exit('the process of one version ended')
        return float(answer)


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder that goes again."""
    with tempfile.TemporaryDirectory() as folder:
        archive = ['git', '-C', str(ROOT), 'archive', commit]
        packed = subprocess.run(archive, stdout=subprocess.PIPE)
        if packed.returncode:
            sys.exit(f'{commit} is no commit of {ROOT}')
        subprocess.run(['tar', '-x', '-C', folder], input=packed.stdout, check=True)
        yield Path(folder)


def rows_of(
    case: str, key: str, versions: dict[str, Version], network: tuple, rounds: int
) -> Iterator[Row]:
    """Measure one network in both versions, the older one first."""
    old, new = versions
    for version in versions.values():
        version.ask('build', *network)
    for what in ('forward', 'step'):
        found = {name: [] for name in versions}
        for number in range(-1, rounds):
            for name in reversed(versions) if number % 2 else versions:
                seconds = versions[name].ask(what)
                found[name] += [seconds] if number >= 0 else []  # the first warms up
        ratios = [a / b for a, b in zip(found[new], found[old])]
        yield Row(
            *(case, f'{key}, {new}', what, statistics.median(found[new]), old),
            ratio=statistics.median(ratios),
            quartiles=tuple(statistics.quantiles(ratios)[::2]) if rounds > 1 else None,
        )
    saved = {name: version.ask('saved') for name, version in versions.items()}
    ratio = saved[new] / saved[old]
    yield Row(case, f'{key}, {new}', 'saved', saved[new], old, ratio=ratio)


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument('commit', help='the older version')
    args, setting = start(parser)
    cases = QUICK_CASES if setting.quick else CASES
    networks = [
        (case, key, (kind, key, shape, setting.quick))
        for case, (kind, shape, keys) in cases.items()
        for key in keys
    ]
    rows = []
    with tree_of(args.commit) as tree:
        trees = {args.commit: tree, NEW: ROOT}
        settings = args.threads, args.device, args.dtype
        versions = {name: Version(tree, *settings) for name, tree in trees.items()}
        for case, key, network in track_iter_progress(networks, file=sys.stderr):
            rows += rows_of(case, key, versions, network, setting.rounds)
        for version in versions.values():
            version.process.communicate()
    finish('against', rows, setting)


if __name__ == '__main__':
    main()
