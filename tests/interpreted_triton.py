"""Triton's kernels in its interpreter, and where tests run them."""

import importlib.util
import os
import sys
from functools import cache
from unittest import mock

import pytest
import torch

#: Marks what runs compiled kernels.
CUDA = pytest.param(
    'cuda',
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA'),
    ],
)


@cache
def interpreted(name):
    """A copy of a module with interpreted kernels; Triton decides on import."""
    pytest.importorskip('triton', minversion='3')  # which the kernels need
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, TRITON_INTERPRET='1'):
        spec.loader.exec_module(module)
    return module


def interpret(monkeypatch, name):
    """Put the interpreted copy of a module in its place, and return it."""
    module = interpreted(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module
