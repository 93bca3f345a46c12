"""Measures networks of one version for ``against.py``, which asks a line at a time.

It runs in that version's ``benchmarks/``: what it imports must be there in both.
"""

import json
import os
import sys
import time

import networks
import torch
from measure import saved_bytes, step, synchronize


def timed(call):
    """Seconds of a call."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def measures(model, x, dtype):
    """Functions that measure a backbone, by what they measure."""
    low = torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32)

    @low
    def total():
        return sum(each.float().sum() for each in model(x))

    in_training = step(total, model)
    return {
        'forward': lambda: model.eval() and timed(torch.no_grad()(total)),
        'step': lambda: model.train() and timed(in_training),
        'saved': lambda: saved_bytes(model.train(), total),
    }


def main():
    threads, answers, device, dtype = sys.argv[1:]
    torch.set_num_threads(int(threads))
    answers = os.fdopen(int(answers), 'w')
    for line in sys.stdin:
        what, *request = json.loads(line)
        if what == 'build':
            kind, key, shape, quick = request
            torch.manual_seed(0)
            model = getattr(networks, kind)(key, quick=quick).to(device)
            x = torch.randn(shape, device=device)
            known = measures(model, x, getattr(torch, dtype))
        print(0 if what == 'build' else known[what](), file=answers, flush=True)


if __name__ == '__main__':
    main()
