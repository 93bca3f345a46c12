"""The example of the docs runs as a reader runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / 'docs/examples/keys_on_digits.py'


@pytest.mark.slow
def test_keys_on_digits(tmp_path):
    command = [sys.executable, EXAMPLE, '--epochs', '1']
    done = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    found = re.findall(
        r'^(.*): (\d+) weights learn, ([\d.]+)% right', done.stdout, re.M
    )
    (head, few, first), (both, many, second) = found
    assert (head, both) == ('linear head', 'linear head and keys')
    assert int(few) == 64 * 10 + 10
    assert int(many) - int(few) == 4 * 66560
    assert 5 < float(first) < 100
    assert 5 < float(second) < 100
    assert done.stdout.count('.attn.qkv') == 4
