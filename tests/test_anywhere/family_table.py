"""The table of ``docs/any_backbone.md``, from what was found of the families.

    python tests/test_anywhere/family_table.py

builds every family, inserts keys and writes ``docs/any_backbone.json``, which
``test_family_table.py`` compares with what it finds, and ``docs/conf.py`` shows.
"""

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FOUND = TESTS.parents[1] / 'docs/any_backbone.json'
PLACE = '<!-- families -->'
KEY = dict(type='VanillaK', num_charts=2, hidden_ratio=0.5, residual=True)


def find(family) -> dict:
    """What comes of a family as it is, and of its remedy."""
    import mmmanikey

    try:
        table = mmmanikey.insert_keys(
            family.model(as_it_is=True), KEY, example=family.example
        )
        result = 'taken'
    except ValueError as error:
        result = str(error)
        table = mmmanikey.insert_keys(
            family.model(), KEY, example=family.example, **family.around
        )
    return dict(
        library=family.library,
        family=family.name,
        result=result,
        remedy=family.remedy,
        keys=len(table),
        layer=table[0]['module'],
        layout=table[0]['layout'],
        wider=sum(len(set(row['channels'].split(' to '))) > 1 for row in table),
    )


def tables() -> str:
    """The findings in Markdown."""
    lines = [
        '| library | family | as it is | keys | first layer with a key |',
        '|---|---|---|---|---|',
    ]
    for row in json.loads(FOUND.read_text()):
        result = row['result']
        if result != 'taken':
            result = f'refused: “{result}”; taken with {row["remedy"]}'
        keys = f'{row["keys"]}'
        if row['wider']:
            keys += f', {row["wider"]} wider or narrower than their input'
        layer = f'`{row["layer"]}`, channels {row["layout"]}'
        cells = row['library'], row['family'], result, keys, layer
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from families import FAMILIES

    rows = [find(family) for family in FAMILIES]
    FOUND.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__':
    main()
