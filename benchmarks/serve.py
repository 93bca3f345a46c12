"""Measures networks of one version for ``against.py``, which asks a line at a time.

It runs in that version's ``benchmarks/``: what it imports must be there in both.
"""

import json
import os
import sys
import time

import networks
import torch
from measure import saved_bytes, step


def number(maps):
    """The sum of all maps of a backbone."""
    return sum(each.sum() for each in maps)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    answers = os.fdopen(int(sys.argv[2]), 'w')
    calls = {}
    for line in sys.stdin:
        what, *request = json.loads(line)
        if what == 'build':
            kind, key, shape, quick = request
            torch.manual_seed(0)
            model, x = getattr(networks, kind)(key, quick=quick), torch.randn(shape)
            calls = {
                'forward': torch.no_grad()(lambda model=model, x=x: model(x)),
                'step': step(lambda model=model, x=x: number(model(x)), model),
            }
            answer = 0
        elif what == 'saved':
            answer = saved_bytes(model.train(), lambda model=model, x=x: model(x))
        else:
            model.train(what == 'step')
            start = time.perf_counter()
            calls[what]()
            answer = time.perf_counter() - start
        print(answer, file=answers, flush=True)


if __name__ == '__main__':
    main()
