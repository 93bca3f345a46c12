"""Breaks keys/, attention/ and forms/ in small ways, and sees whether tests notice.

    python tests/mutation/run.py [--count N] [--only PART] [--results FILE]

The mutations are those of mutmut (https://mutmut.readthedocs.io). Its own runner leaves
out functions with decorators, as all autograd functions and Triton kernels are, and
puts a call around the others that torch's compiler cannot see through. So mutants are
written to a copy of the working tree here, one at a time. Each is tested in a fork of a
process that has imported the frameworks, but nothing of mmmanikey.

Mutants come in an order drawn from a seed in which any beginning is a sample of all
files in proportion. Results are kept, a line of JSON for each mutant: the same command
goes on where it stopped, and what was kept must go before new tests are tried.
``README.md`` beside this file says what was found.
"""

import argparse
import difflib
import functools
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 0
PACKAGES = ('keys', 'attention', 'forms')
# Too heavy for every mutant: compilers, whole archs, and wide layers' random numbers.
LEFT_OUT = (
    'not compiles_without and not compilers and not inductor and '
    'not is_mmpretrains_vit and not ffn and '
    'not (matched_start and (256 or 384 or 512 or 768 or 1024)) and '
    'not pretraining_moves and not named_archs'
)
KEYS = ['test_forms/test_keys_in_pieces.py', 'test_keys/test_forms.py']
START = ['test_keys/test_start.py', 'test_keys/test_errors.py', 'test_attention']
VIT = ['test_backbones/test_vit.py']
MODES = ['test_backbones/test_modes.py']
LEAKS = ['test_forms/test_leaks.py', 'test_forms/test_hooks_and_changed_layers.py']
# In Triton's interpreter its tests take ten times as long: only if it is named.
TRITON = 'forms/triton_mixing.py'
TESTS = {
    'keys/activation.py': ['test_keys/test_errors.py', 'test_keys/test_start.py'],
    'keys/decay.py': ['test_engine/test_decay.py'],
    'keys/from_config.py': [
        'test_keys/test_errors.py',
        'test_keys/test_start.py',
        *KEYS,
    ],
    'keys/key.py': ['test_keys/test_errors.py', 'test_keys/test_start.py', *KEYS],
    'keys/spatial.py': [*KEYS, 'test_keys/test_resize.py', *START, *VIT, *MODES],
    'keys/windows.py': [
        'test_keys/test_windows.py',
        'test_keys/test_forms.py',
        'test_attention',
        *VIT,
        *MODES,
    ],
    'keys': [*KEYS, *START, *MODES],
    'forms/choice.py': ['test_forms/test_choice.py', *KEYS],
    'forms/rule.py': ['test_forms/test_rule.py', *LEAKS],
    'forms/crossovers.py': ['test_forms/test_crossovers.py'],
    'forms/gradients.py': [*KEYS, *LEAKS],
    'forms/exporting.py': [
        'test_keys/test_windows.py',
        'test_attention',
        'test_backbones/test_patches.py',
        *VIT,
        *MODES,
    ],
    'forms/linear.py': ['test_forms/test_linear.py'],
    'forms/triton_choice.py': [
        'test_forms/test_triton.py',
        'test_forms/test_triton_choice.py',
    ],
    TRITON: ['test_forms/test_triton.py'],
    'forms/fused_attention.py': [
        'test_attention/test_softmax.py',
        'test_attention/test_vit_attention.py',
    ],
    'forms/ffn.py': ['test_forms/test_ffn.py', *MODES],
    'forms/perceptron.py': ['test_forms/test_ffn.py', *KEYS],
    'forms/block.py': ['test_forms/test_swin_block.py'],
    'forms/norm.py': [
        'test_forms/test_triton_norm.py',
        'test_forms/test_swin_block.py',
    ],
    'forms/triton_': ['test_forms/test_triton_norm.py', 'test_forms/test_triton.py'],
    'forms/swin_block.py': [
        'test_forms/test_swin_block.py',
        'test_forms/test_swin_block_calls.py',
    ],
    'forms/fused_windows.py': [
        'test_forms/test_swin_block.py',
        'test_forms/test_gathered_windows.py',
    ],
    'forms/window': ['test_forms/test_gathered_windows.py', 'test_attention', *LEAKS],
    'forms': [*KEYS, *LEAKS],
    'attention/keyed.py': [
        'test_attention/test_keyed.py',
        'test_anywhere/test_token_grids.py',
        'test_anywhere/test_refusals.py',
        'test_anywhere/test_families.py',
    ],
    'attention/slot.py': [
        'test_attention',
        *VIT,
        'test_backbones/test_init.py',
        'test_backbones/test_arguments.py',
    ],
    'attention/swin.py': [
        'test_attention',
        'test_backbones/test_swin.py',
        'test_checkpoint/test_grids.py',
        *MODES,
        *LEAKS,
        'test_backbones/test_arguments.py',
    ],
    'attention/vit.py': [
        'test_attention/test_vit_attention.py',
        *VIT,
        *MODES,
        'test_backbones/test_arguments.py',
    ],
    'attention': [
        'test_attention',
        *MODES,
        *LEAKS,
        'test_backbones/test_arguments.py',
    ],
}
FRAMEWORKS = ('torch', 'mmpretrain', 'mmdet', 'mmseg', 'timm', 'pytest', 'hypothesis')
WALL_SECONDS = 900
MEMORY = 16 * 2**30


