"""Scripts in processes of their own, forked from one that has a framework imported.

Importing a framework takes longer than most of its scripts do on tiny data. What the
package itself imports is imported by each script anew.
"""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from types import SimpleNamespace

import done_once


class Forks:
    """A process that runs scripts, one after the other.

    Args:
        folder (Path): Where they run, unless another is given.
        modules (Sequence[str]): What is imported once for all.
        env (dict[str, str]): Their environment.
    """

    def __init__(self, folder, modules, env):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script, *args, folder=None, check=True, **env):
        """Run a script's file, or code, as :func:`scripts.script` does."""
        command = dict(script=str(script), args=list(map(str, args)), env=env)
        command['folder'] = str(folder or self.folder)
        print(json.dumps(command), file=self.process.stdin, flush=True)
        result = SimpleNamespace(**json.loads(self.process.stdout.readline()))
        if check:
            assert result.returncode == 0, result.stdout[-3000:]
        return result

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def work(command, output):
    """Do a command in this process, which then ends."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, descriptor in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, descriptor)
    os.chdir(command['folder'])
    os.environ.update(command['env'])
    script = command['script']
    sys.argv = [script, *command['args']]
    status = 0
    try:
        if '\n' in script:
            exec(script, {'__name__': '__main__'})
        else:
            sys.path[0] = os.path.dirname(script)
            runpy.run_path(script, run_name='__main__')
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def main():
    """Read commands from stdin, and answer each with its output and exit status."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # nothing that an import prints is an answer
    warnings.simplefilter('ignore')
    for module in sys.argv[1:]:
        importlib.import_module(module)
    done_once.install()
    assert 'mmmanikey' not in sys.modules  # the configs import it
    gc.freeze()  # the collector would make each fork copy all that is here
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if not child:
                work(json.loads(line), output.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            text = output.read().decode(errors='replace')
        print(
            json.dumps(dict(returncode=status, stdout=text)), file=answers, flush=True
        )


if __name__ == '__main__':
    main()
