"""Commands in processes of their own, forked from one that has the frameworks imported.

python forks.py COMMANDS.json

Importing a framework takes longer than most of its scripts do on tiny data. The file
has ``imports`` and ``commands``: a ``script`` and its ``args``, or ``code``, and
``env``. Output and exit status of each are added to it.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path


def run(command, output):
    """Run a command in this process, which then ends."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(command['env'])
    status = 0
    try:
        if code := command.get('code'):
            exec(code, {'__name__': '__main__'})
        else:
            path = command['script']
            sys.argv = [path, *command['args']]
            sys.path[0] = os.path.dirname(path)
            runpy.run_path(path, run_name='__main__')
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def main():
    path = Path(sys.argv[1])
    content = json.loads(path.read_text())
    warnings.simplefilter('ignore')
    for module in content['imports']:
        importlib.import_module(module)
    assert 'mmmanikey' not in sys.modules  # the configs import it
    output = path.with_suffix('.txt')
    for command in content['commands']:
        child = os.fork()
        if not child:
            run(command, output)
        command['status'] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        command['output'] = output.read_text(errors='replace')
    path.write_text(json.dumps(content))


if __name__ == '__main__':
    main()