class FirstFailure:
    """A plugin for pytest that keeps the name of the first test that failed."""

    name = ''

    def pytest_sessionstart(self):
        from hypothesis import Phase, settings

        # looks for no simpler example once a test has failed
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile('mutants', settings(), phases=phases, max_examples=10)
        settings.load_profile('mutants')

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.name:
            self.name = f'{report.nodeid} (import)'


def mutants_of(path):
    """Functions that write a file anew, one for all that mutmut does in it.

    Left out are, as mutmut does, annotations and docstrings; and the words of errors.
    """
    import libcst
    from mutmut.mutation import file_mutation, mutators, pragma_handling

    class Visitor(file_mutation.MutationVisitor):
        def _skip_node_and_children(self, node):
            if isinstance(node, libcst.FunctionDef):
                return False  # mutmut skips those with decorators
            return super()._skip_node_and_children(node)

        def on_visit(self, node):
            if isinstance(node, libcst.Raise):
                self.words = {id(each) for each in strings(node)}
            return super().on_visit(node)

        def _should_mutate_node(self, node):
            return id(node) not in getattr(self, 'words', ())

    def strings(node):
        if isinstance(node, libcst.BaseString):
            yield node
        for child in node.children:
            yield from strings(child)

    source = path.read_text()
    wrapper = libcst.MetadataWrapper(libcst.parse_module(source))
    nothing = pragma_handling.IgnoredCode(set(), set(), set())
    visitor = Visitor(mutators.mutation_operators, nothing)
    module = wrapper.visit(visitor)
    return [
        functools.partial(render, module, each.original_node, each.mutated_node)
        for each in visitor.mutations
    ]


def render(module, old, new):
    return module.deep_replace(old, new).code


def diff(before, after):
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
    return '\n'.join(list(lines)[2:])


def all_mutants(only):
    """Dicts of file and code, a function, in the order in which to take them."""
    mutants = []
    package = ROOT / 'mmmanikey'
    for path in sorted(p for name in PACKAGES for p in (package / name).rglob('*.py')):
        name = path.relative_to(package).as_posix()
        if path.name == '__init__.py' or only not in name:
            continue
        if name == TRITON and not only:
            continue
        version = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        found = [
            dict(id=f'{name}:{i}:{version}', file=name, code=code)
            for i, code in enumerate(mutants_of(path))
        ]
        random.Random(f'{SEED} {name}').shuffle(found)
        for i, mutant in enumerate(found):
            mutant['place'] = (i + 0.5) / len(found)
        mutants += found
    return sorted(mutants, key=lambda mutant: (mutant['place'], mutant['file']))


def copy_tree(target):
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def tests_for(file):
    beginning = max((name for name in TESTS if file.startswith(name)), key=len)
    return [f'tests/{name}' for name in TESTS[beginning]]


