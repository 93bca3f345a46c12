"""tools/misc/make_pictures.py: small pictures that show something."""

from pathlib import Path

import numpy as np
import pytest
from explored import explore
from loading import load_tool
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools/misc/make_pictures.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def explored(tmp_path_factory):
    return explore(tmp_path_factory.mktemp('explored'))


def assert_picture(path):
    assert path.stat().st_size <= 300_000
    picture = Image.open(path)
    assert picture.width <= 1200
    assert picture.mode in ('RGB', 'RGBA')  # a palette draws colours that are in none
    assert np.asarray(picture.convert('L')).std() > 10


def test_attention_and_charts(tool, explored, tmp_path):
    image = explored.page.parent / 'data/val/1.jpg'
    tool.draw_side_by_side(explored.models, image, tmp_path / 'attention.png')
    tool.draw_key(explored.models[1], image, tmp_path / 'charts.png')
    for name in ('attention.png', 'charts.png'):
        assert_picture(tmp_path / name)


@pytest.mark.slow
def test_a_picture_of_the_page(tool, explored, tmp_path):
    if not tool.shutil.which('chromium'):
        pytest.skip('no Chromium: install it, as by `apt-get install chromium`')
    tool.photograph(explored.page, tmp_path / 'page.png')
    assert_picture(tmp_path / 'page.png')


def test_without_trainings(tool, run_tool, tmp_path):
    status, _, err = run_tool(tool, '--work', tmp_path, '--out', tmp_path)
    assert status == 2
    assert 'holds no training: run `make pictures`' in err
    assert not list(tmp_path.iterdir())
