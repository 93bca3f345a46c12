"""Each module of the package can be the first one that is imported."""

import importlib.util
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'mmmanikey'
#: Those that are imported where what they need is there, as their texts say.
OPTIONAL = {'mmmanikey.forms.triton_mixing': 'triton'}
#: Import each module in a process of its own and print those that cannot be.
FIRST = """
import importlib, os, sys, traceback
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f'cannot be imported first: {failed}' if failed else 0)
"""


def test_any_module_first(fork, tmp_path):
    """Rooms that need each other, as forms and attention do, in any order."""
    names = []
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
        name = '.'.join(parts).removesuffix('.__init__')
        needed = OPTIONAL.get(name)
        if needed is None or importlib.util.find_spec(needed):
            names.append(name)
    assert len(names) > 100
    result = fork(tmp_path, FIRST, *names, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