def child(tree, file, cpu_seconds, out):
    """Run the tests, write their outcome, and end; never returns."""
    status = 70
    try:
        os.setsid()
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        limit = int(spent + cpu_seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        import pytest

        failure = FirstFailure()
        arguments = ['-x', '-q', '--tb=no', '-p', 'no:cacheprovider']
        arguments += ['-k', LEFT_OUT]
        code = pytest.main([*arguments, *tests_for(file)], plugins=[failure])
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - spent
        modules = [] if code else sorted(sys.modules)
        out.write_text(
            json.dumps(dict(by=failure.name, cpu=round(spent, 1), modules=modules))
        )
        status = int(code)
    finally:
        os._exit(status)


def run_tests(tree, file, cpu_seconds):
    """Exit status or 'timeout', and what the child wrote."""
    out = tree / 'outcome.json'
    out.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        child(tree, file, cpu_seconds, out)
    end = time.monotonic() + WALL_SECONDS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        code = 'timeout'
    return code, json.loads(out.read_text()) if out.exists() else {}


def warm_up(tree, files):
    """Test the unbroken code, and import here what it imports of others."""
    seconds = {}
    for file in sorted(files, key=tests_for):
        key = tuple(tests_for(file))
        if key in seconds:
            continue
        code, outcome = run_tests(tree, file, 600)
        if code:
            sys.exit(f'the tests of unbroken code fail: {code} {outcome.get("by")}')
        seconds[key] = outcome['cpu']
        print(f'{outcome["cpu"]:5.1f} s of CPU for {" ".join(key)}', flush=True)
        own = {path.stem for path in (tree / 'tests').rglob('*.py')}
        for name in outcome['modules']:
            if name.split('.')[0] in {'mmmanikey', '__main__', *own}:
                continue
            try:
                importlib.import_module(name)
            except Exception:
                continue
    return seconds


def report(results):
    """Mutants of each file and how many were killed, then the diffs of the others."""
    print(f'{"file":34} {"tested":>7} {"killed":>7} {"timeout":>7} {"survived":>8}')
    files = sorted({result['id'].split(':')[0] for result in results})
    for file in [*files, '']:
        codes = [r['code'] for r in results if r['id'].startswith(file)]
        killed, timeouts = sum(code != 0 for code in codes), codes.count('timeout')
        row = f'{file or "all":34} {len(codes):7} {killed:7} {timeouts:7}'
        print(f'{row} {len(codes) - killed:8}  {killed / len(codes):.1%}')
    for result in sorted(results, key=lambda result: result['id']):
        if result['code'] == 0:
            print(f'\n{result["id"]} {result["diff"]}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', type=int, help='mutants to take, all by default')
    parser.add_argument('--only', default='', help='part of a file name')
    parser.add_argument('--results', type=Path, default='work_dirs/mutation.jsonl')
    args = parser.parse_args()

    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.touch()
    known = [json.loads(line) for line in args.results.read_text().splitlines()]
    known = {result['id']: result for result in known}
    mutants = all_mutants(args.only)
    print(len(mutants), 'mutants')
    mutants = mutants[: args.count]
    remaining = [mutant for mutant in mutants if mutant['id'] not in known]
    print(len(mutants), 'in the sample,', len(remaining), 'to do', flush=True)

    for name in FRAMEWORKS:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder, args.results.open('a') as results:
        tree = Path(folder)
        copy_tree(tree)
        seconds = warm_up(tree, {mutant['file'] for mutant in remaining})
        sys.dont_write_bytecode = True
        gc.collect()
        gc.freeze()  # the collector would make each fork copy all that is here
        for mutant in remaining:
            target = tree / 'mmmanikey' / mutant['file']
            original, broken = target.read_text(), mutant['code']()
            if broken == original:
                continue
            for compiled in (target.parent / '__pycache__').glob(f'{target.stem}.*'):
                compiled.unlink()  # it may have the same time and size
            target.write_text(broken)
            limit = 3 * seconds[tuple(tests_for(mutant['file']))] + 10
            began = time.monotonic()
            code, outcome = run_tests(tree, mutant['file'], limit)
            target.write_text(original)
            result = dict(id=mutant['id'], diff=diff(original, broken), code=code)
            result |= dict(by=outcome.get('by'), cpu=outcome.get('cpu'))
            result['wall'] = round(time.monotonic() - began, 1)
            results.write(json.dumps(result) + '\n')
            results.flush()
            known[mutant['id']] = result
    report([known[mutant['id']] for mutant in mutants if mutant['id'] in known])


if __name__ == '__main__':
    # before numpy and torch: a fork must not inherit threads
    for name in ('OMP', 'OPENBLAS', 'MKL'):
        os.environ[f'{name}_NUM_THREADS'] = '1'
    main()
