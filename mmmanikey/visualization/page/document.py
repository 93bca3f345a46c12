"""The page as one text: style, scripts, pictures and data in one file."""

import base64
import io
import json
from importlib.resources import files

import matplotlib
import numpy as np
from PIL import Image

from .packing import packed

ASSETS = files(__package__) / 'assets'
SCRIPTS = ('numbers.js', 'lookup.js', 'draw.js', 'panels.js', 'main.js')
TABLES = ('inferno', 'RdBu_r', 'viridis')
LONGEST_SIDE = 1000  # pixels of the image inside the page


def colour_table(name: str) -> dict:
    """256 colours of matplotlib's."""
    table = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return packed(np.rint(table * 255).astype(np.uint8))


def data_url(image: np.ndarray) -> str:
    """An image inside the page: small ones exactly, large ones smaller, as JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    small = max(picture.size) <= LONGEST_SIDE // 4
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    kind, options = ('png', {}) if small else ('jpeg', dict(quality=88))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def assemble(data: dict) -> str:
    """The page with its style, its scripts and its data in it."""
    page = (ASSETS / 'page.html').read_text(encoding='utf-8')
    scripts = '\n'.join((ASSETS / name).read_text(encoding='utf-8') for name in SCRIPTS)
    text = json.dumps(data, separators=(',', ':')).replace('<', '\\u003c')
    for name, content in (
        ('STYLE', (ASSETS / 'style.css').read_text(encoding='utf-8')),
        ('SCRIPT', scripts),
        ('DATA', text),
    ):
        page = page.replace(f'%{name}%', content)
    return page
