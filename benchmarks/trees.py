"""This working tree against another one: times in turns, and saved bytes.

    git worktree add ../old COMMIT
    python benchmarks/trees.py ../old

A process for each tree builds the networks and waits while the other one is timed.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
import torch
from networks import LINEAR, swin, vit
from report import Row, finish, make_parser, positive, start

HERE = Path(__file__).resolve().parents[1]
NEW, OLD = 'this tree', 'the other'
SWIN, VIT = ('SpatialK', LINEAR), ('VanillaK', 'SimpleK', 'KUA', LINEAR)


def serve(threads: int, vit_layers: int, quick: bool) -> None:
    """Answer questions on stdin, a line each: a family, a key, a size, a quantity."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    built = {}
    for line in sys.stdin:
        family, name, batch, side, what = line.split()
        if (family, name) not in built:
            sizes = dict(quick=bool(quick))
            if family == 'vit':
                sizes['layers'] = vit_layers
            make = dict(swin=swin, vit=vit)[family]
            built = {(family, name): make(name, **sizes)}  # the last one goes
        model = built[family, name].train(what != 'forward')
        images = torch.zeros(int(batch), 3, int(side), int(side))

        def forward(model=model, images=images) -> torch.Tensor:
            return sum(out.mean() for out in model(images))

        if what == 'saved':
            value = measure.saved_bytes(model, forward)
        else:
            call = torch.no_grad()(forward)
            call = measure.step(forward, model) if what == 'step' else call
            began = time.perf_counter()
            call()
            value = time.perf_counter() - began
        print(value, flush=True)


def start_tree(tree: Path, *arguments: object) -> subprocess.Popen:
    """A process that imports the package of a tree, and this benchmark."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': str(tree), 'TREES_SERVE': '1'},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(process: subprocess.Popen, *question: object) -> float:
    process.stdin.write(' '.join(map(str, question)) + '\n')
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument('tree', type=Path, help='of another commit')
    parser.add_argument('--swin-keys', nargs='*', default=SWIN)
    parser.add_argument('--vit-keys', nargs='*', default=VIT)
    parser.add_argument('--vit-layers', type=positive, default=2, help='of 12')
    args, setting = start(parser)
    trees = {OLD: args.tree.resolve(), NEW: HERE}
    arguments = args.threads, args.vit_layers, int(args.quick)
    processes = {name: start_tree(tree, *arguments) for name, tree in trees.items()}
    sizes = ((8, 32), (1, 64)) if args.quick else ((8, 224), (1, 640))
    rows = []
    keys = [('swin', key) for key in args.swin_keys]
    keys += [('vit', key) for key in args.vit_keys]
    for family, key in keys:
        for batch, side in sizes:
            for what in ('forward', 'step', 'saved'):
                values = {name: [] for name in trees}
                question = family, key, batch, side, what
                for name in trees:  # untimed
                    ask(processes[name], *question)
                for number in range(1 if what == 'saved' else setting.rounds):
                    for name in reversed(trees) if number % 2 else trees:
                        values[name].append(ask(processes[name], *question))
                case = f'{family} {key} {batch}x3x{side}x{side}'
                ratios = [new / old for new, old in zip(values[NEW], values[OLD])]
                rows += [
                    Row(case, name, what, statistics.median(values[name]))
                    for name in trees
                ]
                rows[-1].against = OLD
                rows[-1].ratio = statistics.median(ratios)
                if len(ratios) > 1:
                    quartiles = statistics.quantiles(ratios, method='inclusive')
                    rows[-1].quartiles = quartiles[::2]
    for process in processes.values():
        process.stdin.close()
        process.wait()
    finish('trees', rows, setting)


if __name__ == '__main__':
    if os.environ.get('TREES_SERVE'):
        serve(*map(int, sys.argv[1:]))
    else:
        main()
