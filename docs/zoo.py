"""The tables of the model zoo, from model-index.yml and the metafiles it names."""

from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PLACE = '<!-- tables -->'
NOT_RUN = 'not run yet'
HEAD = (
    '| config | data | parameters | MACs | of | results |',
    '|---|---|---:|---:|---|---|',
)


def metafiles(root: Path = ROOT) -> list[Path]:
    """The metafiles that the index names."""
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    return [root / name for name in index['Import']]


def results(model: dict) -> str:
    """What was measured, or that nothing was."""
    pairs = [
        f'{result["Task"]} {metric} {value}'
        for result in model.get('Results') or []
        for metric, value in result['Metrics'].items()
    ]
    return ', '.join(pairs) or NOT_RUN


def row(model: dict) -> str:
    """A model's row of its collection's table."""
    data = model['Metadata']
    cells = (
        f'`{model["Config"]}`',
        data['Training Data'],
        f'{data["Parameters"] / 1e6:.2f} M',
        f'{data["FLOPs"] / 1e9:.2f} G',
        data['FLOPs of'],
        results(model),
    )
    return f'| {" | ".join(cells)} |'


def sections(root: Path) -> Iterator[str]:
    """A heading and a table for each collection."""
    for path in metafiles(root):
        content = yaml.safe_load(path.read_text())
        for collection in content['Collections']:
            name = collection['Name']
            rows = [row(m) for m in content['Models'] if m['In Collection'] == name]
            yield '\n'.join([f'## {name}', '', *HEAD, *rows])


def tables(root: Path = ROOT) -> str:
    """All sections, as Markdown."""
    return '\n\n'.join(sections(root))
