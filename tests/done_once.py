"""What mmengine does again and again in a process, for the same result, is done once.

It has yapf format the config of a training three times, which took half the time of
the smallest trainings, and parses a file again for every config that inherits from it.
"""

import functools
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from yapf.yapflib import yapf_api

ROOT = Path(__file__).resolve().parents[1]
#: No test writes below these.
FIXED = f'{ROOT}/configs/', f'{Path(find_spec("mmengine").origin).parents[1]}/'

parse = Config._file2dict
format_code = yapf_api.FormatCode
formatted = {}


@functools.cache
def parsed(path, *args, **kwargs):
    """What a file and its bases hold, as bytes: a config may change it."""
    return pickle.dumps(parse(path, *args, **kwargs))


def parse_once(filename, *args, **kwargs):
    path = os.path.abspath(filename)
    if path.startswith(FIXED):
        return pickle.loads(parsed(path, *args, **kwargs))
    return parse(filename, *args, **kwargs)


def format_once(text, **options):
    key = text, repr(options)
    if key not in formatted:
        formatted[key] = format_code(text, **options)
    return formatted[key]


def install():
    """For the whole process, and those forked from it."""
    Config._file2dict = staticmethod(parse_once)
    yapf_api.FormatCode = format_once
