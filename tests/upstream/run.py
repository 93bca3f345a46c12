"""Runs tests on upstream's OpenMMLab packages in place of the maintained forks.

    python3.11 tests/upstream/run.py --venv .venv-upstream [pytest's arguments]

An environment of its own is set up in steps, as ``tools/setup_env.py`` does it for the
forks: a finished step is kept, and the same command goes on where it stopped. Versions
stand in ``constraints.txt``, what a run found in ``README.md``, both beside this file.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
from environment import checks  # noqa: E402
from environment.commands import SetupError, status_of  # noqa: E402
from environment.venv import Environment, Step  # noqa: E402

CONSTRAINTS = HERE / 'constraints.txt'
# torch 2.1 has wheels up to 3.11, and mmmanikey begins at 3.10.
PYTHONS = ((3, 10), (3, 11))

# (step, title, what to install, code that fails if it is not usable). mmcv compiles
# against torch; mmpretrain and mmseg import ftfy and regex, but do not ask for them.
PACKAGES = [
    ('build', 'build tools', 'setuptools wheel ninja psutil packaging numpy', ''),
    ('torch', 'torch (a large download)', 'torch torchvision', 'import torchvision'),
    (
        'mmcv',
        'mmengine and mmcv (compiled: about 12 minutes on two cores)',
        '-v mmengine mmcv',
        checks.MMCV_WORKS,
    ),
    (
        'mm',
        'mmdet, mmpretrain, mmseg',
        'mmdet mmpretrain mmsegmentation ftfy regex',
        'import mmdet, mmpretrain, mmseg',
    ),
]

# Of requirements/test.txt these want a newer torch. What tests torchao is skipped
# without it, and an older transformers is in constraints.txt.
TOO_NEW = ('torchao', 'transformers')

# What builds or checks files and needs no framework is left to `make test`.
TESTS = [
    f'tests/test_{name}'
    for name in (
        'version.py',
        'keys',
        'forms',
        'attention',
        'anywhere',
        'backbones',
        'necks',
        'warmstart',
        'checkpoint',
        'engine',
        # Not test_metafiles.py: its tool, a maintainer's, wants torch 2.3.
        'configs/test_demo.py',
        'configs/test_recipes.py',
        'configs/test_zoo.py',
        'data',
        'visualization',
        'ecosystem',
    )
]

# Files, or beginnings of names of tests, that torch 2.1 or mmengine 0.10.7 cannot pass.
DESELECTED = (
    # torch 2.1 multiplies no matrices of float16 on a CPU.
    'tests/test_forms/test_keys_in_pieces.py::test_half_precision_trains[dtype0',
    *(
        f'tests/test_backbones/test_caches.py::test_nothing_old_is_used_after[{family}-{key}-half'
        for family in ('swin', 'vit')
        for key in ('None', 'VanillaK', 'SimpleK', 'KUA', 'SpatialK')
    ),
    # One of the dtypes that it draws is float16.
    'tests/test_backbones/test_any_size.py::test_any_image',
    # There autocast on a CPU takes bfloat16 only, and AdamW has no fused form.
    'tests/test_forms/test_keys_in_pieces.py::test_autocast_of_older_torch',
    'tests/test_engine/test_bfloat16.py',
    # The kernels are for Triton 3; torch 2.1 brings 2.1.
    'tests/test_forms/test_triton.py',
    'tests/test_forms/test_triton_choice.py',
    'tests/test_forms/test_triton_norm.py',
    # DINOv3 came with a transformers that wants torch 2.2.
    *(
        f'tests/test_anywhere/test_families.py::{test}[transformers-DINOv3]'
        for test in (
            'test_starts_as_the_stock_network_and_leaves_it',
            'test_softmax_ignores_a_constant_key',
            'test_keys_learn_and_are_kept',
            'test_adapters_of_peft',
            'test_a_linear_key_is_a_change_of_the_weight',
        )
    ),
    'tests/test_anywhere/test_family_table.py::test_the_row_is_true[transformers-DINOv3',
    # Their masks are in float32, which attention in torch 2.1 refuses under autocast.
    'tests/test_anywhere/test_families.py::test_keys_learn_and_are_kept[timm-CoAtNet',
    'tests/test_anywhere/test_families.py::test_keys_learn_and_are_kept[timm-BEiT',
    # They compile what torch 2.1's compiler ends in an error of its own for.
    'tests/test_anywhere/test_changed_layers.py::test_weights_that_are_computed',
    # Before 2.5 torch's encoder layer has a fused form that asks for no hooks.
    'tests/test_attention/test_keyed.py::test_the_layer_that_passes_its_attention_by',
    'tests/test_attention/test_keyed.py::test_padded_sequences',
    # Fake tensors of a GPU want a driver.
    'tests/test_attention/test_swin_shifted.py::test_grids_are_made_where_and_as_wanted',
    # The literal form is made of torch's Conv1d, whose gradient in float32 torch 2.1
    # gets wrong where it comes from the mean of one chart. Ours is right.
    'tests/test_keys/test_forms.py::test_channel_forms[SimpleK-torch.float32',
    # Selective checkpoints and a choice of attention's kernel, by which it compares.
    'tests/test_forms/test_leaks.py',
    # torch 2.1's compiler breaks the graph where a form is looked up, and where mmcv's
    # FFN inspects its arguments at every call.
    'tests/test_forms/test_keys_in_pieces.py::test_compilers_see_one_graph',
    'tests/test_backbones/test_modes.py::test_compiles_without_a_graph_break',
)


def check_python(version):
    """Raises SetupError unless torch and mmmanikey both know this Python."""
    if tuple(version[:2]) not in PYTHONS:
        found = '.'.join(str(part) for part in version[:3])
        raise SetupError(
            f"upstream's torch needs Python 3.10 or 3.11, but this is Python {found}; "
            'name another one, as in `make test-upstream PYTHON=python3.11`.'
        )


def packages_of_tests():
    """What the tests need, as pip takes it."""
    lines = checks.read_requirements('test').splitlines()
    packages = [each for each in lines if each[:1].isalpha()]
    kept = [each for each in packages if not each.startswith(TOO_NEW)]
    return [*kept, 'transformers']


def plan(env):
    """The steps, in order, that set up the environment."""
    versions = CONSTRAINTS.read_text()
    steps = [Step('venv', f'virtual environment in {env.folder}', [], env.create)]
    tests = ('test', 'packages that the tests need', ' '.join(packages_of_tests()), '')
    for name, title, packages, works in [*PACKAGES, tests]:
        wanted = ['-c', str(CONSTRAINTS), *packages.split()]
        action = partial(env.install, name, wanted, works)
        steps.append(Step(name, title, [versions, packages], action))
    project = ('project', 'this checkout, editable')
    inputs = [str(ROOT), (ROOT / 'setup.py').read_text()]
    steps.append(Step(*project, inputs, env.install_project))
    return steps


def set_up(folder):
    """Does what is left to do in the environment; returns it."""
    env = Environment(folder)
    env.lock()
    left = [step for step in plan(env) if not env.done(step)]
    if any(step.name == 'mmcv' for step in left):
        checks.check_compiler()
    env.take(left)
    return env


def main():
    """Sets up the environment and runs pytest in it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default='.venv-upstream', help='folder of its own')
    options, arguments = parser.parse_known_args()
    # The tests are the CPU's: no CUDA operators are compiled.
    os.environ['CUDA_VISIBLE_DEVICES'] = ''

    def action():
        check_python(sys.version_info)
        env = set_up(options.venv)
        left_out = [
            f'--deselect={name}' if '::' in name else f'--ignore={name}'
            for name in DESELECTED
        ]
        chosen = left_out + arguments + TESTS
        return subprocess.call(
            [str(env.python), '-m', 'pytest', *chosen], cwd=str(ROOT)
        )

    return status_of(action)


if __name__ == '__main__':
    sys.exit(main())
