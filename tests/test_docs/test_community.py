"""Files for GitHub, Docker and citation: they can be read, and say what is true."""

import re
import subprocess

import pytest
import torch
import yaml
from pages import ROOT

YAML = sorted((ROOT / '.github').rglob('*.yml'))
WORKFLOW = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
#: Those of https://docs.docker.com/reference/dockerfile that make sense here.
INSTRUCTIONS = {'ARG', 'CMD', 'COPY', 'ENV', 'FROM', 'RUN', 'WORKDIR'}


def test_workflow_runs_what_ci_run_runs():
    (job,) = WORKFLOW['jobs'].values()
    commands = [step['run'] for step in job['steps'] if 'run' in step]
    assert commands[-1] == '.ci/run'
    # The environments that .ci/run keeps, told apart by what it tells them apart by.
    (cache,) = (s['with'] for s in job['steps'] if 'cache' in s.get('uses', ''))
    script = (ROOT / '.ci/run').read_text()
    assert '$HOME/.cache}/mmmanikey' in script
    assert cache['path'] == '~/.cache/mmmanikey'
    for name in ('requirements/*.txt', 'tools/setup_env.py'):
        assert name in script
        assert f"'{name}'" in cache['key']
    (docs,) = (s['with'] for s in job['steps'] if 'upload' in s.get('uses', ''))
    assert f'docs {docs["path"]}' in (ROOT / 'Makefile').read_text()


def test_ci_run_checks_style_tests_and_documentation():
    subprocess.run(['bash', '-n', ROOT / '.ci/run'], check=True)
    script = (ROOT / '.ci/run').read_text()
    assert re.findall(r'^make (\w+)', script, re.MULTILINE) == ['lint', 'test', 'docs']


@pytest.mark.parametrize('path', YAML, ids=lambda path: path.name)
def test_yaml_is_read(path):
    content = yaml.safe_load(path.read_text())
    if path.parent.name != 'ISSUE_TEMPLATE' or path.name == 'config.yml':
        return
    # What GitHub's issue forms ask for.
    assert content['name']
    assert content['description']
    for field in content['body']:
        assert field['type'] in ('markdown', 'textarea')
        needed = 'value' if field['type'] == 'markdown' else 'label'
        assert field['attributes'][needed]


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(name):
    """Those to files of the repository; Sphinx checks the documentation's own."""
    for link in re.findall(r'\]\(([^)]+)\)', (ROOT / name).read_text()):
        if '://' in link:
            continue
        path, _, anchor = link.partition('#')
        assert (ROOT / path).is_file(), link
        if not anchor:
            continue
        headings = re.findall(r'^#+ (.+)$', (ROOT / path).read_text(), re.MULTILINE)
        slugs = [re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in headings]
        assert anchor in slugs, link


def docker_instructions():
    """(instruction, arguments), continued lines joined and comments left out."""
    text = (ROOT / 'Dockerfile').read_text()
    text = re.sub(r'^\s*#.*\n', '', text, flags=re.MULTILINE).replace('\\\n', ' ')
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert all(len(line) == 2 for line in lines), lines
    return lines


def test_dockerfile():
    instructions = docker_instructions()
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    name, image = instructions[0]
    assert (name, image.split(':')[0]) == ('FROM', 'nvidia/cuda')
    assert '-devel-' in image  # nvcc
    for name, arguments in instructions:
        if name == 'RUN':
            subprocess.run(['bash', '-n', '-c', arguments], check=True)
    runs = ' '.join(arguments for name, arguments in instructions if name == 'RUN')
    assert 'FORCE_CUDA=1 make setup' in runs
    # nvcc must be of torch's major version; torch without CUDA does not tell its own.
    if torch.version.cuda:
        major = torch.version.cuda.split('.')[0]
        assert image.startswith(f'nvidia/cuda:{major}.')


def test_citation():
    content = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= content.keys()
    assert content['authors'] == [{'name': 'mmmanikey developers'}]
    (paper,) = content['references']
    bibtex = (ROOT / 'README.md').read_text()
    assert f'{{{paper["title"]}}}' in bibtex
    names = [f'{a["family-names"]}, {a["given-names"]}' for a in paper['authors']]
    assert ' and '.join(names) in bibtex
    assert f'{{{paper["journal"]}}}' in bibtex
    assert f'{{{paper["year"]}}}' in bibtex
