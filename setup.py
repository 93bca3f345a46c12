"""Packaging of mmmanikey.

`mmmanikey/.mim/` (mim's convention) holds links to `configs/`, `tools/` and
`model-index.yml`: an editable install follows them, and a wheel holds copies.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """The version, read without importing the package."""
    text = (ROOT / 'mmmanikey' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text).group(1)


def read_requirements(name: str) -> list[str]:
    """The requirements in requirements/<name>.txt, `-r` lines followed."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    found = []
    for line in (line.strip() for line in lines):
        if line.startswith('-r '):
            found += read_requirements(line[3:].strip().removesuffix('.txt'))
        elif line and not line.startswith('#'):
            found.append(line)
    return found


readme = ROOT / 'README.md'
EXTRAS = ('mm', 'demo', 'deploy', 'test', 'docs', 'dev')
extras = {name: read_requirements(name) for name in EXTRAS}
extras['all'] = sorted({line for lines in extras.values() for line in lines})

setup(
    name='mmmanikey',
    version=read_version(),
    description='A manifold representation of the key in vision transformers',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='computer vision, vision transformer, attention, object detection',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires='>=3.10',
    install_requires=read_requirements('runtime'),
    extras_require=extras,
    packages=find_packages(include=['mmmanikey', 'mmmanikey.*']),
    package_data={
        'mmmanikey': ['.mim/model-index.yml', '.mim/**/*'],
        'mmmanikey.visualization.page': ['assets/*'],
    },
    exclude_package_data={'': ['*.py[cod]', '**/__pycache__/*']},
    include_package_data=False,
)
