"""The page's table is what is found of the families."""

import json

import family_table as table
import pytest
from families import FAMILIES

ROWS = {
    (row['library'], row['family']): row for row in json.loads(table.FOUND.read_text())
}


def test_every_family_has_a_row():
    assert list(ROWS) == [(family.library, family.name) for family in FAMILIES]


@pytest.mark.parametrize(
    'family', FAMILIES, ids=lambda family: f'{family.library}-{family.name}'
)
def test_the_row_is_true(family):
    assert table.find(family) == ROWS[family.library, family.name]
    assert (ROWS[family.library, family.name]['result'] == 'taken') == (
        not family.remedy
    )


def test_the_page_shows_it():
    page = table.FOUND.with_suffix('.md').read_text()
    assert page.count(table.PLACE) == 1
    shown = table.tables().splitlines()
    assert len(shown) == len(FAMILIES) + 2
