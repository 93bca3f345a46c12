"""The tables of the model zoo: every config, and no result that nobody measured."""

import importlib.util

import pages
import yaml
import zoo

# Not on the path: tests/zoo.py has the same name.
SPEC = importlib.util.spec_from_file_location('zoo_page', pages.ROOT / 'docs/zoo.py')
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)
EVERY = [*zoo.ALL, *zoo.TWO_LINES]


def test_every_config_has_a_row():
    rows = [line for line in page.tables().splitlines() if line.startswith('| `')]
    listed = [row.split('`')[1] for row in rows]
    assert sorted(listed) == sorted(f'configs/{name}.py' for name in EVERY)


def test_results_are_those_of_the_metafile(tmp_path):
    def model(name, **more):
        metadata = {'Training Data': 'COCO', 'Parameters': 27_520_000}
        metadata |= {'FLOPs': 4_490_000_000, 'FLOPs of': 'backbone at 8x8'}
        return {
            'Name': name,
            'In Collection': 'Some',
            'Config': f'configs/{name}.py',
            'Metadata': metadata,
            **more,
        }

    run = dict(Task='Detection', Dataset='COCO', Metrics={'box AP': 12.5})
    models = [model('a'), model('b', Results=[run])]
    content = dict(Collections=[dict(Name='Some')], Models=models)
    (tmp_path / 'metafile.yml').write_text(yaml.safe_dump(content))
    (tmp_path / 'model-index.yml').write_text('Import: [metafile.yml]')
    first, second = page.tables(tmp_path).splitlines()[-2:]
    figures = '| COCO | 27.52 M | 4.49 G | backbone at 8x8 |'
    assert first == f'| `configs/a.py` {figures} not run yet |'
    assert second == f'| `configs/b.py` {figures} Detection box AP 12.5 |'


def test_page_has_the_place():
    assert page.PLACE in (pages.ROOT / 'docs/model_zoo.md').read_text()
