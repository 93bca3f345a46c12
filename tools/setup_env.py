"""Sets up the virtual environment that `make demo` and `make test` use.

    python3 tools/setup_env.py --venv .venv --extra demo

The order matters: mmcv's operators are compiled against the torch that is installed, by
`build_mmcv.py`. Each step leaves a stamp in the environment, keyed by what it installs:
an interrupted set-up goes on where it stopped, and a complete one is left as it is.

Standard library only, in the syntax of Python 3.6, so that an old Python gets as far as
saying that it is too old.
"""

import argparse
import sys

from environment import checks
from environment.checks import read_requirements
from environment.commands import ROOT, status_of
from environment.venv import Environment, Step


def recipe():
    """The text of what mmcv is built by."""
    files = ['tools/build_mmcv.py', 'tools/environment/mmcv_setup.py']
    return ''.join((ROOT / file).read_text() for file in files)


def plan(env, extra, torch):
    """The steps, in order, that set up an environment.

    Args:
        env: The environment.
        extra: Whose requirements it is for.
        torch: A version in place of the one in requirements/torch.txt, or None.
    """

    def packages(name, title, works=None):
        inputs = [read_requirements(name)]
        requirements = ['-r', f'requirements/{name}.txt']
        action = lambda: env.install(name, requirements, works)  # noqa: E731
        return Step(name, title, inputs, action)

    create = Step('venv', f'virtual environment in {env.folder}', [], env.create)
    tools = packages(extra, f'packages of requirements/{extra}.txt')
    if extra == 'lint':
        return [create, tools]
    pins, pinned = ['-r', 'requirements/torch.txt'], read_requirements('torch')
    if torch:  # pip finds the torchvision that fits
        pins = [f'torch=={torch}', 'torchvision']
        pinned = torch
    # mmcv is built for one torch, and with or without CUDA.
    mmcv = [read_requirements('mmcv'), pinned, str(checks.has_gpu()), recipe()]
    build = [str(env.python), str(ROOT / 'tools' / 'build_mmcv.py')]
    described = ('setup.py', 'pyproject.toml', 'mmmanikey/version.py')
    project = [str(ROOT)] + [(ROOT / name).read_text() for name in described]
    return [
        create,
        packages('build', 'build tools'),
        Step(
            'torch',
            'torch and torchvision (a large download)',
            [pinned],
            lambda: env.install('torch', pins, 'import torchvision'),
        ),
        Step(
            'mmcv',
            'mmengine and mmcv (compiled once for each torch: some minutes)',
            mmcv,
            lambda: env.run(build, 'mmcv'),
        ),
        packages('mm', 'mmdet, mmpretrain, mmseg', 'import mmdet, mmpretrain, mmseg'),
        tools,
        Step('project', 'this checkout, editable', project, env.install_project),
    ]


def set_up(folder, extra, torch=None):
    """Does what is left to do in an environment, step by step."""
    if torch:
        checks.check_torch(torch)
    env = Environment(folder)
    env.lock()
    left = [step for step in plan(env, extra, torch) if not env.done(step)]
    if not left:
        print(f'{env.folder} is set up for `{extra}`.')
        return
    # Before the large downloads, not after them.
    if any(step.name == 'mmcv' for step in left) and env.why_fails(checks.MMCV_WORKS):
        checks.check_compiler()
        if checks.has_gpu():
            checks.check_cuda_compiler()
    env.take(left)


def main(arguments=None):
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default='.venv', help='folder of the environment')
    extras = ('demo', 'test', 'docs', 'dev', 'lint')
    parser.add_argument('--extra', default='dev', choices=extras, help='for what')
    parser.add_argument(
        '--torch', help='version, if not that of requirements/torch.txt'
    )
    options = parser.parse_args(arguments)

    def action():
        checks.check_python(sys.version_info)
        set_up(options.venv, options.extra, options.torch)

    return status_of(action)


if __name__ == '__main__':
    sys.exit(main())
